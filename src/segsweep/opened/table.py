"""Which classes a run folder may name: exact names, in code, out of reach of any config.

A block-list would not do: Hydra's lets ``numpy.load`` with ``allow_pickle`` pass, which runs what a file says.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from segsweep.hints import did_you_mean
from segsweep.report.printable import printable
from segsweep.run import ConfigError

_MODULES = {
    "segsweep.models.conv_autoencoder": ("ConvAutoencoder",),
    "segsweep.models.dense_autoencoder": ("DenseAutoencoder",),
    "segsweep.models.dense_cnn": ("DenseCNN",),
    "segsweep.models.fc_densenet": ("FCDenseNet",),
    "segsweep.models.fcn": ("FCN",),
    "segsweep.models.gated_sweep": ("GatedSweepNet",),
    "segsweep.models.region_rnn": ("RegionRNN",),
    "segsweep.models.renet": ("ReNet",),
    "segsweep.models.reseg": ("ReSeg", "ReSegVGG"),
    "segsweep.models.segment_latent": ("SegmentLatent",),
    "segsweep.models.segnet_basic": ("SegNetBasic",),
    "segsweep.models.smp": ("SMP",),
    "segsweep.models.unet": ("UNet",),
    "segsweep.models.vae": ("VAE",),
    "segsweep.models.wnet": ("WNet",),
}
MODELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {f"{module}.{name}": (module, name) for module, names in _MODULES.items() for name in names}
)
SOURCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "segsweep.data.digits.Digits": ("segsweep.data.digits", "Digits"),
        "segsweep.data.far_cue.FarCue": ("segsweep.data.far_cue", "FarCue"),
        "segsweep.data.folder.Folder": ("segsweep.data.folder", "Folder"),
        "segsweep.data.idx.Idx": ("segsweep.data.idx", "Idx"),
    }
)
_FACTS = {"_target_", "family"}  # of a model's node, no arguments
_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,100}")  # no path, no address, no hub's "owner/name" and no "scheme:"
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+", re.ASCII)  # package.Class
_MOST_NUMBER = 1 << 14  # channels, layers, pixels: more would only take memory or time
_MOST_VALUES = 1000


def build_model(node: Mapping[str, Any], trust: Sequence[str], shown: str) -> nn.Module:
    """Builds a model from a node that a stranger may have written.

    Args:
        node: ``_target_``, ``family`` and arguments. Names of pretrained weights are ignored: the run has its own.
        trust: names of classes outside the table that the user has typed.
        shown: where the node stands, for messages.

    Raises:
        ConfigError: the class is not in the table and not trusted, an argument is more than numbers, words and lists
            of them, or the class refuses the arguments.
    """
    make = _find(node.get("_target_"), trust, shown)
    given = {key: None if key.endswith("weights") else value for key, value in node.items() if key not in _FACTS}
    problems = [f"{shown}: {line}" for key, value in given.items() for line in _refused(printable(str(key)), value)]
    problems += [f"{shown}: {printable(key)!r} is no argument's name" for key in given if not key.isidentifier()]
    if problems or any(key.startswith("_") for key in given):
        raise ConfigError("\n".join(problems or [f"{shown}: arguments that begin with _ are never passed on"]))
    try:
        model = make(**given)
    except ImportError as error:  # the library behind the door is not installed
        raise ConfigError(f"{shown}: {error}") from None
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError, AttributeError) as error:
        raise ConfigError(f"{shown}: the model cannot be built: {printable(str(error))}") from None
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{shown}: {printable(str(node['_target_']))} is no torch.nn.Module")
    return model


def _find(target: Any, trust: Sequence[str], shown: str) -> Any:
    if isinstance(target, str) and target in MODELS:
        module, name = MODELS[target]
    elif isinstance(target, str) and target in trust and _CLASS.fullmatch(target):
        module, _, name = target.rpartition(".")
    else:
        seen = printable(str(target))[:200]
        # A stranger's text is proposed to be typed only if it is nothing but a name.
        unused = f" ({did_you_mean(seen, trust)})" if trust else ""
        hint = f" If you know this class and trust it, add: --trust {seen}{unused}" if _CLASS.fullmatch(seen) else ""
        raise ConfigError(
            f"{shown}: _target_={seen} is not one of segsweep's own models, and opening a run executes nothing from it."
            f"{hint}"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{shown}: {target} cannot be imported: {error}") from None


def _refused(path: str, value: Any) -> Iterator[str]:
    """Why a value is not passed on, a line each."""
    if isinstance(value, dict):
        if bad := [key for key in value if not isinstance(key, str) or key.startswith("_") or not key.isidentifier()]:
            yield f"{path}: the key {printable(str(bad[0]))[:100]!r} is never passed on: arguments hold plain values"
        for key, child in value.items():
            yield from _refused(f"{path}.{printable(str(key))[:100]}", child)
    elif isinstance(value, list):
        if len(value) > _MOST_VALUES:
            yield f"{path} has {len(value):,} values; more than {_MOST_VALUES} are no argument of a model"
        for child in value[:_MOST_VALUES]:
            yield from _refused(path, child)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            yield f"{path}={printable(value)[:100]!r} is no plain word: paths and addresses are never passed on"
    elif not isinstance(value, bool | None) and not abs(value) <= _MOST_NUMBER:
        yield f"{path}={value:g} is beyond {_MOST_NUMBER:,}, which no argument of a model is"
