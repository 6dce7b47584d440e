"""Machine code from LLVM's language, and the threads that run it.

torch runs its operations on a CPU in a team of threads (OpenMP). Threads of our own would fight with it, as its members
wait for their next work by spinning; so the team is asked for as the compiler of torch asks for it: by the function
``GOMP_parallel`` of the library that torch brings along.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

THREAD_NUMBER, NUM_THREADS = "omp_get_thread_num", "omp_get_num_threads"


@cache
def is_available() -> bool:
    """Whether loops can be compiled and run here."""
    if not sys.platform.startswith("linux") or find_spec("llvmlite") is None:
        return False
    try:
        return all(hasattr(_torch(), name) for name in ("GOMP_parallel", THREAD_NUMBER, NUM_THREADS))
    except OSError:  # torch was linked in another way
        return False


def reads(x: Tensor) -> bool:
    """Whether a tensor has values in this process's memory: some, and not those of a transform or a tracer."""
    is_plain = type(x) in (Tensor, nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    return is_plain and x.device.type == "cpu" and x.numel() > 0


@cache
def _torch() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


@cache
def _target() -> Any:
    """LLVM's target machine, for this very CPU."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in (THREAD_NUMBER, NUM_THREADS):
        llvm.add_symbol(name, ctypes.cast(getattr(_torch(), name), ctypes.c_void_p).value)
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, jit=True)


_engines: list[Any] = []  # whose end would be that of the code they compiled


def compiled(module: str, name: str) -> int:
    """Compiles a module of LLVM's language; the address of its function ``name``, a ``void(int64 *)``.

    It is written as it is to run: LLVM's own passes would take twice the time to find nothing.
    """
    import llvmlite.binding as llvm

    parsed = llvm.parse_assembly(module)
    parsed.verify()
    engine = llvm.create_mcjit_compiler(parsed, _target())
    engine.finalize_object()
    _engines.append(engine)
    address: int = engine.get_function_address(name)
    return address


def run(address: int, arguments: Sequence[int]) -> None:
    """Has every thread of torch's team call a compiled function with these arguments."""
    call = _torch().GOMP_parallel
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    call.restype = None
    call(address, (ctypes.c_int64 * len(arguments))(*arguments), torch.get_num_threads(), 0)
