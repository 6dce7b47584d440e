"""Several processes for one run: what they share, what comes out, and what happens when one of them does not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segsweep import ranks, sharing
from segsweep.config import make
from segsweep.data import eval_batches, train_batches
from segsweep.data.eval_batches import EvalBatches
from segsweep.data.train_batches import TrainBatches
from segsweep.models.dense_cnn import DenseCNN
from segsweep.run import ConfigError, open_run, read_record
from segsweep.tally import ImageCounts
from segsweep.types import Batch, SegmenterOutput
from tests.conftest import TINY, history, loss_overrides, options, timeless
from tests.sources import Arrays, open_data, scenes
from tests.test_command import value_mistakes

TWO = ["trainer.strategy=ddp", "trainer.devices=2"]
# Every pixel counts, every image by itself, nothing depends on the batch: what one process gives, two give.
EQUAL = [
    "model=dense_cnn", "model.widths=[4,8]", "model.hidden_size=64", "loss=cross_entropy", "augment=none",
]  # fmt: skip
FACTS = {"fingerprint": "f", "config": {}, "sweep": None}


@pytest.fixture
def share(tmp_path):
    """``share(work, plain)`` does some work in two ranks and returns the folder; errors are recorded and raised."""

    def run(work, plain=None):
        with open_run(tmp_path, FACTS) as opened:
            ranks.share(work, opened, plain or {}, 2)
        return tmp_path

    return run


def in_group():
    """What Lightning does: joins the process group that the environment describes."""
    torch.distributed.init_process_group("gloo")


# --- whole runs


@pytest.mark.slow
def test_two_processes_give_what_one_gives(start):
    keys = [*EQUAL, "data.num_train=10", "data.num_val=1", "trainer.gradient_clip_val=1"]
    one, two = start("one", *keys), start("two", *keys, *TWO)
    for a, b in zip(history(one), history(two), strict=True):
        assert b == pytest.approx(a, abs=1e-5, nan_ok=True)
    records = [read_record(folder) for folder in (one, two)]
    for kind in ("metrics", "metrics_last"):
        values = [timeless(record[kind]) for record in records]
        assert values[1] == pytest.approx(values[0], abs=1e-5)
        assert "test/miou" in values[1]
    for key in ("steps", "images_seen", "images_tested", "best_epoch", "epochs", "floors", "data", "flops"):
        assert records[1][key] == records[0][key], key
    assert [record["devices"] for record in records] == [1, 2]
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=0)
    counts = [np.load(folder / "test_confusion.npz") for folder in (one, two)]
    assert counts[1]["names"].tolist() == counts[0]["names"].tolist()
    assert np.abs(counts[1]["confusion"] - counts[0]["confusion"]).sum() <= 4  # a pixel on the border of two classes
    files = [{file.name for file in folder.rglob("*") if not file.name.startswith("events")} for folder in (one, two)]
    assert {file for file in files[1] - files[0] if "worst" not in file} == {"log.rank0.txt", "log.rank1.txt"}
    assert len(list(two.glob("events.out.*"))) == 2  # of rank zero, and the row of the table
    assert len(EventAccumulator(str(two)).Reload().Scalars("val/miou")) == 2


@pytest.mark.slow
def test_batch_norm_is_that_of_each_rank_and_the_same_every_time(start):
    keys = ["model.widths=[4,8]", "data.num_val=7", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", *TWO]
    first, second = start("first", *keys), start("second", *keys)
    assert history(first) == history(second)
    assert timeless(read_record(first)["metrics"]) == timeless(read_record(second)["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ["regime=joint", "model=conv_autoencoder", "model.widths=[4,8]"],
        ["regime=self_training", "data.labelled_fraction=0.5", "model.widths=[4,8]"],
        ["regime=pretrain", "model=conv_autoencoder", "model.widths=[4,8]"],
        ["regime=pretrain_frozen", "model=conv_autoencoder", "model.widths=[4,8]", "augment=none"],
        ["regime=synthetic", "model.widths=[4,8]"],
        ["regime=unsupervised", "model=conv_autoencoder", "model.widths=[4,8]"],
        ["augment=strong", "model=reseg", "model.widths=[4,8]", "model.hidden_size=8", "loss=ce_dice"],
        ["model=vae", "model.widths=[4,8]", "model.latent_channels=4"],
        ["data.tile=[32,32]", "model.widths=[4,8]", "trainer.accumulate_grad_batches=2"],
        ["trainer.early_stopping.patience=1", "scheduler=plateau", "model.widths=[4,8]", "trainer.max_epochs=20"],
        ["trainer.limit_test_batches=1", "trainer.limit_val_batches=1", "model.widths=[4,8]"],
    ],
    ids=lambda keys: keys[0],
)
def test_two_processes_train_everything(start, keys):
    record = read_record(start("run", *keys, *TWO))
    assert record["status"] == "completed"
    assert 0 <= record["metrics"]["test/miou"] <= 1
    assert record["images_tested"] == (4 if "trainer.limit_test_batches=1" in keys else 5)


@pytest.mark.slow
@pytest.mark.parametrize("every_steps", ["null", "2"])
def test_a_run_that_a_dead_rank_ended_continues_to_the_same_end(start, monkeypatch, tmp_path, every_steps):
    keys = [*EQUAL, "model._target_=tests.test_ranks.Fragile", "trainer.max_epochs=3", "augment=light", *TWO]
    keys.append(f"trainer.checkpoint_every_steps={every_steps}")
    straight = start("straight", *keys)
    monkeypatch.setenv("TEST_RANK_1_DIES_AT", "9")  # of 9 steps
    with pytest.raises(ranks.RankError, match=r"the process was killed by SIGKILL \(rank 1, log.rank1.txt\)"):
        start("stopped", *keys)
    folder = tmp_path / "stopped"
    record = read_record(folder)
    assert (record["status"], record["error"]["class"]) == ("failed", "killed")
    assert (folder / "checkpoints" / "last-2-8.ckpt").exists() == (every_steps == "2")
    monkeypatch.delenv("TEST_RANK_1_DIES_AT")
    start("stopped", *keys)
    assert read_record(folder)["status"] == "completed"
    assert history(folder) == history(straight)
    weights = [load_file(path / "checkpoints" / "best.safetensors") for path in (straight, folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ConfigError, match=r"trainer\.devices: 2 -> 1"):
        start("stopped", *keys, "trainer.devices=1")


def without_norms(metrics):
    """Of a part of the gradient, as each rank has it, they would say nothing."""
    kept = {key: value for key, value in metrics.items() if "grad_norm" not in key}
    assert len(kept) == len(metrics) - 2
    return kept


@pytest.mark.slow
def test_divided_weights_give_what_whole_ones_give(start, monkeypatch):
    """``trainer=fsdp`` needs a GPU; all but the exchange between GPUs is tried on the CPU, past the check.

    Not how it continues: torch 2.15 gathers the optimizer's state on a CPU into memory that both moments share.
    """
    one = start("one", *EQUAL)
    monkeypatch.setattr("segsweep.train._work", sharded_on_the_cpu)
    two = start("two", *EQUAL, "trainer.strategy=fsdp", "trainer.devices=2")
    for a, b in zip(history(one), history(two), strict=True):
        assert b == pytest.approx(without_norms(a), abs=1e-5, nan_ok=True)
    metrics = [timeless(read_record(folder)["metrics"]) for folder in (one, two)]
    assert metrics[1] == pytest.approx(without_norms(metrics[0]), abs=1e-5)
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=0)


def sharded_on_the_cpu(run, plain):
    from pytorch_lightning.strategies import FSDPStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel

    from segsweep.train import _work

    def divide(self, module):
        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), **self.kwargs)

    FSDPStrategy._setup_model = divide
    _work(run, plain)


class Fragile(DenseCNN):
    """Takes its process with it in one of its training steps, if the environment says so."""

    steps = 0

    def forward(self, image):
        is_trained = self.training and image.is_floating_point() and image.dtype == torch.float32
        Fragile.steps += is_trained
        if os.environ.get("LOCAL_RANK") == "1" and os.environ.get("TEST_RANK_1_DIES_AT") == str(Fragile.steps):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(image)


@pytest.mark.slow
def test_a_sweep_of_two_jobs_of_two_processes_makes_two_folders(tmp_path):
    command = [sys.executable, "-m", "segsweep", "-m", *TINY, *EQUAL, *TWO, "seed=0,1", "name=two"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    sweep = tmp_path / "outputs" / "sweeps" / "two"
    assert sorted(path.parent.name for path in (tmp_path / "outputs").rglob("record.json")) == ["seed=0", "seed=1"]
    for job in ("seed=0", "seed=1"):
        record = read_record(sweep / job)
        assert (record["status"], record["devices"], record["epochs"]) == ("completed", 2, 2)
        assert len(history(sweep / job)) == 2
        assert "test: mIoU" in (sweep / job / "log.txt").read_text()
    ledger = [json.loads(line)["status"] for line in (sweep / "ledger.jsonl").read_text().splitlines()]
    assert sorted(ledger) == ["completed"] * 2 + ["running"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_its_run(tmp_path, how):
    command = [sys.executable, "-m", "segsweep", *TINY, *EQUAL, *TWO, "trainer.max_epochs=10000", "name=long"]
    folder = tmp_path / "outputs" / "runs" / "long"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_text())
            family = descendants(process.pid)
            process.send_signal(how)
            started = time.monotonic()
            code = process.wait(60)
        finally:
            process.kill()
    assert len(family) >= 2
    wait_for(lambda: not any(is_alive(pid) for pid in family), 30)
    assert time.monotonic() - started < 30  # 1 s where nothing else runs
    if how == signal.SIGTERM:
        assert code == 143
        assert read_record(folder)["status"] == "interrupted"


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def descendants(pid):
    """Process ids of the children of a process, and of theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def is_alive(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


# --- ranks that fail


def one_fails(run, plain):
    in_group()
    if sharing.rank() == 1:
        raise ArithmeticError("too little of everything")
    torch.distributed.barrier()  # for ever, if nobody ends it


def one_fails_before_they_meet(run, plain):
    if os.environ["RANK"] == "1":
        raise MemoryError("out of memory")
    in_group()


def one_is_killed(run, plain):
    in_group()
    torch.distributed.barrier()
    if sharing.rank() == plain["rank"]:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_run_with_its_own_error(share, tmp_path):
    with pytest.raises(ranks.RankError, match=r"too little of everything \(rank 1, log.rank1.txt\)"):
        share(one_fails)
    record = read_record(tmp_path)
    assert record["status"] == "failed"
    assert record["error"]["class"] == "ArithmeticError"
    log = (tmp_path / "log.rank1.txt").read_text()
    assert "Traceback" in log
    assert "too little of everything" in log


@pytest.mark.slow
def test_nobody_waits_for_a_rank_that_never_arrives(share, tmp_path):
    with pytest.raises(ranks.RankError, match="out of memory"):
        share(one_fails_before_they_meet)
    assert read_record(tmp_path)["error"]["class"] == "oom"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_the_cause_of_what_the_others_say(share, tmp_path, rank):
    with pytest.raises(ranks.RankError, match=rf"was killed by SIGKILL \(rank {rank}"):
        share(one_is_killed, {"rank": rank})
    assert read_record(tmp_path)["error"]["class"] == "killed"


# --- what each of them does


def exchange(run, plain):
    in_group()
    rank = sharing.rank()
    rows = torch.arange(3 * rank, dtype=torch.int32).reshape(-1, 3) + 10 * rank
    counts = ImageCounts(2, 255)
    if rank:  # the other one has seen no image
        counts.update(torch.randn(2, 2, 3, 3), torch.randint(0, 2, (2, 3, 3)), torch.tensor([5, 2]))
    result = counts.compute()
    found = {
        "gathered": sharing.gather({"rank": rank}),
        "rows": sharing.gather_rows(rows).tolist(),
        "images": counts.positions,
        "shape": list(result.confusion.shape),
        "threads": torch.get_num_threads(),
    }
    (run.folder / f"found{rank}.json").write_text(json.dumps(found))
    run.save(saved_by=sharing.gather(rank)[rank])


@pytest.mark.slow
def test_ranks_tell_each_other_what_they_have(share):
    folder = share(exchange)
    found = [json.loads((folder / f"found{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0]["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert found[0]["rows"] == [[10, 11, 12]]
    assert found[0]["images"] == [2, 5]
    assert found[0]["shape"] == [2, 2, 2]
    assert found[0]["threads"] == max(1, torch.get_num_threads() // 2)
    assert read_record(folder)["saved_by"] == 0


def as_rank(monkeypatch, rank, world_size):
    for module in (train_batches, eval_batches):
        monkeypatch.setattr(module, "rank", lambda: rank)
        monkeypatch.setattr(module, "world_size", lambda: world_size)


@pytest.mark.parametrize("kind", ["labelled", "mixed"])
def test_ranks_divide_the_batches_of_one_process(monkeypatch, kind):
    """The same images in the same order with the same draws, partners of mixing included."""
    changed = {"mix": "copy_paste", "mix_share": 0.5, "hflip": 0.5, "rotate": 20.0}
    facts = {"size": (16, 20), "batch_size": 4, "labelled_fraction": 0.5, "train_on": kind}
    source = Arrays(train=scenes(11), val=scenes(2, seed=1), test=scenes(2, seed=2))
    data = open_data(source, changed, **facts)

    def epoch(rank, world_size):
        as_rank(monkeypatch, rank, world_size)
        loader = TrainBatches(data, torch.device("cpu"))
        loader.set_epoch(3)
        return list(loader)

    whole, parts = epoch(0, 1), [epoch(rank, 2) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 3
    for batch, first, second in zip(whole, *parts, strict=True):
        for one, halves in zip(batch.divide(), zip(first.divide(), second.divide(), strict=True), strict=True):
            if one is not None:
                assert torch.equal(torch.cat([half.index for half in halves]), one.index)
                assert torch.equal(torch.cat([half.image for half in halves]), one.image)
                assert torch.equal(torch.cat([half.mask for half in halves]), one.mask)


@pytest.mark.parametrize("num", [1, 5, 9])
def test_ranks_score_each_image_once(monkeypatch, num):
    data = open_data(Arrays(train=scenes(2), val=scenes(num, seed=1), test=scenes(2, seed=2)), batch_size=6)
    seen = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        mine = list(EvalBatches(data, "val", torch.device("cpu"), is_shared=True))
        assert all(len(batch.image) == len(batch.mask) == len(batch.index) <= 2 for batch in mine)
        seen.append(torch.cat([batch.index for batch in mine]).tolist())
    assert sorted(position for part in seen for position in part) == list(range(num))
    assert max(map(len, seen)) - min(map(len, seen)) <= 2


# Of these the page says that the mean over the parts of a batch is that of the batch.
DIVISIBLE = {"cross_entropy", "bce", "focal", "mse", "mae", "ncut", "boundary", "reconstruction", "kl"}


@pytest.mark.parametrize("option", options("loss"))
def test_the_page_names_the_losses_that_can_be_divided(composer, option):
    node = OmegaConf.to_container(composer("model=vae", *loss_overrides(option)), resolve=True)["loss"]
    loss, generator = make(node), torch.Generator().manual_seed(0)
    logits, image, rebuilt = (torch.randn(4, k, 12, 12, generator=generator) for k in (11, 1, 1))
    mask = torch.randint(0, 11, (4, 12, 12), generator=generator)
    divergence = torch.rand(4, generator=generator)

    def terms(part):
        output = SegmenterOutput(logits[part], rebuilt[part], None, divergence[part])
        return loss(output, Batch(image[part], mask[part], torch.arange(4)[part]))

    whole, first, second = (terms(slice(*ends)) for ends in ((0, 4), (0, 2), (2, 4)))
    for name in whole.keys() - {"total"}:
        is_equal = abs(float(whole[name] - (first[name] + second[name]) / 2)) < 1e-6
        assert is_equal == (name in DIVISIBLE), name


# --- checks


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.devices=2"], ["trainer.devices=2: trainer.strategy=auto does not share", "Use trainer=ddp"]),
        (["trainer.devices=auto"], ["trainer.devices=auto is not a number of processes"]),
        (["trainer.strategy=dpp"], ["trainer.strategy='dpp': use 'auto' or 'ddp' or 'fsdp'"]),
        (
            ["trainer=ddp", "trainer.devices=3"],
            ["data.batch_size=16", "trainer.devices=3; use e.g. data.batch_size=15"],
        ),
        (["trainer=ddp", "trainer.sync_batchnorm=true"], ["trainer.sync_batchnorm=true needs a GPU"]),
        (["trainer=ddp", "trainer.on_oom=halve"], ["trainer.on_oom=halve: one process cannot"]),
        (["trainer=fsdp", "trainer.accelerator=cpu"], ["trainer.strategy=fsdp needs a GPU", "Use trainer=ddp"]),
    ],
)
def test_what_cannot_be_shared_is_told_before_it_starts(composed, overrides, expected):
    cpu = [] if any("accelerator" in key or key == "trainer=fsdp" for key in overrides) else ["trainer.accelerator=cpu"]
    lines = value_mistakes(composed, *overrides, *cpu, memo={})
    assert len(lines) == 1, lines
    for part in expected:
        assert part in lines[0]


def test_more_gpus_than_there_are(composed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    fixed = ["trainer.precision=32-true", "trainer.accelerator=gpu"]
    assert value_mistakes(composed, "trainer=ddp", *fixed, memo={}) == [
        "trainer.devices=2: torch sees 1 GPU here; use at most so many"
    ]
    assert value_mistakes(composed, "trainer=ddp", "trainer.devices=1", *fixed, memo={}) == []


def test_what_fsdp_cannot_share(composed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    keys = ["trainer=fsdp", "trainer.precision=32-true"]
    assert value_mistakes(composed, *keys, memo={}) == []
    (line,) = value_mistakes(composed, *keys, "regime=pretrain", memo={})
    assert "a regime of several stages or with a readout cannot work" in line
    (line,) = value_mistakes(composed, *keys, "trainer.gradient_clip_val=1", memo={})
    assert "trainer.gradient_clip_val: under trainer.strategy=fsdp" in line
