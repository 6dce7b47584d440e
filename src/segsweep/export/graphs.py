"""Files of graphs, ONNX and torch.export, each tried on images of other sizes before anybody relies on it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from segsweep.export.trace import Deployed, NotExportableError, first_line, quiet, trace

Format = Literal["onnx", "torch"]
Pixels = NDArray[np.uint8]
Runner = Callable[[Pixels], NDArray[np.float32]]  # (N, C, H, W) -> (N, K, H, W)
_MOST_BYTES = 2**31 - 1  # of a protobuf message, and so of an ONNX model in one file
# Images, and what is added to height and width: none, some, odd numbers; smaller ones a model may refuse.
_OTHER_SIZES = ((2, 0, 0), (1, 32, 16), (3, 21, 2), (1, 2, 33), (1, 112, 152))
_ENOUGH = 0.99  # of the pixels: random noise has many that are undecided


@dataclass(frozen=True)
class Graph:
    """A file's content.

    Attributes:
        data: of the file.
        is_free: whether height and width are free, not only the batch.
        why_fixed: what stood against free sizes, in the words of the library; empty if they are free.
    """

    data: bytes
    is_free: bool
    why_fixed: str


def make_graph(kind: Format, model: Deployed, in_channels: int, size: tuple[int, int], about: dict[str, str]) -> Graph:
    """Makes a graph for images of any size, or else for those of one size.

    Args:
        kind: ``onnx``, or ``torch`` for torch.export.
        model: in evaluation mode, on the CPU.
        in_channels: C.
        size: (H, W) that the model was trained on.
        about: text that the file carries, by key.

    Raises:
        NotExportableError: neither is possible.
    """
    write, run = (_onnx_file, onnx_runner) if kind == "onnx" else (_torch_file, torch_runner)
    why = _refused_size(model, in_channels, size)
    for is_free in (False,) if why else (True, False):
        for is_oblivious in (True, False):
            program = None
            try:
                program = trace(model, in_channels, None if is_free else size, is_oblivious)
                data = write(program, about | {"sizes": json.dumps(named(size, is_free))})
                _try(run(data), model, in_channels, size, is_free)
            except NotExportableError as error:
                why, last = why or str(error), error  # the first one's words say most
                if program is not None and kind == "onnx":
                    break  # the other way differs in guards alone, and ONNX has none
            else:
                return Graph(data, is_free, "" if is_free else why)
    raise NotExportableError(f"{last}")


def named(size: tuple[int, int], is_free: bool) -> str:
    """``any`` or ``HxW``."""
    return "any" if is_free else f"{size[0]}x{size[1]}"


def _refused_size(model: Deployed, in_channels: int, size: tuple[int, int]) -> str:
    """What the model says to images of another size; nothing if it takes them."""
    try:
        with torch.inference_mode():
            model(torch.zeros(1, in_channels, size[0] + 32, size[1] + 16, dtype=torch.uint8))
    except (ValueError, RuntimeError) as error:
        return first_line(error).partition(". ")[0]
    return ""


def _try(run: Runner, model: Deployed, in_channels: int, size: tuple[int, int], is_free: bool) -> None:
    """Holds the graph against the model on noise of several sizes.

    Raises:
        NotExportableError: it refuses one or answers differently.
    """
    rng = np.random.default_rng(0)
    for num, rows, columns in _OTHER_SIZES:
        more = (rows, columns) if is_free else (0, 0)
        pixels = rng.integers(0, 256, (num, in_channels, size[0] + more[0], size[1] + more[1]), dtype=np.uint8)
        shown = f"{num} x {pixels.shape[2]}x{pixels.shape[3]}"
        with torch.inference_mode():
            expected = model(torch.from_numpy(pixels)).numpy()
        try:
            found = run(pixels)
        except Exception as error:  # of either library, of a dozen kinds
            raise NotExportableError(f"{shown}: {first_line(error)}") from error
        if found.shape != expected.shape:
            raise NotExportableError(f"{shown}: logits {found.shape} instead of {expected.shape}")
        equal = float((found.argmax(1) == expected.argmax(1)).mean())
        if equal < _ENOUGH:
            raise NotExportableError(f"{shown}: only {equal:.2%} of the pixels of noise have the class that torch says")


def _onnx_file(program: ExportedProgram, about: dict[str, str]) -> bytes:
    import onnx

    if sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values()) > _MOST_BYTES:
        raise NotExportableError("the weights have more than 2 GB, which one ONNX file cannot hold")
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["pixels"], output_names=["logits"]
            )
        model = made.model_proto if made is not None else onnx.ModelProto()
        _strip(model)
        onnx.helper.set_model_props(model, about)
        data: bytes = model.SerializeToString()
    except Exception as error:  # torch, onnxscript and protobuf raise a dozen kinds
        raise NotExportableError(first_line(error)) from error
    return data


def _strip(model: Any) -> None:
    """Leaves out what names files of this machine, and says batch, height and width where torch says s40."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {d.dim_param: n for d, n in zip(dims, ("batch", "C", "height", "width"), strict=True) if d.dim_param}
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)
    parts = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        del part.metadata_props[:]
        del part.value_info[:]
        part.doc_string = ""
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
            parts += [one for attribute in node.attribute for one in (attribute.g, *attribute.graphs) if one.node]


def _torch_file(program: ExportedProgram, about: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, buffer, extra_files={"segsweep.json": json.dumps(about)})
    except Exception as error:  # its serialiser raises a dozen kinds
        raise NotExportableError(first_line(error)) from error
    return buffer.getvalue()


def onnx_runner(data: bytes, threads: int = 1) -> Runner:
    """Runs an ONNX model on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise NotExportableError(first_line(error)) from error
    return lambda pixels: session.run(["logits"], {"pixels": pixels})[0]


def torch_runner(data: bytes) -> Runner:
    """Runs a torch.export program on the CPU."""
    try:
        with quiet():
            module = torch.export.load(io.BytesIO(data)).module()
    except Exception as error:
        raise NotExportableError(first_line(error)) from error

    def run(pixels: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
        return logits

    return run
