"""TensorBoard event files that are written as a whole, and replaced when what they tell of changes. Needs no torch."""

import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segsweep.files import write_atomic


def replace_events(folder: Path, name: str, values: Iterable[Any], step: int) -> None:
    """Writes values into an event file of their own, in place of the one of that name.

    A new name each time, because a TensorBoard that is running reads on where it has stopped in files that it knows.

    Args:
        folder: of the TensorBoard run; it exists.
        name: last part of the file's name.
        values: ``Summary.Value``, e.g. by the functions below.
        step: of all of them.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time_ns()
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=now / 1e9, file_version="brain.Event:2").SerializeToString())
    for value in values:
        event = Event(wall_time=now / 1e9, step=step, summary=Summary(value=[value]))
        writer.write(event.SerializeToString())
    before = list(folder.glob(f"events.out.tfevents.*.{name}"))
    # A second more: files are read by name, and one that a run has begun in this second would purge what it follows.
    path = folder / f"events.out.tfevents.{now // 10**9 + 1}.{now % 10**9:09d}.{name}"
    write_atomic(path, buffer.getbuffer())
    for old in before:
        old.unlink(missing_ok=True)


def scalar(tag: str, value: float) -> Any:
    """One number."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=value)


def text(tag: str, markdown: str) -> Any:
    """Markdown for the Text tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text.metadata import create_summary_metadata

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=create_summary_metadata(None, None), tensor=tensor)


def image(tag: str, png: bytes, height: int, width: int) -> Any:
    """A PNG file for the Images tab."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary.Value(tag=tag, image=picture)
