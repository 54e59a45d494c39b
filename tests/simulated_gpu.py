"""A GPU played by the CPU, for tests of device placement on machines that have none.

Inside :func:`simulated_gpu` tensors on ``cuda`` are a subclass that keeps its values in host
memory, says ``cuda:0`` and refuses what CUDA refuses: operations on tensors of two devices,
``numpy()``, operations without a CUDA kernel (torch's own table of operations), and collectives
that NCCL has not. It says nothing about speed, memory or rounding of a real one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torchgen
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["GpuTensor", "no_waiting", "simulated_gpu"]

#: What moves values between devices.
MOVES = {"aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense"}
#: Operations on GPU tensors whose indices may be in host memory: position of the indices.
INDEXED = {
    "aten::index.Tensor": 1,
    "aten::index_put_": 1,
    "aten::index_put": 1,
    "aten::_index_put_impl_": 1,
    "aten::_unsafe_index.Tensor": 1,
}
#: Not even a single number may be on another device.
STRICT = {"aten::cat", "aten::stack"}
#: Views that the CPU resolves above the level at which operations arrive here; made at once.
PHYSICAL = {"aten::_conj": torch.conj_physical, "aten::_neg_view": torch.neg}
#: dtypes of NCCL.
NCCL = {
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
}


class GpuTensor(torch.Tensor):
    """Values in host memory (``host``) that claim to be on ``cuda:0``."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> GpuTensor:
        """Args: host: the values."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device="cuda:0",
        )
        made.host = host
        return made

    def __repr__(self) -> str:
        return f"GpuTensor({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@functools.cache
def _without_kernel() -> frozenset[str]:
    """Names of operations that torch has for the CPU and not for CUDA."""
    text = (
        pathlib.Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    ).read_text()
    found = set()
    for entry in re.split(r"^- func: ", text, flags=re.M)[1:]:
        if (
            "structured_delegate" not in entry
            and re.search(r"^  dispatch:", entry, flags=re.M)
            and not re.search("CUDA|Composite", entry)
        ):
            found.add("aten::" + entry.split("(")[0])
    return frozenset(found)


#: Operations after which the host knows something of a GPU tensor, whatever their arguments are.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_dim",
    "aten::_unique2",
}
_waiting_is_an_error = False


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, what a CUDA graph cannot record is an error: whatever waits for the GPU or copies to
    it."""
    global _waiting_is_an_error
    _waiting_is_an_error = True
    try:
        yield
    finally:
        _waiting_is_an_error = False


def _check_waiting(full: str, name: str, args: Any, kwargs: Any, tensors: Any, gpu: Any) -> None:
    target = kwargs.get("device")
    crosses = name == "aten::_to_copy" and target is not None
    crosses = crosses and (torch.device(target).type == "cuda") != bool(gpu)
    crosses = crosses or (name == "aten::copy_" and 0 < len(gpu) < len(tensors))
    masks = full in INDEXED and any(
        x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[INDEXED[full]])
    )
    if crosses or (gpu and (masks or name in WAITS)):
        raise RuntimeError(f"{full}: waits for the GPU")


@functools.cache
def _names(func: Any) -> tuple[str, str]:
    """Of an operation, without and with its overload."""
    name, overload = func._schema.name, func._schema.overload_name
    return name, f"{name}.{overload}" if overload else name


