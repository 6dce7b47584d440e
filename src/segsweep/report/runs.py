"""Groups the records of runs into configurations, and those into comparisons."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from segsweep.report.records import Record
from segsweep.run import flatten

RANK_BY = "test/miou"

# Differences in these say nothing about a configuration: they are the seed, or derived from another key.
_NOT_IN_NAMES = ("seed",)
_ABSENT = "<no such key>"
# Of the data; the fingerprint is of its decoded content, but two ways to split or size it may share that.
_DATA = ("split_sizes", "class_names", "size")


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but the seed.

    Attributes:
        name: what sets it apart from the others, e.g. ``model=unet``.
        runs: its records, by seed; each carries its folder under ``folder``.
    """

    name: str
    runs: list[Record]

    @property
    def completed(self) -> list[Record]:
        """The runs that count: one for each seed, since a repetition of the same run adds no knowledge."""
        return list({run["seed"]: run for run in self.runs if run["status"] == "completed"}.values())

    def values(self, key: str) -> list[float]:
        """One value for each completed run that has it; ``a/b`` names are metrics, dotted ones lead into the record."""
        found = (run["metrics"].get(key) if "/" in key else dig(run, key) for run in self.completed)
        return [value for value in found if value is not None]

    def average(self, key: str) -> float | None:
        """Mean over the completed runs, None without any."""
        values = self.values(key)
        return mean(values) if values else None

    def deviation(self, key: str) -> float | None:
        """Sample standard deviation over seeds, None below two runs."""
        values = self.values(key)
        return stdev(values) if len(values) > 1 else None

    @property
    def state(self) -> str:
        """``completed``, or what became of the other runs: ``1 failed (oom)``."""
        states = [run_state(run) for run in self.runs if run["status"] != "completed"]
        repeated = sum(run["status"] == "completed" for run in self.runs) - len(self.completed)
        found = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        return ", ".join(found + ([f"{repeated} repeated"] if repeated else [])) or "completed"


@dataclass(frozen=True)
class Comparison:
    """Configurations that may be ranked together: same data, same metric definition, same test images.

    Attributes:
        data: facts of the data, as the records hold them; None for runs that stopped before they read it.
        floors: scores that need no image.
        configurations: best first, those without a completed run last.
    """

    data: Record | None
    floors: dict[str, dict[str, float]]
    configurations: list[Configuration]

    @property
    def runs(self) -> list[Record]:
        """All records, by configuration."""
        return [run for row in self.configurations for run in row.runs]

    @property
    def name(self) -> str:
        """The option of the data group that was chosen."""
        return str(self.runs[0]["choices"].get("data", "data"))

    @property
    def title(self) -> str:
        """The data in one line: sizes of the splits, of the images, classes, what is labelled and what was tested."""
        if self.data is None:
            return "Runs that stopped before they read their data"
        sizes = ", ".join(f"{num:,} {split}" for split, num in self.data["split_sizes"].items())
        fractions = sorted({run["data"]["labelled_fraction"] for run in self.runs if run.get("data")})
        labelled = " to ".join(f"{fraction * 100:.3g}%" for fraction in dict.fromkeys((fractions[0], fractions[-1])))
        height, width = self.data["size"]
        num_tested = self.runs[0].get("images_tested")
        all_tested = num_tested in (None, self.data["split_sizes"]["test"])
        return (
            f"{self.name}: {sizes} images of {height}x{width} pixels, {len(self.data['class_names'])} classes"
            + ("" if fractions == [1] else f", {labelled} labelled")
            + ("" if all_tested else f", scored on {num_tested} test images only")
        )


