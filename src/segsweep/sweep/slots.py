"""Which job runs where and when: places on the CPU and on GPUs. Pure logic; starts nothing and asks nothing."""

import getpass
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from segsweep.sweep.job import Job
from segsweep.sweep.machine import Device, Machine
from segsweep.sweep.options import SweepOptions

_FILL = 0.9  # of a GPU's memory; the rest is for what differs from run to run
_CONTEXT_MB = 700.0  # of GPU memory that a process takes besides its tensors: CUDA's context and kernels


@dataclass(frozen=True)
class Place:
    """Where a job runs.

    Attributes:
        slot: number of the place; no two jobs have the same at one time.
        threads: CPU threads for it.
        devices: names of its GPUs; None: it trains on the CPU, or the machine has none.
    """

    slot: int
    threads: int
    devices: tuple[str, ...] | None = None

    def environment(self) -> dict[str, str]:
        """Variables that keep the job to its place."""
        base = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or os.path.join(
            tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}"
        )
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return {
            **dict.fromkeys(threads, str(self.threads)),
            # Jobs that compile side by side read each other's half-written files.
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(base, f"slot{self.slot}"),
            **({"CUDA_VISIBLE_DEVICES": ",".join(self.devices)} if self.devices else {}),
        }


@dataclass
class _Load:
    """What runs on a GPU: slot -> memory it needs in MB, None if that is being measured."""

    device: Device
    jobs: dict[int, float | None] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the memory that is promised."""
        return sum(need or self.device.memory_mb for need in self.jobs.values()) / self.device.memory_mb


class Slots:
    """The places of a machine.

    Args:
        options: ``jobs`` and ``jobs_per_device`` count here.
        num_jobs: of the whole sweep, finished ones included, so that threads are the same when it is continued.
        machine: its cores and GPUs.

    Attributes:
        at_once: most jobs side by side.
        threads: of the CPU for each job.
    """

    def __init__(self, options: SweepOptions, num_jobs: int, machine: Machine) -> None:
        self.at_once = max(1, min(_most(options, machine), num_jobs))
        self.threads = max(1, machine.cores // self.at_once)
        self._per_device = options.jobs_per_device
        self._loads = [_Load(device) for device in machine.devices]
        self._free = list(range(self.at_once))
        self._needs: dict[str, float] = {}  # kind -> MB on each of its GPUs

    @property
    def num_free(self) -> int:
        """Places without a job; on GPUs a job may still have to wait."""
        return len(self._free)

    def take(self, job: Job) -> Place | None:
        """A place for a job, or None if it has to wait for another one to end."""
        if not self._free:
            return None
        wanted = _num_devices(job) if self._loads else 0
        fitting = sorted((load for load in self._loads if self._fits(load, job)), key=lambda load: load.share)
        number = min(wanted, len(self._loads))
        if len(fitting) < number:
            return None
        slot = self._free.pop(0)
        for load in fitting[:number]:
            load.jobs[slot] = self._needs.get(job.kind)
        return Place(slot, self.threads, tuple(load.device.name for load in fitting[:number]) or None)

    def give_back(self, place: Place, kind: str, peak: Mapping[str, float] | None = None) -> None:
        """Frees a place.

        Args:
            place: as ``take`` gave it.
            kind: of the job that ran there.
            peak: ``peak_memory_mb`` of its record, None if it did not get that far.
        """
        self._free = sorted([*self._free, place.slot])
        for load in self._loads:
            load.jobs.pop(place.slot, None)
        measured = (peak or {}).get("device_reserved")
        if measured is not None and place.devices:
            self._needs[kind] = max(measured + _CONTEXT_MB, self._needs.get(kind, 0.0))

    def _fits(self, load: _Load, job: Job) -> bool:
        if isinstance(self._per_device, int):
            return len(load.jobs) < self._per_device
        if not load.jobs:
            return True
        need = self._needs.get(job.kind)
        if need is None or None in load.jobs.values():
            return False  # what is measured runs alone
        return sum(filter(None, load.jobs.values())) + need <= _FILL * load.device.memory_mb


def uses_gpu(trainer: object) -> bool:
    """Whether a run with this ``trainer`` node would take a GPU if there is one."""
    return isinstance(trainer, Mapping) and trainer.get("accelerator", "cpu") != "cpu"


def _most(options: SweepOptions, machine: Machine) -> int:
    if isinstance(options.jobs, int):
        return options.jobs
    if not machine.devices:
        return machine.cores
    if isinstance(options.jobs_per_device, int):
        return options.jobs_per_device * len(machine.devices)
    return max(machine.cores, len(machine.devices))  # each job wants a core of its own, too


def _num_devices(job: Job) -> int:
    """GPUs that a job asks for: ``trainer.devices`` if that is a number, else one."""
    trainer = job.config.get("trainer")
    if not isinstance(trainer, Mapping) or not uses_gpu(trainer):
        return 0
    devices = trainer.get("devices")
    return devices if isinstance(devices, int) and devices > 1 else 1