def _tensors(x: Any) -> Iterator[torch.Tensor]:
    """Those among the arguments of an operation (pytree does this, for any container, slowly)."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _tensors(part)
    elif isinstance(x, dict):
        for part in x.values():
            yield from _tensors(part)


def _each(change: Callable[[torch.Tensor], torch.Tensor], x: Any) -> Any:
    """The same with other tensors."""
    if isinstance(x, torch.Tensor):
        return change(x)
    if isinstance(x, list | tuple):
        return type(x)([_each(change, part) for part in x])
    if isinstance(x, dict):
        return {key: _each(change, part) for key, part in x.items()}
    return x


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name, full = _names(func)
    tensors = list(_tensors((args, kwargs)))
    gpu = [x for x in tensors if isinstance(x, GpuTensor)]
    target = kwargs.get("device")
    if _waiting_is_an_error:
        _check_waiting(full, name, args, kwargs, tensors, gpu)
    if not gpu and target is None:
        return func(*args, **kwargs)
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name.startswith("c10d::"):
        _check_collective(full, tensors, gpu)
    elif gpu and name not in MOVES:
        _check_devices(full, name, args, tensors, gpu)
        if full in _without_kernel():
            raise NotImplementedError(f"{full} has no CUDA kernel")
    on_gpu = (
        torch.device(target).type == "cuda"
        if target is not None
        else bool(gpu) and name != "aten::_local_scalar_dense"
    )
    if name in PHYSICAL and gpu:
        return GpuTensor(PHYSICAL[name](args[0].host))
    known = {id(x.host): x for x in gpu}  # in-place operations return what they were given
    out = func(*_each(_host, args), **_each(_host, kwargs))
    if name == "aten::copy_":
        return args[0]
    return _wrap(out, known, on_gpu)


def _wrap(out: Any, known: dict[int, GpuTensor], on_gpu: bool) -> Any:
    def one(x: torch.Tensor) -> torch.Tensor:
        found = known.get(id(x))
        return GpuTensor(x) if found is None else found

    return _each(one, out) if on_gpu else out


def _host(x: torch.Tensor) -> torch.Tensor:
    return x.host if isinstance(x, GpuTensor) else x


def _check_devices(
    full: str, name: str, args: Any, tensors: list[torch.Tensor], gpu: list[GpuTensor]
) -> None:
    if len(gpu) == len(tensors):
        return
    if full in INDEXED and isinstance(args[0], GpuTensor):
        free = {id(x) for x in _tensors(args[INDEXED[full]])}
        tensors = [x for x in tensors if id(x) not in free]
    if any(not isinstance(x, GpuTensor) and (x.dim() > 0 or name in STRICT) for x in tensors):
        raise RuntimeError(
            f"{full}: Expected all tensors to be on the same device, but found at least two "
            "devices, cuda:0 and cpu!"
        )


def _check_collective(full: str, tensors: list[torch.Tensor], gpu: list[GpuTensor]) -> None:
    if not gpu:
        return
    if len(gpu) < len(tensors):
        raise RuntimeError(f"{full}: tensors of two devices")
    for x in gpu:
        if x.dtype not in NCCL or not x.is_contiguous():
            raise RuntimeError(
                f"{full}: NCCL takes contiguous tensors of real numbers, not {x.dtype}, "
                f"strides {x.stride()}"
            )


class _Dispatch(TorchDispatchMode):
    """What has no tensor among its arguments yet: factories, and copies from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Names(TorchFunctionMode):
    """``cuda`` means ``cuda:0``: torch would ask a CUDA build which one is current."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def full(x: Any) -> Any:
            if isinstance(x, str | torch.device) and str(x) == "cuda":
                return torch.device("cuda", 0)
            return x

        if func is torch.Tensor.tolist:  # not there for subclasses
            return args[0].cpu().tolist()
        named = {key: full(x) for key, x in kwargs.items()} if kwargs else {}
        return func(*[full(x) for x in args], **named)


def _set_device_guard() -> None:
    """Bindings ask for the object that switches between GPUs, which a CPU build has not: give them
    the one of ``meta``, which does nothing."""
    library = pathlib.Path(torch.__file__).parent / "lib" / "libc10.so"
    if not library.is_file():
        pytest.skip("a GPU is simulated on Linux only")
    guards = (ctypes.c_void_p * 21).in_dll(
        ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE"
    )
    cuda, meta = 1, 14  # c10::DeviceType
    assert guards[meta], "torch numbers its devices in another way"
    guards[cuda] = guards[meta]


@contextlib.contextmanager
def simulated_gpu(free: int = 80 * 10**9) -> Iterator[None]:
    """A machine with one GPU per process. Args: free: bytes that it says are free."""
    _set_device_guard()
    lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(
        True
    )  # a new Parameter; the type of an old one cannot change
    join = torch.distributed.init_process_group

    def gloo(backend: str, **options: Any) -> None:
        """NCCL is not in a CPU build; the checks are ours."""
        assert backend == "cpu:gloo,cuda:nccl"
        join("gloo", **options)

    values = {
        "is_available": True,
        "device_count": 8,
        "mem_get_info": (free, free),
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "current_device": 0,
    }
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=value))
        stack.enter_context(
            mock.patch.object(torch.distributed, "is_nccl_available", return_value=True)
        )
        for name in ("_lazy_init", "set_device", "synchronize", "reset_peak_memory_stats"):
            stack.enter_context(mock.patch.object(torch.cuda, name))
        stack.enter_context(mock.patch.object(torch.distributed, "init_process_group", gloo))
        stack.enter_context(_Dispatch())
        stack.enter_context(_Names())
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
            torch._C._set_only_lift_cpu_tensors(lift)
