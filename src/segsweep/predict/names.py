"""Where the predictions of an image go: two images never share a file, and an image keeps its place in later runs."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count

from segsweep.images.inputs import Input

KINDS = ("overlay", "entropy", "probabilities")  # files beside the classes: <base>.<kind>.<suffix>
_KIND = re.compile(rf"\.(?:{'|'.join(KINDS)})$")
_PAGE = re.compile(r"_p[0-9]+$")  # as ``page_name`` makes it


def give_names(inputs: Mapping[str, Input], taken: Mapping[str, str]) -> dict[str, str]:
    """A base for each image: the path of its predictions without suffix, below the output folder.

    The path below the folder that was named, without suffix; if several images would have it, with the suffix; then
    below the name of that folder; then with a number.

    Args:
        inputs: identity -> image.
        taken: identity -> base that an earlier run has given, to these images or others.
    """
    bases = {key: taken[key] for key in inputs if key in taken}
    used = _Used(taken.values())
    left = [key for key in inputs if key not in bases]
    for level in range(4):
        wanted = {key: _candidates(inputs[key])[level] for key in left}
        others = _Used(wanted.values())
        for key, base in wanted.items():
            if others.is_alone(base) and used.is_free(base):
                bases[key] = base
        for key in wanted.keys() & bases.keys():
            used.add(bases[key])
        left = [key for key in left if key not in bases]
    for key in left:
        full = inputs[key].name
        bases[key] = next(base for i in count(2) if used.is_free(base := f"{full}_{i}"))
        used.add(bases[key])
    return bases


class _Used:
    """Bases whose files may not meet: ``a_p0`` is also a page of ``a``, and ``a.overlay`` a picture beside it."""

    def __init__(self, bases: Iterable[str]) -> None:
        self._same: Counter[str] = Counter()
        self._forms: Counter[str] = Counter()
        for base in bases:
            self.add(base)

    def add(self, base: str) -> None:
        forms = _forms(base)
        self._same[forms[0]] += 1
        self._forms.update(forms)

    def is_free(self, base: str) -> bool:
        """Whether it meets none of these."""
        forms = _forms(base)
        return not self._forms[forms[0]] and not any(self._same[form] for form in forms)

    def is_alone(self, base: str) -> bool:
        """Whether it, being one of these, meets none of the others."""
        forms = _forms(base)
        return self._forms[forms[0]] == 1 and not any(self._same[form] for form in forms[1:])


def _forms(base: str) -> list[str]:
    """A base and what it would be a file of, as file systems compare names that do not tell A from a."""
    same = unicodedata.normalize("NFC", base).casefold()
    plain = _KIND.sub("", same)
    return list(dict.fromkeys((same, plain, _PAGE.sub("", same), _PAGE.sub("", plain))))


def _candidates(image: Input) -> tuple[str, str, str, str]:
    stem = image.name[: -len(image.path.suffix)] if image.path.suffix else image.name
    root = image.root or "root"
    return stem, image.name, f"{root}/{stem}", f"{root}/{image.name}"
