"""Checks the jobs of a sweep, which another process may do: plain values go in and come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segsweep.check import Memo, check_values, mistakes, unknown_top_level
from segsweep.config import fingerprint, semantic_part, settle_plain
from segsweep.redaction import redact


@dataclass(frozen=True)
class JobConfig:
    """The composed config of a job as plain values.

    Attributes:
        config: interpolations kept.
        resolved: as ``resolved`` returns it.
        choices: option of each group.
    """

    config: dict[str, Any]
    resolved: dict[str, Any] | None
    choices: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """What is known of a job before it runs.

    Attributes:
        lines: its mistakes; the other fields are empty if there are any.
        fingerprint: its identity.
        kind: its identity without the seed.
        config: what the identity is made of, secrets redacted.
    """

    lines: list[str]
    fingerprint: str = ""
    kind: str = ""
    config: dict[str, Any] | None = None


def inspect_jobs(jobs: Sequence[JobConfig]) -> list[Verdict]:
    """Checks the jobs of a sweep; takes and gives plain values, so that another process may do it."""
    memo: Memo = {}
    return [_inspect(job, memo) for job in jobs]


def _inspect(job: JobConfig, memo: Memo) -> Verdict:
    if job.resolved is None:
        return Verdict(mistakes(OmegaConf.create(job.config), job.choices))
    plain = settle_plain(job.resolved)
    lines = [*unknown_top_level(plain), *check_values(plain, job.choices, memo)]
    if lines:
        return Verdict(lines)
    return Verdict([], fingerprint(plain), fingerprint(plain, with_seed=False), redact(semantic_part(plain)))


def resolved(cfg: DictConfig) -> dict[str, Any] | None:
    """All values of a config, or None if one is missing or refers to what is not there."""
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException:
        return None
