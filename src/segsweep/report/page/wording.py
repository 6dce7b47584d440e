"""What the judgement says, as sentences."""

from typing import NamedTuple

from segsweep.report.intervals import Interval
from segsweep.report.judgement import Pair, Standing, Verdict
from segsweep.report.runs import Comparison, run_state

MINUS = "\N{MINUS SIGN}"


class Span(NamedTuple):
    """The ends of an interval, whichever way it was made."""

    mean: float
    low: float | None
    high: float | None


def turned(interval: Interval | Span) -> Span:
    """Second minus first instead of first minus second."""
    low, high = interval.low, interval.high
    return Span(-interval.mean, None if high is None else -high, None if low is None else -low)


def bounds(interval: Interval | Span | None, form: str = ".3f") -> str:
    """``0.812 [0.790, 0.834]``, or the mean alone where its spread is unknown."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return signed(interval.mean, form)
    return f"{signed(interval.mean, form)} [{signed(interval.low, form)}, {signed(interval.high, form)}]"


def signed(value: float, form: str) -> str:
    """A number with a minus that is as wide as a plus."""
    return format(value, form).replace("-", MINUS)


def deciding(pair: Pair) -> Interval | None:
    """The interval that the verdict rests on; the one of this pair alone where there is no wider one."""
    return pair.simultaneous or pair.difference


def pair_sentence(pair: Pair, first: str, second: str) -> str:
    """One pair in words, under the names by which the page calls them."""
    interval = deciding(pair)
    seeds = f"{pair.num_seeds} shared seed{'' if pair.num_seeds == 1 else 's'}"
    if interval is None:
        return f"{first} and {second} share no seed: run both with the same seeds to compare them"
    if pair.verdict in (Verdict.BETTER, Verdict.WORSE):
        by = bounds(interval) if pair.verdict is Verdict.BETTER else bounds(turned(interval))
        return f"{first} is {pair.verdict} than {second} by {by} ({seeds})"
    more = f"; about {pair.more_seeds} more may settle it" if pair.more_seeds else ""
    what = f"difference {bounds(interval, '+.3f')}, {seeds}{more}"
    if pair.verdict is Verdict.TOO_FEW_SEEDS:
        return f"too few seeds to tell {first} from {second} ({what})"
    return f"no evidence that {first} is better than {second} ({what})"


def lead_sentence(leader: Standing, label: str) -> str:
    """Who leads, and with what."""
    num, interval = leader.seeds.n, leader.both or leader.seeds
    shown = Span(leader.seeds.mean, interval.low, interval.high)
    return f"{label} leads with a test mIoU of {bounds(shown)} over {num} seed{'' if num == 1 else 's'}"


def field_sentence(pairs: list[Pair], leader: str) -> str:
    """How the leader stands against all others; nothing if there is only one other."""
    against = [pair for pair in pairs if pair.first == leader]
    if len(against) < 2:
        return ""
    better = sum(pair.verdict is Verdict.BETTER for pair in against)
    few = sum(pair.verdict is Verdict.TOO_FEW_SEEDS for pair in against)
    worse = sum(pair.verdict is Verdict.WORSE for pair in against)
    rest = len(against) - better - few - worse
    found = [f"better than {better}"] if better else []
    found += [f"worse than {worse} on the seeds that both have"] if worse else []
    found += [f"no evidence against {rest}"] if rest else []
    found += [f"too few seeds against {few}"] if few else []
    return f"Against all {len(against)} others: {', '.join(found)}."


def nothing_sentence(comparison: Comparison) -> str:
    """What became of runs none of which is completed."""
    states = [run_state(run) for run in comparison.runs]
    return "No run has finished yet: " + ", ".join(f"{states.count(each)} {each}" for each in sorted(set(states))) + "."
