"""What error messages propose: the nearest right name, and overrides that can be typed as they are printed."""

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")  # text that Hydra takes without quotes
_OTHER = re.compile(
    r"(?i)null|true|false|nan|[+-]?inf|[+-]?[0-9._]+(e[+-]?[0-9_]+)?"
)  # that it takes for something else


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Names the nearest known word, else everything there is.

    >>> did_you_mean("unett", ["unet", "reseg"])
    "Did you mean 'unet'?"
    >>> did_you_mean("zzz", ["unet", "reseg"])
    'There is: reseg, unet'
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"There is: {', '.join(known)}"


def override(key: str, value: object) -> str:
    """An override as it can be typed: quoted for Hydra, which knows commas and braces, and then for the shell.

    >>> print(override("data.size", [48, 64]), override("data.page", None), override("data.root", "a, b"))
    'data.size=[48,64]' data.page=null 'data.root="a, b"'
    """
    return shlex.quote(f"{key}={written(value)}")


def written(value: object) -> str:
    """A value as Hydra reads it: ``null``, ``true``, ``[1,2]``, ``{0:background}``.

    >>> written({0: "background", 255: "ignore"}), written([True, None, "1e3"])
    ('{0:background,255:ignore}', '[true,null,"1e3"]')
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if not isinstance(value, str) or (_PLAIN.fullmatch(value) and not _OTHER.fullmatch(value)):
        return str(value)
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'
