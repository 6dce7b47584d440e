"""From a trial of the study to a job: asks for the keys that the chosen groups have, and composes them."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from segsweep.axes import Axis
from segsweep.composer import Composer
from segsweep.drafts import Draft, draft, fits
from segsweep.inspection import Verdict
from segsweep.run import ConfigError
from segsweep.search.space import Dimension, Space
from segsweep.sweep import Job
from segsweep.sweep.job import folder_name

_MOST_CHOICES = 64  # of groups, of which every combination is checked before the search begins


class Asks(Protocol):
    """Gives a dimension its value: a trial of the study, or a probe of the space."""

    def __call__(self, dimension: Dimension) -> object:
        """The value."""


class Proposals:
    """Composes points of a space; a key that the chosen options do not have is neither asked for nor applied.

    Args:
        space: of the search.
        composer: knows the config folder.
    """

    def __init__(self, space: Space, composer: Composer) -> None:
        self.space, self.composer = space, composer
        self.groups = [d for d in space.dimensions if self._is_group(d.override(d.ends()[0]))]
        self._fixed_groups = {key: text for key, text in space.fixed.items() if self._is_group(text)}

    def compose(self, ask: Asks, trial: int | None = None) -> Draft:
        """One point.

        Args:
            ask: gives each dimension its value, groups first.
            trial: number of the trial.

        Raises:
            ConfigError: the point cannot be composed.
        """
        row = {**self._fixed_groups, **{d.name: d.override(ask(d)) for d in self.groups}}
        base = self.composer.base(list(row.values())).config
        values = {key: text for key, text in self.space.fixed.items() if key not in row}
        row |= {key: text for key, text in values.items() if fits(self.composer.parse(text), base)}
        for dimension in self.space.dimensions:
            is_open = dimension not in self.groups
            if is_open and fits(self.composer.parse(dimension.override(dimension.ends()[0])), base):
                row[dimension.name] = dimension.override(ask(dimension))
        if trial is not None:
            row["sweep.trial"] = f"sweep.trial={trial}"
        return self._draft([row])[0]

    def probes(self) -> list[Draft]:
        """Points that together show every mistake that a single key can make: each choice, and each end of a range.

        Raises:
            ConfigError: the mistakes of keys and choices.
        """
        rows = []
        for groups in self._choices():
            others = [d for d in self.space.dimensions if d not in self.groups]
            number = max((len(d.ends()) for d in others), default=1)
            for i in range(number):
                values = {d.name: d.override(d.ends()[i % len(d.ends())]) for d in others}
                rows.append({**self.space.fixed, **groups, **values})
        return self._draft(rows)

    def _choices(self) -> Iterator[dict[str, str]]:
        """Combinations of groups: all, or if they are many, as many as show each option."""
        texts = [[d.override(choice) for choice in d.choices] for d in self.groups]
        if math.prod(map(len, texts)) <= _MOST_CHOICES:
            combinations = list(itertools.product(*texts))
        else:
            most = max(map(len, texts))
            combinations = [tuple(options[i % len(options)] for options in texts) for i in range(most)]
        for combination in combinations:
            yield dict(zip((d.name for d in self.groups), combination, strict=True))

    def _draft(self, rows: Sequence[Mapping[str, str]]) -> list[Draft]:
        overrides: dict[str, dict[str, None]] = {}
        for row in rows:
            for key, text in row.items():
                overrides.setdefault(key, {})[text] = None
        drafts = draft([Axis(key, tuple(texts)) for key, texts in overrides.items()], rows, self.composer)
        if drafts.lines:
            raise ConfigError("\n".join(drafts.lines))
        return drafts.jobs

    def _is_group(self, text: str) -> bool:
        return self.composer.is_group(self.composer.parse(text))


def make_job(one: Draft, verdict: Verdict, folder: Path, trial: int, params: Mapping[str, Any]) -> Job:
    """The job of a trial.

    Args:
        one: the point, composed.
        verdict: of its check.
        folder: of the search.
        trial: its number.
        params: what the search chose, for the name.
    """
    return Job(
        index=trial,
        folder=folder / trial_name(trial, params, verdict.fingerprint),
        overrides=tuple(one.overrides.values()),
        config=one.job.config,
        choices=one.job.choices,
        fingerprint=verdict.fingerprint,
        kind=verdict.kind,
        identity=verdict.config or {},
    )


def trial_name(trial: int, params: Mapping[str, Any], fingerprint: str) -> str:
    """``trial=3,optimizer.lr=0.00316,model=unet``: numbers short, odd characters as ``_``.

    >>> trial_name(3, {"optimizer.lr": 0.0031622776601, "model": "unet"}, "0123456789abcdef")
    'trial=3,optimizer.lr=0.00316,model=unet'
    """
    shown = (f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items())
    return folder_name([f"trial={trial}", *shown], fingerprint)
