"""What the README shows is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from segsweep.refused import all_mistakes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text().replace("\\\n", " ")
LOSSES = (ROOT / "docs" / "losses.md").read_text()
COMMANDS = re.findall(r"^    segsweep (.+?)(?:\s+#.*)?$", README + LOSSES, flags=re.MULTILINE)


def test_there_are_commands():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_are_understood(arguments):
    assert all_mistakes(shlex.split(arguments)) == []


def test_the_mistakes_are_answered_as_shown():
    typed = re.search(r"^    \$ segsweep (.+)$", README, flags=re.MULTILINE).group(1)
    shown = re.findall(r"^    error: (.+)$", README, flags=re.MULTILINE)
    assert all_mistakes(shlex.split(typed)) == shown


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        assert set(re.findall(r"make ([a-z-]+)", text)) <= targets


def test_pictures_are_there_and_small():
    for picture in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert 0 < (ROOT / picture).stat().st_size < 300_000