def run_state(run: Record) -> str:
    """``running``, ``failed (oom)``."""
    kind = (run.get("error") or {}).get("class")
    return f"{run['status']} ({kind})" if kind else str(run["status"])


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Sorts records into comparisons and ranks the configurations of each by their mean test mIoU, highest first."""
    comparable: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        data = record.get("data") or {}
        facts = json.dumps([data.get(key) for key in _DATA])
        comparable[(data.get("fingerprint"), facts, record.get("metric_version"), _limited_test(record))].append(record)
    # Runs that stopped before they read their data belong to the table of their sweep if there is only one.
    known = [key for key in comparable if key[0] is not None]
    for key in [key for key in comparable if key[0] is None]:
        if len(known) == 1:
            comparable[known[0]] += comparable.pop(key)
    return [_comparison(group) for group in comparable.values()]


def group(records: Iterable[Record], besides: Iterable[str]) -> list[tuple[str, list[Record]]]:
    """Groups records that differ in nothing but the seed and some other keys.

    Args:
        records: on the same data.
        besides: dotted keys, the others in which the members of a group may differ.

    Returns:
        For each group the name of what sets it apart, and its records in the order given.
    """
    ignored = (*_NOT_IN_NAMES, *besides)
    same: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        flat = {key: value for key, value in flatten(record["config"]).items() if key not in ignored}
        same[json.dumps(flat, sort_keys=True)].append(record)
    groups = list(same.values())
    return list(zip(_names([runs[0] for runs in groups], ignored), groups, strict=True)) if groups else []


def _comparison(records: list[Record]) -> Comparison:
    same: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same[record["fingerprint_without_seed"]].append(record)
    names = _names([runs[0] for runs in same.values()])
    rows = [
        Configuration(name, sorted(runs, key=lambda run: (run["seed"], run["started"] or "")))
        for name, runs in zip(names, same.values(), strict=True)
    ]

    def rank(row: Configuration) -> float:
        score = row.average(RANK_BY)
        return float("inf") if score is None else -score

    first = next((record for record in records if record.get("data")), {})
    return Comparison(first.get("data"), first.get("floors", {}), sorted(rows, key=rank))


def _names(records: list[Record], ignored: Iterable[str] = _NOT_IN_NAMES) -> list[str]:
    """Names configurations by the group choices and keys in which they differ."""
    choices = [{k: v for k, v in r["choices"].items() if k != "experiment"} for r in records]
    differing = [k for k in choices[0] if len({c.get(k) for c in choices}) > 1]
    # A key below a group whose choice differs is explained by that choice, unless it was overridden by hand.
    flat = [flatten(r["config"]) for r in records]
    typed = [{o.partition("=")[0].lstrip("+") for o in r["overrides"]} for r in records]
    keys = sorted({k for f in flat for k in f})
    loose = [
        key
        for key in keys
        if key not in ignored
        and len({str(f.get(key)) for f in flat}) > 1
        and (key.split(".")[0] not in differing or any(key in t for t in typed))
    ]
    owned = _without_followers(loose, typed)
    names = []
    for choice, values in zip(choices, flat, strict=True):
        parts = [f"{k}={choice.get(k)}" for k in differing] + [f"{k}={values[k]}" for k in owned if k in values]
        names.append(" ".join(parts) or f"model={choice.get('model')}")
    return _told_apart(names, flat, ignored)


def _told_apart(names: list[str], flat: list[dict[str, Any]], ignored: Iterable[str]) -> list[str]:
    """Adds to equal names all keys in which their configs differ: what was typed did not tell them apart."""
    twins: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, f in zip(names, flat, strict=True):
        twins[name].append(f)
    result = []
    for name, f in zip(names, flat, strict=True):
        others = twins[name]
        keys = [k for k in sorted(f) if k not in ignored and len({str(o.get(k, _ABSENT)) for o in others}) > 1]
        result.append(" ".join([name, *(f"{key}={f[key]}" for key in keys)]))
    # Configs may still look alike: what differs is redacted.
    return [
        name if result.count(name) == 1 else f"{name} ({result[: i + 1].count(name)})" for i, name in enumerate(result)
    ]


def _limited_test(record: Record) -> int | None:
    """Number of test images if a run was scored on some of them only, as experiment=debug does."""
    tested, sizes = record.get("images_tested"), (record.get("data") or {}).get("split_sizes", {})
    return None if tested == sizes.get("test") else tested


def _without_followers(keys: list[str], typed: list[set[str]]) -> list[str]:
    """Leaves out keys that merely follow an overridden one by interpolation, if any was overridden."""
    by_hand = [key for key in keys if any(key in overrides for overrides in typed)]
    return by_hand or keys


def dig(record: Record, path: str) -> Any:
    """What a dotted path leads to in a record, None if nothing."""
    value: Any = record
    for part in path.split("."):
        value = (value or {}).get(part)
    return value
