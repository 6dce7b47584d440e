"""On what and in which precision a finished run is used."""

import contextlib

import torch

from segsweep.hardware import pick_precision
from segsweep.run import ConfigError


def pick_device(wanted: str) -> torch.device:
    """``auto`` (a GPU if torch sees one), ``cpu`` or ``cuda`` -> the device.

    Raises:
        ConfigError: there is no such device.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise ConfigError(f"device={wanted} is none of auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU here. Take --device cpu, or install torch for CUDA")
    return torch.device(wanted)


def precision_on(device: torch.device, trained_in: object) -> str:
    """The precision of a run where the device has it natively, else float32.

    Args:
        device: to compute on.
        trained_in: ``precision`` of the run's record, Lightning's name; text of a stranger.
    """
    if trained_in == "16-mixed":
        return "16-mixed" if device.type == "cuda" else "32-true"
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    is_bf16 = trained_in in ("bf16-mixed", "bf16-true") and pick_precision(accelerator) == "bf16-mixed"
    return "bf16-mixed" if is_bf16 else "32-true"


def forward_context(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """What a run's own test computes in, by Lightning's name of a precision."""
    if not precision.endswith("-mixed"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16-mixed" else torch.float16)
