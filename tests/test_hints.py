"""Overrides that messages propose can be copied into a shell."""

import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segsweep.hints import override

VALUES = [
    None, True, False, 0, -3, 1.5, "", "plain", "two words", "/data/one, v=2 (x)", "it's", 'say "hi"', "back\\slash",
    "end\\", 'end\\"q', "null", "true", "12", "1e3", ".5", "nan", "-inf", "1_000", "0x10", "$HOME", "`id`", "!x", "~x",
    "#1", "a:b", "{stem}.*", "[a]", "größe 日本", "-", "*.png", "a;b", "a&b", "a>b",
    [], [1, 2], [0.485, 1.0], ["a b", "c,d", "x'y"], [None, True], {}, {0: "background", 255: "ignore"},
    {-1: "ignore", 0: 0}, {"60 16 152": 1, "0 0 0": "the rest, all"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_typed_as_printed_arrives_as_meant(value):
    printed = f"printf '%s' {override('data.key', value)}"
    typed = subprocess.run(["bash", "-c", printed], capture_output=True, text=True, check=True, timeout=60).stdout
    read = OverridesParser.create().parse_override(typed)
    assert read.key_or_group == "data.key"
    assert read.value() == value
    assert type(read.value()) is type(value)
