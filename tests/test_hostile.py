"""Opening a stranger's run executes nothing from it: hostile folders under an audit hook, and a control."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audited import COMMANDS
from tests.hostile import ARTEFACTS

ROOT = Path(__file__).parents[1]
# What a program that trusts a folder would let happen: the hook must see each of these without protection.
CAUGHT = {
    "target_numpy_load", "target_open", "target_torch_load", "target_own_module", "target_hub",
    "weights_a_pickle", "checkpoint_a_pickle", "hydra_pickles", "confusion_of_objects", "yaml_tags",
    "image_an_object_array", "record_a_link", "checkpoints_a_link",
}  # fmt: skip


def audited(command, folder, *names):
    environment = {**os.environ, "SEGSWEEP_CACHE": str(folder / "cache"), "EVIL_SECRET": "evil_secret"}
    (folder / "temporary").mkdir()
    environment["TMPDIR"] = str(folder / "temporary")
    line = [sys.executable, "-m", "tests.audited", command, str(folder), *names]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {entry["artefact"]: entry for entry in map(json.loads, done.stdout.splitlines())}


def check(found, names):
    assert found.pop(None)["code"] == 0, "the command does not even open a good run"
    assert set(found) == set(names)
    problems = [line for name, entry in found.items() for line in wrong(name, entry)]
    assert not problems, "\n".join(problems)


def wrong(name, entry):
    """What should not have happened."""
    code, printed = entry["code"], entry["printed"]
    yield from (f"{name}: {event}" for event in entry["events"])
    if code not in (0, 1):
        yield f"{name} ends with {code}"
    if re.search(r"error: \w+(Error|Exception): |Traceback", printed):
        yield f"{name}: no line for people: {printed}"
    if "\x1b]0;" in printed or "evil_secret" in printed:
        yield f"{name}: shows what it must not: {printed!r}"
    if code and "error: " not in printed:
        yield f"{name} is refused without a word"


def test_there_are_as_many_as_promised():
    assert len(ARTEFACTS) >= 40


def test_nothing_is_executed(tmp_path):
    check(audited("predict", tmp_path), ARTEFACTS)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"predict"}))
def test_nothing_is_executed_by_the_others(command, tmp_path):
    check(audited(command, tmp_path), ARTEFACTS)


@pytest.mark.slow
def test_the_hook_sees_what_happens_without_protection(tmp_path):
    found = audited("none", tmp_path, *CAUGHT)
    assert {name for name, entry in found.items() if entry["events"]} == CAUGHT
