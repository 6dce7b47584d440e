"""Time of one training step (forward and backward) of recurrent sweeps over a feature map, each against the GRU.

Every layer carries information across the whole map in four directions and returns as many channels as it gets:

    gru, lstm     ReNetLayer with torch's bidirectional cells, one step after another (cuDNN on a GPU)
    mingru        ReNetLayer with gates per channel, log2(T) doubling steps
    gated_sweep   GatedSweep, gates per head of 16 channels, one masked-exponential matrix a head

    python scripts/benchmark/recurrence.py --device cpu

Rounds of the contestants alternate, so that a busy machine slows all of them. The Markdown table holds medians over the
rounds: of milliseconds per step, and of the ratios within a round.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from segsweep.allocator import keep_memory_between_steps
from segsweep.hardware import pick_precision
from segsweep.models.gated_sweep import GatedSweep
from segsweep.models.renet import ReNetLayer

MAPS = ((60, 45), (120, 90))
HEAD_SIZE = 16


def contestants(features: int) -> dict[str, nn.Module]:
    """Layers from ``features`` to ``features`` channels."""
    cells = {cell: ReNetLayer(features, features // 2, cell, "on") for cell in ("gru", "lstm", "mingru")}
    sweep = GatedSweep(features, features // HEAD_SIZE, "on")
    for line in (sweep.rows, sweep.columns):
        nn.init.normal_(line.out.weight, std=0.02)  # it starts as the identity, through which no gradient passes
    return {**cells, "gated_sweep": sweep}


def _steps_of(layer: nn.Module, x: torch.Tensor, cast: Callable[[], AbstractContextManager]) -> Callable[[], None]:
    def run() -> None:
        with cast():
            loss = layer(x).square().mean()
        loss.backward()

    return run


def _time(run: Callable[[], None], repeats: int, device: str) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e3


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant in each round")
    args = parser.parse_args()
    keep_memory_between_steps()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    best = pick_precision("gpu" if args.device == "cuda" else "cpu")
    print(
        f"{name}, torch {torch.__version__}, Python {platform.python_version()}, batch {args.batch}, "
        f"{args.features} channels\n"
    )
    print("| map | precision | layer | parameters | ms/step | GRU / layer |\n|---|---|---|--:|--:|--:|")
    for size in MAPS:
        for precision in dict.fromkeys(("32-true", best)):
            _table_rows(size, precision, args)


def _table_rows(size: tuple[int, int], precision: str, args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    is_mixed = precision == "bf16-mixed"
    x = torch.randn(args.batch, args.features, *size, device=args.device).requires_grad_()
    layers = {name: layer.to(args.device) for name, layer in contestants(args.features).items()}
    runs = {
        name: _steps_of(layer, x, lambda: torch.autocast(args.device, torch.bfloat16, enabled=is_mixed))
        for name, layer in layers.items()
    }
    repeats = {}
    for name, run in runs.items():
        _time(run, 1, args.device)
        repeats[name] = max(1, round(1e3 * args.seconds / _time(run, 2, args.device)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(args.rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(_time(runs[name], repeats[name], args.device))
    for name, layer in layers.items():
        ratio = statistics.median(gru / own for gru, own in zip(times["gru"], times[name], strict=True))
        size_of = sum(p.numel() for p in layer.parameters())
        print(
            f"| {size[0]}x{size[1]} | {precision} | {name} | {size_of:,} | "
            f"{statistics.median(times[name]):.1f} | {ratio:.1f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
