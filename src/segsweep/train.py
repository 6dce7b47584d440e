"""The Hydra app: one run, from the composed config to its record. The checks before it are in ``command.Preflight``."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segsweep import CONF_DIR, command, initial, signals
from segsweep.allocator import keep_memory_between_steps
from segsweep.arguments import as_axes, as_folders
from segsweep.composer import VERSION_BASE
from segsweep.config import Parts, build_model, build_whole, fingerprint, semantic_part, settle
from segsweep.fitting import fit, shown
from segsweep.origin import git_state, versions
from segsweep.redaction import redact, redact_overrides
from segsweep.run import Run, open_run
from segsweep.table import write_row

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

# Nothing that a user could act on: Lightning 2.6 reads a torch class that is being renamed, remarks that debug runs are
# shorter than its logging interval, believes that no loader but its own can begin within an epoch, and that what ranks
# log may differ.
LIGHTNING_NOISE = (
    ".*isinstance\\(treespec, LeafSpec\\).*|.*smaller than the logging interval.*|"
    ".*checkpoint that ended before the epoch ended.*|It is recommended to use .*sync_dist=True.*"
)


def main() -> None:
    """The command ``segsweep``, all but its ``--help``."""
    arguments = as_folders(sys.argv[1:])
    sys.argv[1:] = as_axes(arguments)
    command.run_app(app, arguments)


@hydra.main(config_path=str(CONF_DIR), config_name="train", version_base=VERSION_BASE)
def app(cfg: DictConfig) -> float | None:
    """Hydra's task function: trains in the job's folder and returns the monitored metric, which sweepers optimise."""
    job = HydraConfig.get()
    is_sweep = job.mode == RunMode.MULTIRUN
    overrides: list[str] = OmegaConf.to_container(job.overrides.task, resolve=False)  # type: ignore[assignment]
    origin = origin_of(job.runtime.choices, overrides, cfg.name if is_sweep else None)
    try:
        return run_job(cfg, Path(job.runtime.output_dir), origin)
    except Exception as error:
        if not is_sweep and not command.shows_traceback():
            raise SystemExit(1) from error  # Hydra would add a line that says no more
        raise


def origin_of(choices: Mapping[str, str | None], overrides: Sequence[str], sweep: str | None) -> dict[str, Any]:
    """What the record says about where a run comes from.

    Args:
        choices: option of each group, Hydra's own included.
        overrides: as typed.
        sweep: its name, None for a single run.
    """
    ours = {key: choice for key, choice in choices.items() if "/" not in key and choice is not None}
    return {"choices": ours, "overrides": redact_overrides(overrides), "sweep": sweep}


def run_job(cfg: DictConfig, folder: Path, origin: dict[str, Any]) -> float | None:
    """Trains as ``train`` does, and logs what goes wrong."""
    with errors_logged():
        return train(cfg, folder, origin)


@contextlib.contextmanager
def errors_logged() -> Iterator[None]:
    """Logs what goes wrong in the block: a line each, the traceback to the file alone."""
    try:
        yield
    except Exception as error:
        for line in str(error).splitlines():
            log.error("error: %s", line)
        log.debug("the traceback:", exc_info=True)
        error.is_reported = True  # type: ignore[attr-defined]
        raise


def train(cfg: DictConfig, folder: Path, origin: dict[str, Any]) -> float | None:
    """Trains, tests and records one run; a run that is complete already is left alone.

    Args:
        cfg: composed and checked.
        folder: of the run; it exists.
        origin: facts for the record: ``choices``, ``overrides``, ``sweep``.

    Returns:
        ``monitor`` at the best epoch.

    Raises:
        Interrupted: by SIGTERM or SIGINT; the same call continues the run.
    """
    with signals.handled():
        return _train(cfg, folder, origin)


def _train(cfg: DictConfig, folder: Path, origin: dict[str, Any]) -> float | None:
    keep_memory_between_steps()
    plain = settle(cfg)
    ended: Run | None = None
    try:
        with open_run(folder, {**origin, **identity(plain), **search_facts(folder, plain)}) as run:
            if run.is_completed:
                log.info("complete already: %s", shown(folder))
                return run.record["metrics"].get(plain["monitor"])  # type: ignore[no-any-return]
            ended = run
            (folder / "config.yaml").write_text(config_text(cfg))
            if (num := plain["trainer"].get("stack_seeds")) is not None:
                log.info("trainer.stack_seeds=%d: trained alone; only jobs of one sweep (-m) are trained as one", num)
            if plain["trainer"]["strategy"] in ("ddp", "fsdp"):
                from segsweep import ranks

                ranks.share(_work, run, plain, plain["trainer"]["devices"])
            else:
                _work(run, plain)
            return run.record["metrics"].get(plain["monitor"])  # type: ignore[no-any-return]
    finally:
        if ended is not None:  # whatever its end: the table has a row for every run
            write_row(folder, ended.record)


def _work(run: Run, plain: dict[str, Any]) -> None:
    """All of a run but its lock and its end; where several processes train it, each does this."""
    import torch

    from segsweep import cost, hardware

    warnings.filterwarnings("ignore", message=LIGHTNING_NOISE)
    hardware.prepare(plain["trainer"]["accelerator"], plain["trainer"]["tf32"])
    cost.reset_peak_memory()
    model = build_model(plain)
    run.save(threads=torch.get_num_threads(), **describe(model, plain))
    parts = fit(run, model, plain)
    if parts.ends_as != "completed":
        _leave(run, parts)
        return
    if plain["trainer"]["strategy"] == "fsdp":
        parts = build_whole(parts, plain, run.folder)
    test(run, parts, plain)
    if parts.trainer.is_global_zero:
        finish(run, parts, plain)


def identity(plain: dict[str, Any]) -> dict[str, Any]:
    """Who the run is, before anything is built."""
    from segsweep import hardware, metrics

    return {
        "family": plain["model"].get("family"),
        "seed": plain["seed"],
        "monitor": plain["monitor"],
        "fingerprint": fingerprint(plain),
        "fingerprint_without_seed": fingerprint(plain, with_seed=False),
        "config": redact(semantic_part(plain)),
        "metric_version": metrics.VERSION,
        "git": git_state(),
        "versions": dict(versions()),
        "precision": plain["trainer"]["precision"],
        "devices": plain["trainer"]["devices"],
        "pretrained": plain["model"].get("encoder_weights"),
        **({"init_from": initial.facts(plain["init_from"])} if plain.get("init_from") is not None else {}),
        **hardware.describe(plain["trainer"]["accelerator"]),
    }


def search_facts(folder: Path, plain: dict[str, Any]) -> dict[str, int | None]:
    """Which trial of a search the run is, and of how many."""
    from segsweep import journal

    trial = plain["sweep"]["trial"]
    about = journal.about(folder.parent / journal.FILE) if trial is not None else None
    return {"tuning_trials": 0} if about is None else {"trial": trial, "tuning_trials": about["n_trials"]}


def describe(model: "nn.Module", plain: dict[str, Any]) -> dict[str, int]:
    """Sizes up the model; a model that cannot take the images stops here, before any data is read."""
    from segsweep import cost

    data = plain["data"]
    parameters = cost.count_parameters(model)
    sizes = [tuple(data[key]) for key in ("size", "crop", "tile") if data[key]]
    if not sizes:
        return {"parameters": parameters}  # every image has a size of its own
    flops = [cost.count_flops(model, data["in_channels"], size) for size in dict.fromkeys(sizes)]
    log.info(
        "model %s: %.3f M parameters, %.3f GFLOPs for %dx%d pixels",
        type(model).__name__,
        parameters / 1e6,
        flops[0] / 1e9,
        *sizes[0],
    )
    return {"parameters": parameters, "flops": flops[0]}


def test(run: Run, parts: Parts, plain: dict[str, Any]) -> None:
    """Scores the weights of the last epoch and of the best one on the test split."""
    from segsweep import cost, sharing
    from segsweep.curves import ScoreCounts

    parts.trainer.strategy.barrier("trained")  # the first rank may still be writing what all read now
    lines = parts.history.lines()
    last = dict(lines[-1])
    best = next(line for line in lines if line["epoch"] == parts.best.epoch)
    if last["epoch"] != best["epoch"]:
        parts.task.test_stage = "test_last"
        scores = _tested(parts)
        last |= {key.replace("test_last/", "test/"): value for key, value in scores.items()}
    parts.best.restore(parts.task)
    if parts.task.objective.prunes:
        before = run.record["parameters"]
        is_smaller = cost.count_parameters(parts.task.model) < before
        smaller = describe(parts.task.model, plain) if is_smaller else {}
        run.save(sparsity=cost.sparsity(parts.task.model, before), **smaller)
    parts.task.test_stage = "test"
    if parts.board.pr_curves:
        parts.task.score_counts = ScoreCounts(parts.data.spec.num_classes, parts.data.spec.ignore_index)
    scores = _tested(parts)
    if last["epoch"] == best["epoch"]:
        last |= scores
    run.save(
        metrics=_metrics({**best, **scores}),
        metrics_last=_metrics(last),
        best_epoch=best["epoch"],
        epochs=len(lines),
        steps=last["step"],
        images_seen=parts.task.images_seen,
        images_tested=len(parts.task.tested()),
        peak_memory_mb=cost.largest(sharing.gather(cost.peak_memory_mb())),
    )
    floor = max(values["test/miou"] for values in run.record["floors"].values())
    log.info("test: mIoU %.4f with the weights of epoch %d (floor %.4f)", scores["test/miou"], best["epoch"] + 1, floor)


def _tested(parts: Parts) -> dict[str, float]:
    """Metrics of the test split, by the weights that the task has."""
    parts.trainer.test(parts.task, datamodule=parts.data, verbose=False)
    prefix = f"{parts.task.test_stage}/"
    return {key: float(value) for key, value in parts.trainer.callback_metrics.items() if key.startswith(prefix)}


def _leave(run: Run, parts: Parts) -> None:
    """Records a run that its search has pruned or paused: it is not tested."""
    from segsweep import cost, sharing

    parts.trainer.strategy.barrier("trained")
    lines = parts.history.lines()
    best = next(line for line in lines if line["epoch"] == parts.best.epoch)
    run.ends_as = parts.ends_as
    run.save(
        metrics=_metrics(best),
        metrics_last=_metrics(lines[-1]),
        best_epoch=best["epoch"],
        epochs=len(lines),
        steps=lines[-1]["step"],
        images_seen=parts.task.images_seen,
        peak_memory_mb=cost.largest(sharing.gather(cost.peak_memory_mb())),
    )
    parts.logger.experiment.close()
    log.info("%s after epoch %d: %s", run.ends_as, len(lines), shown(run.folder))


def finish(run: Run, parts: Parts, plain: dict[str, Any]) -> None:
    """Measures the cost, writes what the report reads, and what TensorBoard shows of the end of a run."""
    import numpy as np

    from segsweep import board, cost, panels, projector

    task = parts.task.to(parts.trainer.strategy.root_device).eval()
    batches = parts.data.test_images(task.tested())
    image = next(iter(batches)).image
    with parts.trainer.precision_plugin.forward_context():
        code, speeds = cost.code_size(task.model, image), cost.speeds(task.model, image)
    trained = [line["train/images_per_s"] for line in parts.history.lines()]
    run.save(
        **({"code": code} if code else {}),
        images_per_s={"train": float(np.median(trained[1:] or trained)), **speeds},
    )
    _compare_readouts(run, parts)
    counts, tested = task.test_counts(), task.tested()
    items = [batches.split.items[position] for position in tested]
    np.savez_compressed(
        run.folder / "test_confusion.npz",
        **counts._asdict(),
        names=np.array([item.name for item in items]),
        groups=np.array([item.group for item in items]),
    )
    worst = [tested[i] for i in panels.worst_positions(counts.confusion, parts.data.spec)]
    panels.write_examples(run.folder / "test_examples", task, batches, worst)
    projector.log_latents(parts.logger, task, parts.data)
    board.end(parts.logger, task, counts, parts.trainer.global_step)
    parts.logger.experiment.close()  # a sweep in one process would gather open files
    log.info("done: %s", shown(run.folder))


def _compare_readouts(run: Run, parts: Parts) -> None:
    """Sets clusters of a model without labels beside a probe of the same features and beside the controls."""
    controls = parts.task.compare_readouts()
    if not controls:
        return
    keys = ("test/miou", "test/pixel_accuracy")
    others = {"clusters": run.record["metrics"], "location_prior": run.record["floors"]["location_prior"]}
    readout = {name: {key: values[key] for key in keys} for name, values in {**others, **controls}.items()}
    run.save(readout=readout)
    for name, values in readout.items():
        parts.logger.experiment.add_scalar(f"readout/{name}", values["test/miou"], parts.trainer.global_step)
    log.info(
        "readout: test mIoU %s", ", ".join(f"{name} {values['test/miou']:.4f}" for name, values in readout.items())
    )


def _metrics(line: dict[str, Any]) -> dict[str, float | None]:
    return {key: value for key, value in line.items() if key.startswith(("train/", "val/", "test/"))}


def config_text(cfg: DictConfig) -> str:
    """The composed config with its interpolations, secrets redacted."""
    return OmegaConf.to_yaml(OmegaConf.create(redact(OmegaConf.to_container(cfg, resolve=False))))
