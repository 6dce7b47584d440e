"""Configurations over several datasets: differences on each first, then mean ranks if there are datasets enough."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segsweep.report.intervals import Interval
from segsweep.report.judgement import Judgement, Pair
from segsweep.report.ranks import Ranks, rank
from segsweep.report.runs import Comparison, Configuration
from segsweep.report.signed_ranks import holm, signed_ranks
from segsweep.run import flatten

MIN_DATASETS = 6  # below, no rank test has a chance: Demsar 2006, JMLR 7
_OF_DATA = ("data", "experiment")  # groups whose choice differs from dataset to dataset

Key = tuple[tuple[str, str], ...]  # what makes a configuration the same on all datasets: (group or key, value)


@dataclass(frozen=True)
class Across:
    """Two configurations on the datasets that both were tested on.

    Attributes:
        first: name of the configuration with the better mean score.
        second: name of the other.
        differences: dataset -> first minus second there, with the interval of this pair alone; None without a shared
            seed.
        wilcoxon: p of the signed ranks over all (dataset, block) pairs after Holm's correction over all rows; printed,
            never decides. None if fewer than 6 blocks differ.
    """

    first: str
    second: str
    differences: dict[str, Interval | None]
    wilcoxon: float | None


@dataclass(frozen=True)
class Datasets:
    """What can be said over several datasets.

    Attributes:
        names: of the datasets, as in the keys below.
        scores: configuration -> dataset -> mean test mIoU over seeds; the best mean over datasets comes first.
        across: every two of them.
        ranks: None below 6 datasets.
        left_out: configurations that are not on every dataset, and datasets that were tested in part.
    """

    names: list[str]
    scores: dict[str, dict[str, float]]
    across: list[Across]
    ranks: Ranks | None
    left_out: list[str]


def over_datasets(comparisons: Sequence[Comparison], judgements: Sequence[Judgement]) -> Datasets | None:
    """Matches the configurations of comparisons and compares those that are on every dataset.

    Two configurations are the same if their group choices agree, but for ``data`` and ``experiment``, and their keys
    overridden by hand, but for ``data.*`` and ``seed``.

    Args:
        comparisons: of different data.
        judgements: of each of them.

    Returns:
        None if there are fewer than two datasets, or fewer than two configurations on all of them.
    """
    whole = [pair for pair in zip(comparisons, judgements, strict=True) if _is_whole(pair[0]) and pair[1].standings]
    names = _distinct([comparison.name for comparison, _ in whole])
    found: list[dict[Key, tuple[str, float]]] = []  # for each dataset: key -> name there, score
    left_out: list[str] = []
    for name, (_, judgement) in zip(names, whole, strict=True):
        own: dict[Key, list[tuple[str, float]]] = defaultdict(list)
        for standing in judgement.standings:
            own[_key(standing.configuration)].append((standing.configuration.name, standing.seeds.mean))
        found.append({key: values[0] for key, values in own.items() if len(values) == 1})
        left_out += [f"{one} on {name}: not told apart" for values in own.values() if len(values) > 1
                     for one, _ in values]  # fmt: skip
    shared = set.intersection(*(set(own) for own in found)) if found else set()
    if len(names) < 2 or len(shared) < 2:
        return None
    for name, there in zip(names, found, strict=True):
        left_out += [f"{text} on {name}: not on every dataset" for key, (text, _) in there.items() if key not in shared]
    titles = _titles(sorted(shared))
    order = sorted(titles, key=lambda key: (-mean(there[key][1] for there in found), titles[key]))
    by_name = dict(zip(names, found, strict=True))
    scores = {titles[key]: {name: there[key][1] for name, there in by_name.items()} for key in order}
    across = _across(order, titles, by_name, [judgement for _, judgement in whole])
    ranks = rank(scores) if len(names) >= MIN_DATASETS else None
    return Datasets(names, scores, across, ranks, left_out)


def _is_whole(comparison: Comparison) -> bool:
    """Whether its runs were tested on the whole split."""
    if comparison.data is None:
        return False
    tested = {run.get("images_tested") for run in comparison.runs if run["status"] == "completed"}
    return tested <= {None, comparison.data["split_sizes"]["test"]}


def _distinct(names: Sequence[str]) -> list[str]:
    """Numbers names that come up more than once."""
    total, seen = Counter(names), Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return result


def _key(configuration: Configuration) -> Key:
    run = configuration.completed[0]
    choices = {group: str(choice) for group, choice in run["choices"].items() if group not in _OF_DATA}
    flat = flatten(run["config"])
    typed: dict[str, Any] = {}
    for override in run["overrides"]:
        path = override.partition("=")[0].lstrip("+~")
        if path in run["choices"] or path == "seed" or path.startswith("data."):
            continue
        typed |= {key: value for key, value in flat.items() if key == path or key.startswith(f"{path}.")}
    return tuple(sorted((choices | {key: str(value) for key, value in typed.items()}).items()))


def _titles(keys: Sequence[Key]) -> dict[Key, str]:
    """Names configurations by that in which they differ."""
    found = {key: dict(key) for key in keys}
    differing = [k for k in sorted({k for each in found.values() for k in each})
                 if len({each.get(k) for each in found.values()}) > 1]  # fmt: skip
    return {key: " ".join(f"{k}={each[k]}" for k in differing if k in each) for key, each in found.items()}


def _across(
    order: Sequence[Key],
    titles: dict[Key, str],
    found: dict[str, dict[Key, tuple[str, float]]],
    judgements: Sequence[Judgement],
) -> list[Across]:
    """Every two configurations, in this order."""
    pairs = [{(pair.first, pair.second): pair for pair in judgement.pairs} for judgement in judgements]
    rows, p_values = [], []
    for first, second in combinations(order, 2):
        differences: dict[str, Interval | None] = {}
        blocks: list[NDArray[np.float64]] = []
        for (name, own), by_names in zip(found.items(), pairs, strict=True):
            pair, sign = _pair(by_names, own[first][0], own[second][0])
            differences[name] = _turned(pair.difference, sign)
            if pair.by_block is not None:
                blocks.append(sign * pair.by_block)
        p_values.append(signed_ranks(np.concatenate(blocks)[None])[0] if blocks else np.nan)
        rows.append((titles[first], titles[second], differences))
    corrected = holm(np.array(p_values)).tolist()
    return [Across(*row, None if p != p else p) for row, p in zip(rows, corrected, strict=True)]


def _pair(by_names: dict[tuple[str, str], Pair], first: str, second: str) -> tuple[Pair, int]:
    """A pair, and -1 if it stands the other way round."""
    turned = (first, second) not in by_names
    return (by_names[second, first], -1) if turned else (by_names[first, second], 1)


def _turned(interval: Interval | None, sign: int) -> Interval | None:
    if interval is None or sign == 1:
        return interval
    low, high = (None if end is None else -end for end in (interval.high, interval.low))
    return Interval(-interval.mean, low, high, interval.n)
