"""What this machine has for a sweep: CPU cores and GPUs. Imports no torch; a warm child asks it."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from segsweep.sweep.processes import call


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: as ``CUDA_VISIBLE_DEVICES`` takes it.
        memory_mb: all of it, in MB (10^6 bytes).
    """

    name: str
    memory_mb: float


@dataclass(frozen=True)
class Machine:
    """CPU cores that this process may use, and GPUs that it sees."""

    cores: int
    devices: tuple[Device, ...] = ()


def find_machine(use_gpus: bool) -> Machine:
    """Looks around.

    Args:
        use_gpus: whether any job would train on a GPU; if not, none is looked for.
    """
    return Machine(usable_cores(), tuple(call(cuda_devices)) if use_gpus else ())


def usable_cores(cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores by affinity and by the quota of the control group, at least 1.

    Args:
        cgroup: lists the groups of this process.
        root: where control groups are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(cgroup, root))))


def cuda_devices() -> list[Device]:
    """The GPUs that torch sees; initialises CUDA, so it belongs into a child."""
    import torch

    if not torch.cuda.is_available():
        return []
    number = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else [str(i) for i in range(number)]
    sizes = [torch.cuda.get_device_properties(i).total_memory / 1e6 for i in range(number)]
    return [Device(name, size) for name, size in zip(names, sizes, strict=False)]


def _quota(cgroup: Path, root: Path) -> float:
    """CPUs that the control group and those above it grant, infinite without a limit; versions 2 and 1."""
    granted = math.inf
    for line in _read(cgroup).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers if controllers else root
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            granted = min(granted, _limit(folder))
            if folder == mount:
                break
    return granted


def _limit(folder: Path) -> float:
    numbers = _read(folder / "cpu.max").split() or [
        _read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = map(int, numbers)
    except ValueError:  # "max", or no such file
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
