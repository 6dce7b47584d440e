"""Which images are scored: a run's own, or those of data that the user names, read as the run reads images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segsweep import check, config
from segsweep.composer import compose_job
from segsweep.data.datamodule import DataModule
from segsweep.hints import written
from segsweep.opened import OpenedRun
from segsweep.opened.data import open_data
from segsweep.run import ConfigError


def images_of(run: OpenedRun, name: str | None, root: Path | None, settings: Sequence[str]) -> DataModule:
    """Builds the DataModule of the images to score.

    Args:
        run: that scores them; its size, ``fit``, channels and statistics are those that images are read with.
        name: option of the data group, None: the run's own data.
        root: folder of the images, for data that lies on disk.
        settings: overrides of the user, ``data.key=value``, for data that was named.

    Raises:
        ConfigError: an override is a mistake, or the run's own data cannot be opened; a line each.
    """
    if name is None:
        if settings:
            raise ConfigError("--set belongs to data that --data names; a run's own data are read as they were")
        return open_data(run, root)
    seen: dict[str, Any] = {
        "size": None if run.spec.size is None else list(run.spec.size),
        "fit": run.fit,
        "in_channels": run.spec.in_channels,
        "mean": list(run.spec.mean),
        "std": list(run.spec.std),
        "crop": None,
        "tile": None if run.spec.tile is None else list(run.spec.tile),
        "tile_overlap": run.spec.tile_overlap,
        "storage": "memory",
    }
    typed = [f"data.root={written(str(root))}"] if root else []
    read = [f"++data.{key}={written(value)}" for key, value in seen.items()]
    cfg, choices = compose_job([f"data={name}", "augment=none", "regime=supervised", *typed, *settings, *read])
    node = config.plain_group(cfg, "data")
    lines = [check.not_set(f"data.{key}") for key, value in node.items() if value == "???"]
    lines = lines or check.check_values({"data": node, "seed": cfg.seed}, choices)
    if lines:
        raise ConfigError("\n".join(lines))
    groups = {group: config.plain_group(cfg, group) for group in ("augment", "regime")}
    return config.build_data({"data": {**node, "allow_leak": True}, "seed": 0, **groups})


def about_data(data: DataModule, chosen: str | Mapping[str, Any], split: str) -> dict[str, Any]:
    """What the record says of the images, so that reports set beside each other what was scored on the same.

    Args:
        data: the images.
        chosen: option that the user named, or the record of the run whose own data they are.
        split: that is scored.

    Returns:
        ``name``, ``fingerprint``, ``split_sizes`` and ``size``.
    """
    if isinstance(chosen, str):
        name, size = chosen, data.spec.size
    else:
        choices, facts = (chosen.get(key) for key in ("choices", "data"))
        name = str(choices.get("data", "data")) if isinstance(choices, dict) else "data"
        size = facts.get("size") if isinstance(facts, dict) else data.spec.size
    sizes = {name: len(found.items) for name, found in data.store.splits.items()}
    about = {"name": name, "fingerprint": data.store.fingerprint, "split_sizes": sizes, "size": size}
    if split == "test":
        return about
    # Scores of another split are never ranked beside those of the test.
    num = sizes.get(split, sum(sizes.values()))
    changed = {"name": f"{name}:{split}", "fingerprint": f"{data.store.fingerprint}:{split}"}
    return {**about, **changed, "split_sizes": {"test": num}}
