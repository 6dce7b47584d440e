"""What a model costs: parameters, FLOPs, images per second, memory."""

import copy
import resource
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_INFERENCE_S = 0.5  # of repeated forward passes


def count_parameters(model: nn.Module) -> int:
    """All parameters, trained or frozen; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def sparsity(model: nn.Module, before: int) -> dict[str, float]:
    """What pruning has left: ``parameters_before``, ``nonzero_parameters``, and ``zeros``, a share of those before."""
    nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    return {"parameters_before": before, "nonzero_parameters": nonzero, "zeros": round(1 - nonzero / before, 4)}


def count_flops(model: nn.Module, in_channels: int, size: tuple[int, int]) -> int:
    """Floating-point operations of one forward pass over one image, a multiply-add counted as two.

    Matrix products and convolutions, recurrent ones included, as ``torch.utils.flop_counter`` counts them. Runs the
    model once on the CPU, so a size that it cannot take is found here, before any data is read.
    """
    # In double precision, because oneDNN's fused recurrent layers, into which the counter cannot look, have none.
    double = copy.deepcopy(model).double().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        double(torch.zeros(1, in_channels, *size, dtype=torch.float64))
    return int(counter.get_total_flops())


def code_size(model: nn.Module, image: Tensor) -> dict[str, float] | None:
    """Size of the code that a model makes of an image, if it has a bottleneck smaller than the image.

    Args:
        model: a segmenter, in evaluation mode.
        image: (N, C, H, W).

    Returns:
        ``values``, the numbers of the latent of one image, and ``reduction``, how many times fewer they are than the
        C H W of the image; None without a latent, or with one that has as many places or values as the image: the
        class probabilities of a W-Net are no code.
    """
    with torch.inference_mode():
        latent: Tensor | None = model(image[:1]).latent
    if latent is None or prod(latent.shape[2:]) >= prod(image.shape[2:]) or latent.numel() >= image[0].numel():
        return None
    return {"values": latent.numel(), "reduction": round(image[0].numel() / latent.numel(), 4)}


def speeds(model: nn.Module, image: Tensor) -> dict[str, float]:
    """Images per second of ``model`` in evaluation mode, by what one starts from.

    Args:
        model: a segmenter; one that segments from a code also has ``decode(code, image)``.
        image: (N, C, H, W), a batch on the device of the model.

    Returns:
        ``inference`` from images, and ``from_code``, where there is a code, from codes that are stored already.
    """
    values = {"inference": inference_speed(model, image)}
    if hasattr(model, "decode") and code_size(model, image):
        segmenter: Any = model
        with torch.inference_mode():
            code = segmenter.encoder(image)[-1]
        values["from_code"] = inference_speed(lambda image: segmenter.decode(code, image), image)
    return values


def inference_speed(model: Callable[[Tensor], Any], image: Tensor) -> float:
    """Images per second of forward passes alone: the median of repeated passes over one batch, on its device."""
    seconds: list[float] = []
    with torch.inference_mode():
        model(image)  # the first pass also pays for set-up
        while sum(seconds) < _INFERENCE_S or len(seconds) < 3:
            _wait_for(image.device)
            start = time.perf_counter()
            model(image)
            _wait_for(image.device)
            seconds.append(time.perf_counter() - start)
    return len(image) / sorted(seconds)[len(seconds) // 2]


def reset_peak_memory() -> None:
    """Starts a new measurement of the peak: sweeps run one job after another in one process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")  # resets the peak resident size
        except OSError:
            return  # not allowed here: the peak since the process started stands


def peak_memory_mb() -> dict[str, float]:
    """Peak resident memory of this process, and of the device if there is one, in MB of 10**6 bytes."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak_kib = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    if peak_kib is None:
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = {"host": round(peak_kib * 1024 / 1e6, 1)}
    if torch.cuda.is_available():
        peak["device"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
        peak["device_reserved"] = round(torch.cuda.max_memory_reserved() / 1e6, 1)  # what other processes cannot have
    return peak


def largest(peaks: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest of several processes' peaks, by kind of memory.

    >>> largest([{"host": 900.0, "device": 10.0}, {"host": 950.0, "device": 8.0}])
    {'host': 950.0, 'device': 10.0}
    """
    return {kind: max(peak[kind] for peak in peaks) for kind in peaks[0]}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
