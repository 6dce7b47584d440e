"""What this machine can do: decided from capability flags, never by timing, so that a run's identity is stable."""

import os
import platform
from pathlib import Path

import torch


def pick_accelerator() -> str:
    """``gpu`` if torch sees one, else ``cpu``."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def pick_precision(accelerator: str) -> str:
    """Lightning's name of the fastest precision that the hardware has natively: bf16 autocast, else float32."""
    native = torch.cuda.is_bf16_supported(including_emulation=False) if accelerator == "gpu" else _cpu_has_bf16()
    return "bf16-mixed" if native else "32-true"


def prepare(accelerator: str, tf32: bool) -> None:
    """Settings of the process, before anything is trained in it.

    Args:
        accelerator: ``cpu`` or ``gpu``.
        tf32: whether a GPU may round the factors of float32 products to 10 bits (TensorFloat-32).
    """
    if accelerator == "cpu":
        # Optimizers ask in every step whether there is a GPU, and Lightning has torch load the driver's library for it.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        return
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def describe(accelerator: str) -> dict[str, str | int]:
    """Device name and CPU threads, for the record."""
    device = torch.cuda.get_device_name() if accelerator == "gpu" else _cpu_name()
    return {"device": device, "threads": torch.get_num_threads()}


def _cpu_flags() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _cpu_has_bf16() -> bool:
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags().get("flags", "").split())


def _cpu_name() -> str:
    return _cpu_flags().get("model name") or platform.processor() or platform.machine()
