"""8-bit integers for weights and activations, chosen from what activations are on training images."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segsweep.export.graphs import Pixels
from segsweep.export.trace import NotExportableError, first_line, quiet

_INTEGER = ("QLinearConv", "QuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul")


def quantise(data: bytes, images: Sequence[Pixels], about: dict[str, str], **changes: Any) -> bytes:
    """Static quantisation by ONNX Runtime: a scale for each channel of weights, one for each activation.

    As docs/export.md measures: ranges from the smallest to the largest value seen, activations unsigned. Weights have
    7 bits, because two products of 8 bits overflow the sums of CPUs without VNNI instructions.

    Args:
        data: of a float32 model.
        images: (1, C, H, W) each, to calibrate on.
        about: text that the file carries, by key.
        changes: other arguments of ``quantize_static``, to compare choices.

    Raises:
        NotExportableError: it holds nothing to quantise, or ONNX Runtime cannot.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Pixels] = iter(images)

        def get_next(self) -> dict[str, Pixels] | None:
            image = next(self.left, None)
            return None if image is None else {"pixels": image}

    with tempfile.TemporaryDirectory(prefix="segsweep-int8-") as folder, quiet():
        float_file, prepared, result = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        float_file.write_bytes(data)
        try:
            # Symbolic shapes are not needed, and fail on some operators of transformers.
            quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(result),
                Reader(),
                **{
                    "quant_format": quantization.QuantFormat.QDQ,
                    "activation_type": quantization.QuantType.QUInt8,
                    "weight_type": quantization.QuantType.QInt8,
                    "calibrate_method": quantization.CalibrationMethod.MinMax,
                    "per_channel": True,
                    "reduce_range": True,
                    **changes,
                },
            )
            model = onnx.load(str(result))
        except Exception as error:  # of its dozen kinds
            raise NotExportableError(f"int8: {first_line(error)}") from error
    if not any(Counter(node.op_type for node in model.graph.node)[name] for name in _INTEGER):
        raise NotExportableError("int8: the model has no operator that ONNX Runtime quantises")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, about)
    quantised: bytes = model.SerializeToString()
    return quantised
