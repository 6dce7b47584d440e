"""Machine code from LLVM's language, and the threads that run it.

torch runs its operations on a CPU in a team of threads (OpenMP). Threads of our own would fight with it, as its members
wait for their next work by spinning; so the team is asked for as the compiler of torch asks for it: by the function
``GOMP_parallel`` of the library that torch brings along.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_log = logging.getLogger(__name__)

THREAD_NUMBER, NUM_THREADS = "omp_get_thread_num", "omp_get_num_threads"


@cache
def is_available() -> bool:
    """Whether loops can be compiled and run here."""
    if not sys.platform.startswith("linux") or find_spec("llvmlite") is None:
        return False
    try:
        if not all(hasattr(_torch(), name) for name in ("GOMP_parallel", THREAD_NUMBER, NUM_THREADS)):
            return False
        compiled("define void @nothing(ptr %arguments) { ret void }", "nothing")
    except Exception as error:  # torch or LLVM were built in another way, or code must not be made here
        _log.warning("No loops are compiled, torch's operations take their place: %s", error)
        return False
    return True


def reads(x: Tensor) -> bool:
    """Whether a tensor is nothing but values in this process's memory, and nobody follows what is done to it.

    Not so are sparse ones and those that are still to be negated, wrapped by another class, or zero without memory.
    """
    if type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.layout != torch.strided:
        return False
    if torch._C._get_tracing_state() is not None:  # then sizes are no numbers
        return False
    if x.is_neg() or not torch._C._has_storage(x) or not x.numel() or not x.data_ptr():
        return False
    is_transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    return not is_transformed and not torch._C._len_torch_dispatch_stack()


@cache
def _torch() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


@cache
def _processor() -> dict[str, str]:
    """This very CPU, for LLVM, which is told where it finds functions of torch's library."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in (THREAD_NUMBER, NUM_THREADS):
        llvm.add_symbol(name, ctypes.cast(getattr(_torch(), name), ctypes.c_void_p).value)
    return {"cpu": llvm.get_host_cpu_name(), "features": llvm.get_host_cpu_features().flatten()}


_engines: list[Any] = []  # whose end would be that of the code they compiled


def compiled(module: str, name: str) -> int:
    """Compiles a module of LLVM's language; the address of its function ``name``, a ``void(int64 *)``.

    It is written as it is to run: LLVM's own passes would take twice the time to find nothing.
    """
    import llvmlite.binding as llvm

    processor = _processor()
    parsed = llvm.parse_assembly(module)
    parsed.verify()
    # One for each: an engine takes it along when it goes.
    target = llvm.Target.from_default_triple().create_target_machine(**processor, jit=True)
    engine = llvm.create_mcjit_compiler(parsed, target)
    _engines.append(engine)
    engine.finalize_object()
    address: int = engine.get_function_address(name)
    return address


@cache
def _team() -> Any:
    call = _torch().GOMP_parallel
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    call.restype = None
    return call


def run(address: int, arguments: Sequence[int]) -> None:
    """Has every thread of torch's team call a compiled function with these arguments."""
    _team()(address, (ctypes.c_int64 * len(arguments))(*arguments), torch.get_num_threads(), 0)
