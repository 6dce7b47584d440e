"""What is wrong with a dataset, said so that its owner can mend it: code, file, finding, fix."""

import re
from collections.abc import Iterable

_LISTED = 10  # names in one line; the doctor's table holds them all
_PARTICULAR = re.compile(r" and \d+ more \w+|\(.*\)|\S*[\d/.]\S*")  # of a finding: remarks, numbers, file names
_VALUE = re.compile(r"=(\{[^}]*\}|\[[^]]*\]|\S+)")  # of an override that a fix proposes


class Problem(ValueError):  # noqa: N818  it is collected more often than raised
    """One thing that is wrong with one file.

    Args:
        code: its kind, e.g. ``E-LABEL``; ``docs/data.md`` lists them.
        where: the file, relative to ``data.root``, or a split.
        what: the finding, to be read after ``where``: ``is empty``.
        fix: what to do, a sentence.
    """

    def __init__(self, code: str, where: str, what: str, fix: str) -> None:
        self.code, self.where, self.what, self.fix = code, where, what, fix
        super().__init__(f"{code} {where} {what}. {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, self.where, self.what, self.fix)


class DataError(ValueError):
    """A dataset that cannot be used as declared.

    Attributes:
        kind: the error class in a run's record.
        problems: all of them.
        lines: one for each kind: what, where, how to fix it, and which other files have the same.
    """

    kind = "data"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        self.lines = list(_lines(self.problems))
        super().__init__("\n".join(self.lines))


def _lines(problems: list[Problem]) -> Iterable[str]:
    kinds: dict[tuple[str, ...], list[Problem]] = {}
    for problem in {str(problem): problem for problem in problems}.values():  # a file of all splits says it for each
        kind = (problem.code, _PARTICULAR.sub("", problem.what), _VALUE.sub("", problem.fix))
        kinds.setdefault(kind, []).append(problem)
    for first, *others in kinds.values():
        listed = ", ".join(problem.where for problem in others[: _LISTED - 1])
        more = f" and {len(others) - _LISTED + 1} more, listed by segsweep-data" if len(others) >= _LISTED else ""
        yield f"{first}{f'. Likewise: {listed}{more}' if others else ''}"
