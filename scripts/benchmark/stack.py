"""Steps per second of S seeds trained as one (`trainer.stack_seeds=S`) against S models one after the other.

A step is forward, cross entropy, backward and a fused AdamW, without data and logging; both sides run in one process,
on the same images. What one process instead of several saves besides (start, batches, the trainer's own work on each
step) is not in it.

    python scripts/benchmark/stack.py --device cpu

Rounds of the contestants alternate, so that a busy machine slows all of them. The Markdown table holds medians over the
rounds: of steps per second (of one seed: S of them are one step of the stack), and of the ratios within a round with
the smallest and the largest of them. Above 1 stacking pays.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from segsweep import CONF_DIR
from segsweep.allocator import keep_memory_between_steps
from segsweep.config import build_model, settle
from segsweep.hardware import describe
from segsweep.stacking import Stack


class Case(NamedTuple):
    """A model and the size of its batches."""

    model: str
    overrides: tuple[str, ...]
    num: int
    side: int

    def __str__(self) -> str:
        more = "".join(f" {text.partition('.')[2]}" for text in self.overrides)
        return f"{self.model}{more}, {self.num} x {self.side}x{self.side}"


CASES = (
    Case("dense_cnn", (), 16, 48),
    Case("unet", ("model.widths=[8,16,32]",), 16, 48),
    Case("unet", (), 16, 48),
    Case("reseg", ("model.cell=mingru",), 16, 48),
    Case("gated_sweep", (), 16, 48),
    Case("conv_autoencoder", (), 16, 48),
    Case("fcn", (), 16, 48),
    Case("unet", ("model.widths=[4,8]",), 4, 16),
    Case("dense_cnn", (), 4, 16),
)


def contestants(case: Case, num_seeds: int, device: torch.device, bf16: bool) -> tuple[Callable[[], None], ...]:
    """One step of S models one after the other, and of the stack of them."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        size = f"data.size=[{case.side},{case.side}]"
        plain = settle(compose("train", [f"model={case.model}", size, *case.overrides]))
    image = torch.randn(num_seeds * case.num, plain["data"]["in_channels"], case.side, case.side, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    mask = torch.randint(plain["data"]["num_classes"], (num_seeds * case.num, case.side, case.side), device=device)

    def models() -> list[nn.Module]:
        built = (build_model({**plain, "seed": seed}) for seed in range(num_seeds))
        return [model.to(device, memory_format=torch.channels_last).train() for model in built]

    def precision() -> AbstractContextManager[None]:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step(model: nn.Module, stepper: torch.optim.Optimizer, image: Tensor, mask: Tensor) -> None:
        with precision():
            logits = model(image).logits
        parts = zip(logits.float().split(case.num), mask.split(case.num), strict=True)
        torch.stack([F.cross_entropy(*part) for part in parts]).sum().backward()
        stepper.step()
        stepper.zero_grad()

    alone = [(model, optimizer(model)) for model in models()]
    stack = Stack(models()).to(device)
    together = optimizer(stack)
    images, masks = image.split(case.num), mask.split(case.num)

    def one_after_another() -> None:
        for (model, stepper), own_image, own_mask in zip(alone, images, masks, strict=True):
            step(model, stepper, own_image, own_mask)

    return one_after_another, lambda: step(stack, together, image, mask)


def time_of(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Seconds of one call, over as many as fit."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or calls < 2:
        run()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def row(case: Case, num_seeds: int, bf16: bool, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    device = torch.device(arguments.device)
    runs = contestants(case, num_seeds, device, bf16)
    for run in runs:
        time_of(run, device, 0.0)
    rounds = [[time_of(run, device, arguments.seconds) for run in runs] for _ in range(arguments.rounds)]
    alone, stacked = (num_seeds / statistics.median(times) for times in zip(*rounds, strict=True))
    ratios = sorted(one / other for one, other in rounds)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"| {case} | {'bf16' if bf16 else 'fp32'} | {num_seeds} | {alone:.1f} | {stacked:.1f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=5, help="of each contestant, in turn")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one contestant in a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 4], help="how many are stacked")
    arguments = parser.parse_args()
    keep_memory_between_steps()
    name = describe("gpu" if arguments.device == "cuda" else "cpu")["device"]
    print(
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}, {arguments.rounds} rounds of {arguments.seconds} s\n"
    )
    print(
        "| model and batch of each seed | precision | seeds | steps/s, one after the other | steps/s, stacked | ratio |"
    )
    print("|---|---|---|---|---|---|")
    for case in CASES:
        for bf16 in (False, True):
            for num_seeds in arguments.seeds:
                print(row(case, num_seeds, bf16, arguments), flush=True)


if __name__ == "__main__":
    main()
