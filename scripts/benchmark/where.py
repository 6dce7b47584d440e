"""Where the time of a training step goes: a table, and with --picture an SVG.

    python scripts/benchmark/where.py                                   U-Net at 192x256, batch 8
    python scripts/benchmark/where.py --picture docs/step_profile.svg
    python scripts/benchmark/where.py --device cuda                     kernels of the device instead of operations

Steps of a run as shipped under torch's profiler. What an operation takes by itself counts where it was called from: the
batch, the forward pass, the loss, the backward pass, the optimizer, the guard that looks for NaN, the confusion matrix;
passes through the network are divided by the kind of operation. What is left is Python: Lightning, callbacks, ours.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bare import DTYPES, device_of, gflops, prepare, settled
from measure import parser, print_head, print_table, workplace
from scenes import write_scenes
from shipped import Loader, be_quiet, fit
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from segsweep.config import Parts
from segsweep.data.train_batches import TrainBatches
from segsweep.guard import UpdateGuard
from segsweep.tally import Confusion

PLACES = ("batch", "forward", "loss", "guard", "confusion matrix")
KINDS = {
    "convolutions": ("conv",),
    "batch norm, its ReLU": ("batch_norm", "_normalisation"),
    "loss": ("_compiledsums",),
    "pooling, upsampling": ("pool", "upsample"),
    "matrix products": ("mm", "linear", "lstm", "gru", "matmul"),
}


def kind_of(name: str) -> str:
    """What an operation of the network does."""
    return next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), "elementwise")


def place_of(event: Any) -> str:
    """Where an operation was called from."""
    parent, is_step = event, False
    while parent is not None:
        if parent.name in PLACES:
            return str(parent.name)
        if parent.name.startswith("autograd::engine"):
            return "backward"
        is_step |= parent.name.startswith(
            "Optimizer.step"
        )  # all of a step is called from there, in Lightning's closure
        parent = parent.cpu_parent
    return "optimizer" if is_step else "other"


def labelled(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a name that the profiler sees."""

    def called(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return called


@contextlib.contextmanager
def labels() -> Iterator[None]:
    """Names what ``place_of`` looks for."""
    methods = (
        (TrainBatches, "gathered", "batch"),
        (TrainBatches, "finished", "batch"),
        (UpdateGuard, "see", "guard"),
        (UpdateGuard, "before_update", "guard"),
        (Confusion, "update", "confusion matrix"),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in methods]
    for owner, name, label in methods:
        setattr(owner, name, labelled(label, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def profiled(plain: dict[str, Any], folder: Path, steps: int, warm: int) -> tuple[dict[str, float], float]:
    """Milliseconds of a step by place and kind, and of the whole step without the profiler."""
    on_gpu = plain["trainer"]["accelerator"] == "gpu"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    found = profile(activities=activities, acc_events=True)
    marks: list[float] = []

    def before(i: int) -> bool:
        if i in (warm, warm + steps):
            if on_gpu:
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
        if i == warm + steps:
            found.start()
        if i == warm + 2 * steps:
            found.stop()
        return True

    def loader(parts: Parts) -> Loader:
        task = parts.task
        task.model.forward = labelled("forward", task.model.forward)  # type: ignore[method-assign]
        task.loss.forward = labelled("loss", task.loss.forward)  # type: ignore[union-attr]
        inner = TrainBatches(parts.data, device_of(plain))
        return Loader(inner, list(itertools.islice(inner, 1)), warm + 2 * steps + 1, before)

    with labels():
        fit(plain, folder, loader)
    total: Counter[str] = Counter()
    for event in found.events():
        if event.device_type != DeviceType.CPU:  # a kernel, whose time its operation has, too
            continue
        place = place_of(event)
        took = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / steps
        total[f"{place}: {kind_of(event.name)}" if place in ("forward", "backward") else place] += took
    whole = 1e3 * (marks[1] - marks[0]) / steps
    other = total.pop("other", 0.0)
    total["Python, Lightning, callbacks"] = max(0.0, whole - sum(total.values())) if not on_gpu else other
    return dict(total), whole


def draw(shares: dict[str, float], whole: float, title: str, file: Path) -> None:
    """A bar for each place, the longest first."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "segsweep"
    import matplotlib.pyplot as plt

    names = sorted(shares, key=shares.__getitem__)
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(names) + 1.2), layout="constrained")
    colour = {"forward": "#4269d0", "backward": "#97bbf5"}
    bars = axes.barh(
        names, [shares[name] for name in names], color=[colour.get(n.split(":")[0], "#efb118") for n in names]
    )
    axes.bar_label(bars, [f" {shares[name]:.1f} ms, {100 * shares[name] / whole:.1f} %" for name in names], fontsize=8)
    axes.set_xlabel("milliseconds of a step")
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    options = parser(__doc__, batch_size=8, steps=8, warm=4)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--size", type=int, nargs=2, default=(192, 256), help="pixels, height and width")
    options.add_argument("--picture", type=Path)
    args, overrides = options.parse_known_args()
    be_quiet()
    print_head("Where the time of a step goes", device=args.device)
    with workplace() as folder:
        num = (args.warm + 2 * args.steps + 1) * args.batch_size
        data = write_scenes(folder / "scenes", tuple(args.size), (num, 8, 8), 12)
        facts = [f"data.batch_size={args.batch_size}", "trainer.max_epochs=1", "model=unet", "optimizer=adamw"]
        plain = settled([*data, *facts, f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", *overrides])
        prepare(plain)
        shares, whole = profiled(plain, folder / "run", args.steps, args.warm)
    name = plain["model"]["_target_"].rpartition(".")[2]
    title = f"{name}, {args.size[0]}x{args.size[1]}, batch {args.batch_size}, {plain['trainer']['precision']}"
    rows = [
        (key, f"{shares[key]:.1f}", f"{100 * shares[key] / whole:.1f} %")
        for key in sorted(shares, key=lambda k: -shares[k])
    ]
    print(f"{title}: {whole:.1f} ms a step without the profiler\n")
    print_table(("place", "ms", "share"), rows)
    limits = ", ".join(f"{name} {gflops(dtype, args.device):,.0f}" for name, dtype in DTYPES.items())
    print(f"matrix products of 2048, GFLOP/s: {limits}\n")
    if args.picture:
        draw(shares, whole, f"{title}: {whole:.0f} ms a step", args.picture)


if __name__ == "__main__":
    main()
