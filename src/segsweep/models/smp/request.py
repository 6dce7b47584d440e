"""What is asked of the library, held against what it and timm have: names, arguments and pretrained weights."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

# Arguments of the library's classes that have an owner here, or would change what a segmenter returns.
_TAKEN = {
    "encoder_name",
    "encoder_weights",
    "in_channels",
    "classes",
    "activation",
    "upsampling",
    "aux_params",
    "kwargs",
}
_TIMM = "tu-"  # how the library marks an encoder that timm makes
_PROBE_S = 10.0  # seconds that a hub may take to answer


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ImportError(
            f"this model needs segmentation-models-pytorch, which cannot be imported ({error}). "
            f'Install it: pip install "segmentation-models-pytorch>=0.6"'
        ) from error
    return segmentation_models_pytorch


def find_class(arch: str) -> Any:
    """The library's class of this name, whatever its case.

    Raises:
        ImportError: the library is not installed.
        ValueError: there is no such class.
    """
    classes = {c.__name__.lower(): c for c in _library().MODEL_ARCHITECTURES_MAPPING.values()}
    if arch.lower() not in classes:
        names = {name: c.__name__ for name, c in classes.items()}
        near = [names[name] for name in difflib.get_close_matches(arch.lower(), names, n=3, cutoff=0.5)]
        raise ValueError(f"arch={arch}: there is no such architecture. {_nearest(near, names.values())}")
    return classes[arch.lower()]


def check_encoder(name: str) -> None:
    """Looks for it in the library, and in timm if it says so.

    Raises:
        ValueError: there is no such encoder.
    """
    known = _library().encoders.get_encoder_names()
    if name in known:
        return
    import timm

    bare = name.removeprefix(_TIMM)
    networks = timm.list_models()
    if bare.partition(".")[0] in networks and name.startswith(_TIMM):
        return
    near = [f"{_TIMM}{bare}"] if bare in networks else []
    near += difflib.get_close_matches(name, [*known, *(_TIMM + network for network in networks)], n=3)
    raise ValueError(
        f"encoder_name={name}: there is no such encoder. {_nearest(near, ['tu-<any network of timm>', *known])}"
    )


def options_for(make: Any, encoder_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options, held against the signature of the class; what it does not know goes to timm if that is asked.

    Raises:
        ValueError: there is no such option, or it is set here.
    """
    known = [name for name in inspect.signature(make).parameters if name not in _TAKEN]
    for name in options:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name in known or (encoder_name.startswith(_TIMM) and name not in _TAKEN and not near):
            continue
        owner = (
            f"options={name} is set by segsweep itself"
            if name in _TAKEN
            else f"options={name}: no argument of {make.__name__}"
        )
        raise ValueError(f"{owner}. {_nearest(difflib.get_close_matches(name, known, n=3), known)}")
    if make.__name__ == "DPT":
        return {"dynamic_img_size": True, **options}  # its encoders otherwise take one size only
    return options


def _nearest(near: Iterable[str], known: Iterable[str]) -> str:
    names, known = " or ".join(dict.fromkeys(near)), list(known)
    more = f" and {len(known) - 16} more" if len(known) > 16 else ""
    return f"Did you mean {names}?" if names else f"There is: {', '.join(known[:16])}{more}"


def weights_for(encoder_name: str, weights: str | None) -> str | bool | None:
    """What the library takes for these pretrained weights: its own by their name, timm's by True.

    They are looked for in the cache and on the hub, without the library's half minute of retries.

    Raises:
        ValueError: there are none of this name, or they cannot be had.
    """
    if weights is None:
        return None
    if encoder_name.startswith(_TIMM):
        import timm

        network, _, tag = encoder_name.removeprefix(_TIMM).partition(".")
        tagged = [name.partition(".")[2] for name in timm.list_pretrained(network)]
        if not tagged or (tag and tag not in tagged):
            there = f"There is: {', '.join(f'{_TIMM}{network}.{t}' for t in tagged)}" if tagged else "Use null"
            raise ValueError(f"encoder_weights={weights}: timm has no weights for {encoder_name}. {there}")
        cfg = timm.get_pretrained_cfg(encoder_name.removeprefix(_TIMM))
        if cfg.hf_hub_id:
            _check_hub(cfg.hf_hub_id, [cfg.hf_hub_filename or "model.safetensors"], None, weights)
        return True
    settings = _library().encoders.encoders[encoder_name]["pretrained_settings"]
    if weights not in settings:
        raise ValueError(
            f"encoder_weights={weights}: {encoder_name} has no such weights. There is: {', '.join([*settings, 'null'])}"
        )
    found = settings[weights]
    _check_hub(found["repo_id"], ["config.json", "model.safetensors"], found["revision"], weights)
    return weights


def _check_hub(repo: str, files: list[str], revision: str | None, weights: str) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    for file in files:
        if isinstance(try_to_load_from_cache(repo, file, constants.HF_HUB_CACHE, revision), str):
            continue
        try:
            get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=_PROBE_S)
        except Exception as error:  # whatever the network, its proxies and the hub may say
            pinned = f" --revision {revision}" if revision else ""
            raise ValueError(
                f"encoder_weights={weights}: {repo} is not in the cache {constants.HF_HUB_CACHE} and cannot be fetched "
                f"({type(error).__name__}). Where there is a network run 'hf download {repo}{pinned}' and copy its "
                f"folder models--{repo.replace('/', '--')} into that cache (HF_HUB_CACHE sets another), or use "
                f"model.encoder_weights=null"
            ) from error
