"""How ``-m`` runs its jobs: the node ``sweep`` of the config. Nothing in it changes a result."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class SweepOptions:
    """The values of the node ``sweep``.

    Attributes:
        jobs: at once; ``auto``: one for each CPU core, or what fits on the GPUs.
        jobs_per_device: at once on one GPU; ``auto``: as many as fit by the memory that the first run of a kind took.
        timeout_s: seconds after which a job is ended, None: never.
        memory_gb: resident memory in GB (10^9 bytes) of a job and its children at which it is ended, None: never.
        zip: groups of swept keys whose values are taken together, first with first, instead of crossed.
        dry_run: whether to print what would run, and stop.
        trial: number of the job in a search; the sweeper sets it.
    """

    jobs: Annotated[int, Gt(0)] | Literal["auto"] = "auto"
    jobs_per_device: Annotated[int, Gt(0)] | Literal["auto"] = 1
    timeout_s: Annotated[float, Gt(0)] | None = None
    memory_gb: Annotated[float, Gt(0)] | None = None
    zip: tuple[tuple[str, ...], ...] | None = None
    dry_run: bool = False
    trial: Annotated[int, Ge(0)] | None = None
