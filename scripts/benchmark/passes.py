"""Passes over whole maps that cost more than they must, as they are here and as plain operations of torch.

    python scripts/benchmark/passes.py
    python scripts/benchmark/passes.py --device cuda --batch-size 64

The loss (cross entropy plus Dice) of bf16 logits, and a map that is resized and concatenated with a skip; both forward
and backward, by turns.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bare import wait_for
from measure import parser, print_head, print_table, ratios, spread, take_turns
from torch import Tensor

from segsweep.allocator import keep_memory_between_steps
from segsweep.losses import CrossEntropy, Dice, WeightedSum
from segsweep.models.blocks import repeat_to
from segsweep.types import Batch, SegmenterOutput

IGNORED = 255
CHANNELS = 64  # of a resized map, and of the skip that it is concatenated with
OURS, PLAIN = "ours, ms", "plain, ms"
Contest = dict[str, Callable[[], float]]


def plain_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy plus Dice with squared denominators, one operation after another."""
    logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
    valid = (mask != IGNORED)[:, None]
    classes = torch.arange(logits.shape[1], device=mask.device).view(1, -1, 1, 1)
    truth = ((mask[:, None] == classes) & valid).float()
    p = logits.softmax(dim=1) * valid
    overlap, number = (p * truth).sum((0, 2, 3)), truth.sum((0, 2, 3))
    dice = 1 - 2 * overlap / (p.square().sum((0, 2, 3)) + number).clamp(min=1e-6)
    is_there = number > 0
    return F.cross_entropy(logits, mask, ignore_index=IGNORED) + (dice * is_there).sum() / is_there.sum()


def timed(x: Tensor, function: Callable[[Tensor], Tensor]) -> Callable[[], float]:
    """Milliseconds of a function, and of its backward pass."""
    gradient = torch.ones_like(function(x))

    def run() -> float:
        variable = x.detach().requires_grad_()
        wait_for(x.device)
        start = time.perf_counter()
        function(variable).backward(gradient)
        wait_for(x.device)
        return 1e3 * (time.perf_counter() - start)

    run()
    return run


def losses(logits: Tensor) -> Contest:
    """Of maps (N, K, H, W)."""
    num, classes, *size = logits.shape
    mask = torch.randint(0, classes, (num, *size), device=logits.device)
    batch = Batch(logits[:, :1], mask, torch.arange(num))
    terms = {"cross_entropy": CrossEntropy(classes, IGNORED, "none", 0.0, 1.0), "dice": Dice(IGNORED)}
    own = WeightedSum(dict.fromkeys(terms, 1.0), **terms).to(logits.device)
    return {
        OURS: timed(logits, lambda x: own(SegmenterOutput(x), batch)["total"]),
        PLAIN: timed(logits, lambda x: plain_loss(x, mask)),
    }


def resizes(x: Tensor) -> Contest:
    """Of maps (N, D, h, w), to twice their height and width."""
    skip = F.interpolate(x, scale_factor=2.0)
    return {
        OURS: timed(x, lambda x: torch.cat([repeat_to(x, skip), skip], dim=1)),
        PLAIN: timed(x, lambda x: torch.cat([F.interpolate(x, skip.shape[-2:]), skip], dim=1)),
    }


def main() -> None:
    options = parser(__doc__, rounds=9, batch_size=16, side=320, classes=11)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    print_head("Passes over whole maps", device=args.device)
    keep_memory_between_steps()
    torch.manual_seed(0)

    def maps(channels: int, side: int) -> Tensor:
        values = torch.randn(args.batch_size, channels, side, side, device=args.device)
        return values.bfloat16().to(memory_format=torch.channels_last)

    contests = {
        f"cross entropy plus Dice, {args.batch_size} x {args.classes} x {args.side}x{args.side}": losses(
            maps(args.classes, args.side)
        ),
        f"resize and concatenate, {args.batch_size} x {CHANNELS} x {args.side // 2}x{args.side // 2}": resizes(
            maps(CHANNELS, args.side // 4)
        ),
    }
    rows = []
    for name, contest in contests.items():
        found = take_turns(contest, args.rounds)
        cells = [spread(found[by], 1) for by in (OURS, PLAIN)]
        rows.append((name, *cells, spread(ratios(found[PLAIN], found[OURS]))))
    print_table(("forward and backward", OURS, PLAIN, "ours is faster by"), rows)


if __name__ == "__main__":
    main()
