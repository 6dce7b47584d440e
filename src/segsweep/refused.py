"""What Hydra refuses on a command line: a line for each mistake that says what, where and how to write it."""

import re
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segsweep import CONF_DIR
from segsweep.arguments import single_values
from segsweep.composer import VERSION_BASE, Composer
from segsweep.config import TOP_LEVEL
from segsweep.hints import did_you_mean

_EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}  # launchers of other packages


def all_mistakes(arguments: list[str]) -> list[str]:
    """Names every mistake of a command line that Hydra refuses; Hydra itself stops at the first.

    Overrides are composed one after another: one that fails is explained and left out, what remains is checked by
    value.
    """
    if any(argument.startswith(("--config", "-c")) and argument != "--cfg" for argument in arguments):
        return []  # another config folder: what is known here does not hold there
    GlobalHydra.instance().clear()
    is_sweep = bool({"-m", "--multirun"} & set(arguments))
    lines: list[str] = []
    accepted: list[str] = []
    has_wrong_plugin = False
    with initialize_config_dir(str(CONF_DIR), version_base=VERSION_BASE):
        composer, loader = Composer(), GlobalHydra.instance().config_loader()
        for argument in arguments:
            if argument.startswith("-"):
                continue
            if argument.startswith("hydra.") and has_wrong_plugin:
                continue  # its keys are not known
            try:
                values = single_values(argument, loader)
                if len(values) > 1 and (why := _needs_one(argument, is_sweep)):
                    lines.append(f"{argument}: {why}; a list is written key=[a,b]")
                for override in values:
                    composer.job([*accepted, override])
                accepted += values[:1]
            except (HydraException, OmegaConfBaseException) as error:
                lines.append(explain(argument, error, accepted))
                has_wrong_plugin |= argument.startswith("hydra/")
        if lines:
            from segsweep.check import mistakes

            job = composer.job(accepted)
            lines += mistakes(job.config, job.choices)
    return lines


def _needs_one(argument: str, is_sweep: bool) -> str:
    """Why an argument cannot have several values; empty if it can."""
    if argument.startswith("hydra."):
        return "jobs share the keys of hydra. Give one value"
    return "" if is_sweep else "several values need -m, for a sweep"


def explain(argument: str, error: Exception, accepted: list[str], config_name: str = "train") -> str:
    """Why Hydra refuses an override, in one line that says how to write it.

    Args:
        argument: the override.
        error: what Hydra raised.
        accepted: overrides that are fine, to say what else there is.
        config_name: of the file that is composed.
    """
    if isinstance(error, OverrideParseException) or type(error) is HydraException:  # the grammar raises either
        detail = str(error).splitlines()[0]
        if re.search(r"[{,]\s*[\"'][^\"']*[\"']\s*:", argument):
            keys = "write {60 16 152:road}; keys with other characters than letters, digits and spaces go into a file"
            return f"{argument}: no override. On the command line keys in braces have no quotes: {keys}"
        return f"{argument}: no override ({detail}). Write key=value, and quote values with special characters"
    if isinstance(error, MissingConfigException):
        option = (error.missing_cfg_file or argument).rpartition("/")[2]
        if option in _EXTRAS:
            return f'{argument}: needs a package that is not installed here: pip install "segsweep[{_EXTRAS[option]}]"'
        if error.options is not None:
            group = argument.partition("=")[0].lstrip("+")
            return f"{group}={option}: there is no such option. {did_you_mean(option, error.options)}"
    key = argument.partition("=")[0].lstrip("+~")
    parent, _, leaf = key.rpartition(".")
    cfg = compose(config_name, accepted, return_hydra_config=key.startswith("hydra."))
    node = OmegaConf.select(cfg, parent) if parent else dict.fromkeys([*TOP_LEVEL, "experiment"])
    if node is None:
        return f"{key}: unknown key. {_nearest_parent(parent, cfg)}"
    reason = str(error.__cause__ or error)
    inside = node.get(leaf) if OmegaConf.is_dict(node) else None
    if isinstance(inside, DictConfig) and (unknown := re.search(r"Key '(.*)' is not in struct", reason)):
        hint = did_you_mean(unknown[1], map(str, inside))
        new = "" if hint.startswith("Did") else f", or write ++{key}.{unknown[1]}=... for a new one"
        return f"{key}.{unknown[1]}: unknown key. {hint}{new}"
    if leaf in node:
        return f"{argument}: {reason.splitlines()[0]}"
    known = [f"{parent}.{name}" if parent else str(name) for name in node]
    return f"{key}: unknown key. {did_you_mean(key, known)}"


def in_a_line(error: Exception) -> str:
    """What a library says, behind the key that it says it of."""
    key, first = getattr(error, "full_key", None), str(error).splitlines()[0]
    return f"{key}: {first}" if key else first


def _nearest_parent(path: str, cfg: DictConfig) -> str:
    """Advice about the first part of a path that does not exist."""
    node: Any = cfg
    above: list[str] = []
    for part in path.split("."):
        if not (OmegaConf.is_dict(node) and part in node):
            break
        node, above = node[part], [*above, part]
    known = [".".join([*above, str(name)]) for name in node] if OmegaConf.is_dict(node) else [".".join(above)]
    return did_you_mean(".".join(path.split(".")[: len(above) + 1]), known)
