"""The one command that repeats a run, and what it cannot promise."""

import shlex

from segsweep.report.records import Record
from segsweep.report.runs import dig

# Of a sweep or a place, not of the run: a repetition gets a folder of its own.
_NOT_REPEATED = ("name", "sweep.", "hydra.", "hydra/")


def command(run: Record) -> str:
    """What to type to train the run again, in a new folder.

    What was chosen for the hardware is written out, so that another machine computes alike.
    """
    overrides = [text for text in run.get("overrides") or [] if not key_of(text).startswith(_NOT_REPEATED)]
    if run.get("precision"):
        overrides = [text for text in overrides if key_of(text) != "trainer.precision"]
        overrides.append(f"trainer.precision={run['precision']}")
    return shlex.join(["segsweep", *overrides])


def caveats(run: Record) -> list[str]:
    """What the command needs to give the same result, a sentence each."""
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items() if version)
    commit, is_dirty = dig(run, "git.commit"), dig(run, "git.dirty")
    lines = [f"versions: {versions}"] if versions else []
    if commit:
        lines.append(f"code: git checkout {commit}")
    if is_dirty:
        lines.append("made from a checkout with uncommitted changes: that commit alone may not repeat it")
    if any("<redacted>" in text for text in run.get("overrides") or []):
        lines.append("secrets are redacted: put them in again")
    if any("<path>/" in text for text in run.get("overrides") or []):
        lines.append("<path> stands for where things lay on the machine that ran it: put in where they lie now")
    if run.get("device"):
        threads = f", {run['threads']} threads" if run.get("threads") else ""
        lines.append(f"trained on: {run['device']}{threads}; equal weights need the same number of threads")
    return lines


def key_of(override: str) -> str:
    """The key of an override, without the signs that add or remove one."""
    return override.partition("=")[0].lstrip("+~")
