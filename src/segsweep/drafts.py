"""The jobs of a grid as they are composed: overrides that a job has no key for are left out, equal jobs become one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segsweep.axes import Axis
from segsweep.composer import Composer, has_key
from segsweep.hints import did_you_mean
from segsweep.inspection import JobConfig, resolved
from segsweep.refused import explain
from segsweep.run import flatten

_ERRORS = (HydraException, OmegaConfBaseException)


@dataclass(frozen=True)
class Draft:
    """A job before it is checked: its overrides by key, and what they compose to."""

    overrides: dict[str, str]
    job: JobConfig


@dataclass
class Drafts:
    """What the rows of a grid compose to.

    Attributes:
        jobs: that can be composed, each once.
        lines: mistakes of the others.
        dropped: keys -> number of rows that have no such key.
        num_equal: rows that became equal to another by that.
    """

    jobs: list[Draft] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    num_equal: int = 0


def draft(axes: Sequence[Axis], rows: Sequence[Mapping[str, str]], composer: Composer) -> Drafts:
    """Composes every row of a grid.

    Args:
        axes: of the grid.
        rows: key -> override, for each job.
        composer: knows the config folder.
    """
    drafts = Drafts()
    parsed = {text: composer.parse(text) for axis in axes for text in axis.overrides}
    is_group = {axis.key: composer.is_group(parsed[axis.overrides[0]]) for axis in axes}
    lines: dict[str, None] = {}
    seen: set[tuple[str, ...]] = set()
    bases: dict[tuple[str, ...], DictConfig] = {}
    used: set[str] = set()
    for row in rows:
        groups = tuple(text for key, text in row.items() if is_group[key])
        try:
            bases[groups] = composer.base(groups).config
        except _ERRORS:
            lines |= dict.fromkeys(_wrong_groups(groups, composer))
            continue
        kept = {key: text for key, text in row.items() if is_group[key] or fits(parsed[text], bases[groups])}
        used |= set(kept)
        for key in row.keys() - kept.keys():
            drafts.dropped[key] = drafts.dropped.get(key, 0) + 1
        if tuple(kept.values()) in seen:
            drafts.num_equal += 1
            continue
        seen.add(tuple(kept.values()))
        values = [parsed[text] for key, text in kept.items() if not is_group[key]]
        try:
            composed = composer.compose(groups, values)
        except _ERRORS:
            lines |= dict.fromkeys(_wrong_values(groups, values, composer))
            continue
        config = OmegaConf.to_container(composed.config, resolve=False)
        job = JobConfig(config, resolved(composed.config), composed.choices)  # type: ignore[arg-type]
        drafts.jobs.append(Draft(kept, job))
    nowhere = [key for key in drafts.dropped if key not in used]
    drafts.lines = [*lines, *(_unknown(key, list(bases.values())) for key in nowhere)]
    return drafts


def fits(override: Override, config: DictConfig) -> bool:
    """Whether a config has the key of an override, or the override adds it."""
    return override.is_add() or override.is_force_add() or has_key(config, override.key_or_group)


def _unknown(key: str, bases: Sequence[DictConfig]) -> str:
    """The line about a key that no job has."""
    group = key.partition(".")[0]
    known = {str(name) for base in bases for name in base}
    if group != key and group in known:
        nodes: list[Any] = [OmegaConf.to_container(base[group], resolve=False) for base in bases if group in base]
        known = {f"{group}.{path}" for node in nodes if isinstance(node, dict) for path in flatten(node)}
    return f"{key}: unknown key. {did_you_mean(key, known)}"


def _wrong_groups(groups: Sequence[str], composer: Composer) -> list[str]:
    """Which of the choices cannot be composed, one by one; all of them, if each alone can."""
    lines = []
    for text in groups:
        try:
            composer.base([text])
        except _ERRORS as error:
            lines.append(explain(text, error, [], composer.config_name))
    return lines or [f"{' '.join(groups)}: these choices cannot be composed with each other"]


def _wrong_values(groups: Sequence[str], values: Sequence[Override], composer: Composer) -> list[str]:
    lines = []
    for value in values:
        try:
            composer.compose(groups, [value])
        except _ERRORS as error:
            lines.append(explain(str(value.input_line), error, list(groups), composer.config_name))
    return lines or [f"{' '.join(str(value.input_line) for value in values)}: these values contradict each other"]
