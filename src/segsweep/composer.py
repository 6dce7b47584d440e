"""Composes the jobs of a sweep: each distinct choice of groups once, then values one by one.

Hydra composes a config in 50 ms and more; putting values into a copy of one that is composed already takes a tenth.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from segsweep import CONF_DIR
from segsweep.config import job_part, overrides_of

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Composed:
    """A job's config without Hydra's own node, and the option of each group."""

    config: DictConfig
    choices: dict[str, str]


class Composer:
    """Composes overrides below a Hydra app or ``hydra.initialize``; remembers every choice of groups.

    Args:
        hydra_overrides: of Hydra's own node, for every job.
        config_name: of the file that is composed, as ``--config-name`` has it.
    """

    def __init__(self, hydra_overrides: Sequence[str] = (), config_name: str = "train") -> None:
        self._hydra_overrides, self.config_name = list(hydra_overrides), config_name
        self._parser = OverridesParser.create()
        self._bases: dict[tuple[str, ...], Composed] = {}

    @classmethod
    def of(cls, config: DictConfig) -> Self:
        """For the jobs of a sweep, from its composed config with Hydra's own node."""
        return cls(overrides_of(config, "hydra"), config.hydra.job.config_name)

    def parse(self, override: str) -> Override:
        """Reads one override in Hydra's grammar."""
        parsed = self._parser.parse_override(override)
        parsed.config_loader = GlobalHydra.instance().config_loader()  # glob(...) asks it for the options
        return parsed

    def is_group(self, override: Override) -> bool:
        """Whether the override chooses an option of a group, rather than a value."""
        loader: Any = GlobalHydra.instance().config_loader()
        return bool(loader.repository.group_exists(override.key_or_group))

    def base(self, groups: Sequence[str]) -> Composed:
        """What a choice of groups alone composes to.

        Raises:
            HydraException: there is no such option.
        """
        key = tuple(groups)
        if key not in self._bases:
            cfg = compose(self.config_name, [*self._hydra_overrides, *groups], return_hydra_config=True)
            config = job_part(cfg)
            self._bases[key] = Composed(config, {k: v for k, v in cfg.hydra.runtime.choices.items() if v is not None})
        return self._bases[key]

    def compose(self, groups: Sequence[str], values: Sequence[Override]) -> Composed:
        """The config of a choice of groups with these values.

        Raises:
            HydraException: a value does not fit.
        """
        base = self.base(groups)
        config = copy.deepcopy(base.config)
        OmegaConf.set_struct(config, True)  # as Hydra has it: only ``+key=`` adds one
        ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
        return Composed(config, base.choices)

    def job(self, overrides: Sequence[str]) -> Composed:
        """The config that overrides as they were typed compose to, each of which has a single value.

        Raises:
            HydraException: one is none, or does not fit.
        """
        groups, values = [], []
        for typed in overrides:
            override = self.parse(typed)
            # Of values only those of Hydra's own node are part of a base.
            if typed.startswith("hydra.") or self.is_group(override):
                groups.append(typed)
            else:
                values.append(override)
        return self.compose(groups, values)


def compose_job(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """Composes the config of one job outside Hydra's own app: the config and the option of each group."""
    with initialize_config_dir(str(CONF_DIR), version_base=VERSION_BASE):
        job = Composer().job(overrides)
    return job.config, job.choices


def has_key(config: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, whatever its value is."""
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if OmegaConf.is_list(node):
        return leaf.isdigit() and int(leaf) < len(node)
    return OmegaConf.is_dict(node) and leaf in map(str, node)  # `in node` denies keys that are still to be given
