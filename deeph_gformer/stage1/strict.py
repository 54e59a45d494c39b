"""What a DeepH-E3 model folder may hold: literals of ``Net(...)``, and tensors of a checkpoint."""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3 import Irreps

from ..errors import ModelError, printable
from ..io.files import require_file

__all__ = ["check_arguments", "check_numbers", "check_tensors", "require_checkpoint"]

#: Elements, encoder groups, Gaussians, components of irreps: more is no network of DeepH-E3.
_LARGEST = {"num_species": 118, "num_block": 100, "num_basis": 100_000}
_MAX_DIM, _MAX_L, _MAX_RADIUS = 100_000, 11, 60.0
#: Weights beyond this are no weights.
_MOST = 1e12
#: A checkpoint may unpack to so many times its size, or to _ALWAYS bytes.
_RATIO, _ALWAYS = 100, 2**26


def check_arguments(values: Mapping[str, Any], where: str) -> None:
    """Raise unless the arguments of ``Net(...)`` have the types and sizes of a network.

    Args:
        values: by name.
        where: ``build_model.py``, for the message.

    Raises:
        ModelError: names argument, value and what is allowed.
    """
    for name, value in values.items():
        if name in _LARGEST:
            most = _LARGEST[name]
            good = type(value) is int and 1 <= value <= most
            allowed = f"an integer from 1 to {most}"
        elif name == "r_max":
            good = type(value) in (int, float) and 0 < value <= _MAX_RADIUS
            allowed = f"a length in (0, {_MAX_RADIUS:g}] Å"
        elif name.startswith("irreps_"):
            good, allowed = _are_irreps(value), f"irreps, as '8x0e+4x1o', of l up to {_MAX_L}"
        elif name in ("index_to_Z", "norm"):  # checked where they are read
            good, allowed = True, ""
        else:
            good, allowed = type(value) is bool, "True or False"
        if not good:
            shown = printable(repr(value) if len(repr(value)) < 60 else f"{repr(value)[:50]}...")
            raise ModelError(f"{where}: {name} is {shown}; allowed is {allowed}")


def _are_irreps(value: Any) -> bool:
    if type(value) is not str or len(value) > 200_000:
        return False
    try:
        irreps = Irreps(value)
    except (ValueError, AssertionError):
        return False
    return irreps.dim <= _MAX_DIM and all(ir.l <= _MAX_L for _, ir in irreps)


def require_checkpoint(path: pathlib.Path) -> None:
    """Raise unless a checkpoint is a regular file that does not unpack to far more than it is.

    Its checksums are checked, which ``torch.load`` does not do: a flipped bit is another weight.

    Raises:
        ModelError: says what it is.
    """
    require_file(path, error=ModelError)
    size = os.path.getsize(path)
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(entry.file_size for entry in archive.infolist())
            small = unpacked <= max(_ALWAYS, _RATIO * size)
            broken = archive.testzip() if small else None
    except (
        *(OSError, ValueError, NotImplementedError, RuntimeError, EOFError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise ModelError(
            f"{path}: damaged, not a checkpoint that torch.load can read ({printable(str(error))})"
        ) from None
    if broken is not None or len(set(names)) < len(names):
        what = "is there twice" if broken is None else "does not fit its checksum"
        part = broken or next(name for name in names if names.count(name) > 1)
        raise ModelError(f"{path}: damaged ('{printable(part)[:80]}' {what})")
    if not small:
        raise ModelError(
            f"{path}: announces {unpacked / 2**20:.0f} MiB and has {size / 2**20:.2f} MiB: "
            "compressed far more than numbers are; refused"
        )


def check_tensors(state: Mapping[Any, Any], path: pathlib.Path) -> None:
    """Raise unless a ``state_dict`` holds plain, finite tensors of single or double precision.

    Other types would be converted in silence: booleans and integers are no weights, and half or
    quarter precision is not what the network was trained with.

    Args:
        state: by name.
        path: the checkpoint, for messages.

    Raises:
        ModelError: names the first tensor that is none of these, and what it is.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise ModelError(f"{path}: state_dict has a key {printable(repr(name)[:60])}, no name")
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{path}: '{name}' is no tensor")
        kind = _strange(value)
        if kind:
            raise ModelError(
                f"{path}: '{name}' is {kind}; plain tensors of float32 or float64 are needed, as "
                "DeepH-E3 saves them"
            )
        if not torch.isfinite(value).all():
            raise ModelError(
                f"{path}: parameter '{name}' contains NaN or infinite values; the training "
                "diverged, use an earlier checkpoint"
            )
        if value.numel() and float(value.abs().max()) > _MOST:
            raise ModelError(
                f"{path}: parameter '{name}' reaches {float(value.abs().max()):.3g}, which no "
                "training leaves; the file is damaged"
            )


def _strange(value: torch.Tensor) -> str:
    """What a tensor is that is no plain one; empty for a plain one."""
    if value.is_quantized:
        return "quantised"
    if value.is_nested or value.layout != torch.strided:
        return "nested" if value.is_nested else f"of layout {value.layout}".replace("torch.", "")
    if value.is_meta:
        return "on the meta device, without values"
    if value.dtype not in (torch.float32, torch.float64):
        return f"of type {value.dtype}".replace("torch.", "")
    if value.numel() * value.itemsize > value.untyped_storage().nbytes():
        return f"of shape {tuple(value.shape)}, with fewer values"
    return ""


def check_numbers(checkpoint: Mapping[str, Any], path: pathlib.Path) -> tuple[int, float]:
    """Epoch and validation loss of a checkpoint.

    Args:
        checkpoint: the whole file.
        path: of it, for the message.

    Returns:
        The epoch, -1 where there is none; the loss, NaN where there is none.

    Raises:
        ModelError: they are no numbers.
    """
    epoch, loss = checkpoint.get("epoch", -1), checkpoint.get("val_loss", float("nan"))
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and not _strange(loss):
        loss = loss.item()
    for name, value in (("epoch", epoch), ("val_loss", loss)):
        if type(value) not in (int, float):
            raise ModelError(f"{path}: {name} is {printable(repr(value)[:60])}, no number")
    return int(epoch), float(loss)
