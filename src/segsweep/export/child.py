"""A process that runs one graph and nothing else: started as a script by ``timing``, which tells it when to run.

Arguments: onnx or torch, the file, threads, device, then the shape of the pixels. It prints the seconds of a warm pass,
then for each number on its input runs so many passes and prints their seconds; at the end its peak memory.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Obeys until the input ends."""
    kind, file, threads, device, *shape = sys.argv[1:]
    load = _onnx if kind == "onnx" else _torch
    run = load(file, int(threads), device, tuple(map(int, shape)))
    run()  # the first pass also pays for set-up
    passes = [_seconds(run, 1) for _ in range(3)]
    print(min(passes), flush=True)
    for line in sys.stdin:
        print(_seconds(run, int(line)), flush=True)
    print(_peak_mb(), flush=True)


def _seconds(run: Callable[[], object], num: int) -> float:
    start = time.perf_counter()
    for _ in range(num):
        run()
    return time.perf_counter() - start


def _onnx(file: str, threads: int, device: str, shape: tuple[int, ...]) -> Callable[[], object]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait would take the time of whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return lambda: session.run(None, {"pixels": pixels})


def _torch(file: str, threads: int, device: str, shape: tuple[int, ...]) -> Callable[[], object]:
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    program = torch.export.load(file)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    module = program.module()
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def run() -> None:
        with torch.inference_mode():
            module(pixels)
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main()
