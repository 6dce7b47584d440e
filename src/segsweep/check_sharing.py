"""Sees before a run starts that several processes cannot share it."""

from collections.abc import Iterator
from typing import Any

from segsweep.hints import written


def sharing_mistakes(plain: dict[str, Any]) -> Iterator[str]:
    """The mistakes of a settled config about several processes for one run, one line each."""
    import torch

    node, data, regime = plain["trainer"], plain.get("data") or {}, plain.get("regime") or {}
    devices, strategy, on_gpu = node.get("devices"), node.get("strategy"), node.get("accelerator") == "gpu"
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        yield f"trainer.devices={written(devices)} is not a number of processes of 1 or more, e.g. trainer.devices=2"
        return
    if devices > 1 and strategy not in ("ddp", "fsdp"):
        yield (
            f"trainer.devices={devices}: trainer.strategy={written(strategy)} does not share a run between processes. "
            f"Use trainer=ddp trainer.devices={devices}, or -m for several runs at once"
        )
    batch_size = data.get("batch_size")
    if isinstance(batch_size, int) and batch_size % devices:
        near = max(1, round(batch_size / devices)) * devices
        yield (
            f"data.batch_size={batch_size} is divided between all processes and not divisible by trainer.devices="
            f"{devices}; use e.g. data.batch_size={near}"
        )
    if on_gpu and torch.cuda.is_available() and devices > (there := torch.cuda.device_count()):
        yield f"trainer.devices={devices}: torch sees {there} GPU{'s' * (there > 1)} here; use at most so many"
    if node.get("sync_batchnorm") and not on_gpu:
        yield "trainer.sync_batchnorm=true needs a GPU: torch has no such layer for the CPU. Leave it false here"
    if strategy in ("ddp", "fsdp") and node.get("on_oom") == "halve":
        yield (
            "trainer.on_oom=halve: one process cannot halve its part of a batch without the others. Set "
            "trainer.on_oom=fail and lower data.batch_size, or share it between more processes"
        )
    if strategy != "fsdp":
        return
    if not on_gpu:
        yield "trainer.strategy=fsdp needs a GPU. Use trainer=ddp trainer.accelerator=cpu for processes on the CPU"
    if len(regime.get("stages") or {}) > 1 or regime.get("readout") is not None:
        yield (
            "trainer.strategy=fsdp: each process holds a part of each weight, with which a regime of several stages or "
            "with a readout cannot work. Use regime=supervised, or trainer=ddp, which shares every regime"
        )
    if node.get("gradient_clip_val") is not None and node.get("gradient_clip_algorithm") != "value":
        yield (
            "trainer.gradient_clip_val: under trainer.strategy=fsdp no process knows the norm of all gradients. Set "
            "trainer.gradient_clip_algorithm=value, or use trainer=ddp"
        )
