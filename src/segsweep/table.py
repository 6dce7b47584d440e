"""A run's row in TensorBoard's HParams table, made of its record alone: however the run ended, it has one.

Hyperparameters are the same keys in every run and none is empty: a key that one run alone has would vanish from
TensorBoard's table, and an empty cell would turn a column of numbers into text. Results may be absent: a run that
failed has no test score, and nobody makes one up.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segsweep.events import replace_events, scalar

log = logging.getLogger(__name__)

_GROUPS = ("model", "loss", "data", "augment", "optimizer", "scheduler", "regime")
_NUMBERS = {  # column -> key of the config; 0 where there is none, because TensorBoard's table breaks at a NaN
    "seed": "seed",
    "lr": "optimizer.lr",
    "batch_size": "data.batch_size",
    "max_epochs": "trainer.max_epochs",
    "labelled_fraction": "data.labelled_fraction",
}
_FIRST = ("model", "family", "lr", "seed", "status")  # TensorBoard shows five columns until one asks for more
_SCORES = {
    "test/miou": "test mIoU", "test/miou_image": "test mIoU of an image", "test/dice": "test Dice",
    "test/pixel_accuracy": "test pixel accuracy", "val/miou": "val mIoU",
}  # fmt: skip
_COSTS = ("train images/s", "inference images/s", "minutes", "peak memory MB", "parameters", "epochs")
_COLUMNS = [  # what a reader sees; the tags begin with table/, so that curves stand above them in Time Series
    *(f"{which} {name}" for which in ("best", "final") for name in _SCORES.values()),
    *_COSTS,
]


def write_row(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes the row of a run that has ended, in place of that of an earlier end.

    Args:
        folder: of the run.
        record: of the run.
    """
    try:
        last = _last_line(folder / "metrics.jsonl")
        step = int(record.get("steps") or last.get("step") or 0)
        replace_events(folder, "row", _values(record, dict(results(record, last))), step)
    except OSError as error:  # a full disk must not hide why the run has ended
        log.warning("the run's row in TensorBoard's HParams table was not written: %s", error)


def hyperparameters(record: Mapping[str, Any]) -> dict[str, str | float]:
    """The columns that say what a run is, and its status: the same keys for every record."""
    choices = record.get("choices") or {}
    words = {
        "status": _status(record),
        "family": str(record.get("family") or "none"),
        "precision": str(record.get("precision") or "none"),
    }
    return {
        **{group: str(choices.get(group) or "none") for group in _GROUPS},
        **words,
        **{column: _number(record.get("config") or {}, key) for column, key in _NUMBERS.items()},
    }


def results(record: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The columns that say how a run went, as far as it got: those of the best epoch, of the last, and what it cost.

    Args:
        record: of the run.
        last: newest line of its history, for a run that could not record its scores.
    """
    for which, scores in (("best", record.get("metrics")), ("final", record.get("metrics_last") or last)):
        for key, name in _SCORES.items():
            value = (scores or {}).get(key)
            if value is not None:
                yield f"{which} {name}", float(value)
    speed, memory = record.get("images_per_s") or {}, record.get("peak_memory_mb") or {}
    epochs = last["epoch"] + 1 if "epoch" in last else None
    values = (
        speed.get("train", last.get("train/images_per_s")),
        speed.get("inference"),
        record.get("wall_s", 0.0) / 60,
        memory.get("device", memory.get("host")),
        record.get("parameters"),
        record.get("epochs", epochs),
    )
    for name, value in zip(_COSTS, values, strict=True):
        if value is not None:
            yield name, float(value)


def _status(record: Mapping[str, Any]) -> str:
    """``completed``, ``pruned``, ``failed (oom)``."""
    kind = (record.get("error") or {}).get("class")
    is_failure = record["status"] == "failed" and kind
    return f"failed ({kind})" if is_failure else str(record["status"])


def _number(config: Mapping[str, Any], key: str) -> float:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else 0.0


def _last_line(file: Path) -> dict[str, Any]:
    """The newest whole line of a history."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    with contextlib.suppress(ValueError, IndexError):
        line: dict[str, Any] = json.loads([line for line in lines if line.endswith("\n")][-1])
        return line
    return {}


def tag(column: str) -> str:
    """Under which a result stands among the scalars.

    >>> tag("best test mIoU")
    'table/best_test_miou'
    """
    return "table/" + column.lower().replace(" ", "_").replace("/", "_per_")


def _values(record: Mapping[str, Any], found: Mapping[str, float]) -> Iterator[Any]:
    """Three entries without values that describe table and row, and the results as scalars."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    columns = hyperparameters(record)
    text, number = api_pb2.DATA_TYPE_STRING, api_pb2.DATA_TYPE_FLOAT64
    table = api_pb2.Experiment(
        hparam_infos=[
            # TensorBoard believes what it is told of one run about all: those that differ stand first.
            api_pb2.HParamInfo(name=name, type=text if isinstance(value, str) else number, differs=name in _FIRST)
            for name, value in columns.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag(column)), display_name=column) for column in _COLUMNS
        ],
    )
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in columns.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    ends = {"completed": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
    end = plugin_data_pb2.SessionEndInfo(status=ends.get(record["status"], api_pb2.STATUS_UNKNOWN))
    data = plugin_data_pb2.HParamsPluginData
    yield _described(metadata.EXPERIMENT_TAG, data(experiment=table))
    yield _described(metadata.SESSION_START_INFO_TAG, data(session_start_info=start))
    yield _described(metadata.SESSION_END_INFO_TAG, data(session_end_info=end))
    for column, value in found.items():
        yield scalar(tag(column), value)


def _described(tag: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    described = metadata.create_summary_metadata(content)
    return Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)
