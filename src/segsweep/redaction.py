"""What is written into folders that may be given away: without secrets, and without where things lie here."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SECRET = re.compile(r"token|secret|password|passwd|api_?key|credential", re.IGNORECASE)
_ABSOLUTE = re.compile(r"""^(["']?)(?:/|~|[A-Za-z]:[\\/])(?:.*[\\/])?([^\\/]*?)[\\/]*$""", re.DOTALL)  # (quote)/a/(b)


def redact(config: Any, key: str = "") -> Any:
    """Replaces the values of keys that look like secrets, and where things lie on this machine, at any depth.

    >>> redact({"root": "/home/ann/cells", "api_key": "k", "images": "images/{stem}.png"})
    {'root': '<path>/cells', 'api_key': '<redacted>', 'images': 'images/{stem}.png'}
    """
    if isinstance(config, Mapping):
        return {k: redact(v, str(k)) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [redact(v, key) for v in config]
    if config is not None and _SECRET.search(key):
        return "<redacted>"
    # A folder may be copied to another place or given away: what it holds stays true, and names nobody's home.
    return _ABSOLUTE.sub(r"\1<path>/\2", config) if isinstance(config, str) else config


def redact_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides with the same values replaced."""
    pairs = (override.partition("=") for override in overrides)
    return [f"{key}{equals}{redact({key: value})[key]}" for key, equals, value in pairs]
