"""The least that trains a network: forward, loss, backward, step, on batches that are ready. Everything costs more."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from segsweep import CONF_DIR, hardware
from segsweep.allocator import keep_memory_between_steps
from segsweep.config import build_model, make, make_partial, settle
from segsweep.data.datamodule import DataModule
from segsweep.losses import adapt
from segsweep.types import Batch

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


def settled(overrides: Sequence[str]) -> dict[str, Any]:
    """The config that the command line would make of these overrides, as plain values."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return settle(compose("train", list(overrides)))


def prepare(plain: dict[str, Any]) -> None:
    """Makes the settings of the process that a run makes: contestants in one process share them."""
    keep_memory_between_steps()
    hardware.prepare(plain["trainer"]["accelerator"], plain["trainer"]["tf32"])


def device_of(plain: dict[str, Any]) -> torch.device:
    """Where a run trains."""
    return torch.device("cuda" if plain["trainer"]["accelerator"] == "gpu" else "cpu")


def wait_for(device: torch.device) -> None:
    """Has the host wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ready_batches(data: DataModule, device: torch.device, num: int = 8) -> list[Batch]:
    """The first training batches, on the device."""
    batches = itertools.islice(data.train_dataloader(), num)
    return [Batch(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in batch)) for batch in batches]


class BareLoop:
    """Trains the model of a run by its loss and optimizer, and does nothing else.

    Args:
        plain: settled config of the run; its seed gives the same initial weights.
        data: of the run, for the loss's class weights.
        batches: to train on, again and again.
    """

    def __init__(self, plain: dict[str, Any], data: DataModule, batches: Sequence[Batch]) -> None:
        self.device, self.batches = device_of(plain), batches
        self.model = build_model(plain).to(self.device, memory_format=torch.channels_last).train()
        self.loss = make(plain["loss"])
        adapt(self.loss, data.class_counts())
        self.loss.to(self.device)
        self.optimizer = make_partial(plain["optimizer"])(self.model.parameters())
        self.is_bf16 = plain["trainer"]["precision"] == "bf16-mixed"

    def run(self, steps: int) -> float:
        """Seconds of these steps."""
        wait_for(self.device)
        start = time.perf_counter()
        for i in range(steps):
            batch = self.batches[i % len(self.batches)]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
                loss = self.loss(self.model(batch.image), batch)["total"]
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        wait_for(self.device)
        return time.perf_counter() - start


def gflops(dtype: torch.dtype, device: str, side: int = 2048, repeats: int = 10) -> float:
    """What the machine reaches in products of large matrices: no step computes faster for long."""
    matrix = torch.randn(side, side, device=device).to(dtype)
    for _ in range(3):
        product = matrix @ matrix
    wait_for(product.device)
    start = time.perf_counter()
    for _ in range(repeats):
        product = matrix @ matrix
    wait_for(product.device)
    return 2 * side**3 * repeats / (time.perf_counter() - start) / 1e9
