"""Steps per second of S seeds trained as one (`trainer.stack_seeds=S`) against S models one after the other.

A step is forward, cross entropy, backward and a fused AdamW, without data and logging; both sides run in one process,
on the same images. What one process instead of several saves besides (start, batches, the trainer's own work on each
step) is not in it.

    python scripts/benchmark/stack.py --device cpu

Of each contestant steps per second of one seed (S of them are one step of the stack), medians over rounds that
alternate; of their ratio within a round, above 1 where stacking pays, median and quartiles.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from measure import parser, print_head, print_table, ratios, spread, take_turns
from torch import Tensor, nn

from segsweep import CONF_DIR
from segsweep.allocator import keep_memory_between_steps
from segsweep.config import build_model, settle
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


def speed_of(run: Callable[[], None], num_seeds: int, device: torch.device, seconds: float) -> float:
    """Steps per second of one seed, over as many calls as fit."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or calls < 2:
        run()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return num_seeds * calls / (time.perf_counter() - start)


def row(case: Case, num_seeds: int, bf16: bool, device: torch.device, rounds: int, seconds: float) -> Sequence[object]:
    """One line of the table."""
    runs = contestants(case, num_seeds, device, bf16)
    for run in runs:
        speed_of(run, num_seeds, device, 0.0)  # set up
    turns = {str(i): partial(speed_of, run, num_seeds, device, seconds) for i, run in enumerate(runs)}
    alone, stacked = take_turns(turns, rounds).values()
    medians = (f"{statistics.median(values):.1f}" for values in (alone, stacked))
    return case, "bf16" if bf16 else "fp32", num_seeds, *medians, spread(ratios(stacked, alone))


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--seconds", type=float, default=0.5, help="of one contestant in a round")
    options.add_argument("--seeds", type=int, nargs="+", default=[2, 4], help="how many are stacked")
    options.add_argument("--cases", type=int, default=len(CASES), help="how many of the models, from the last")
    args = options.parse_args()
    keep_memory_between_steps()
    print_head("Seeds trained as one", device=args.device)
    device = torch.device(args.device)
    cases = itertools.product(CASES[-args.cases :], (False, True), args.seeds)
    header = (
        "model, batch of each seed",
        "precision",
        "seeds",
        "one after the other, steps/s",
        "stacked, steps/s",
        "ratio",
    )
    print_table(header, (row(case, num, bf16, device, args.rounds, args.seconds) for case, bf16, num in cases))


if __name__ == "__main__":
    main()
