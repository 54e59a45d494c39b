"""A two-centre table in one file: ``.npz`` with plain arrays and a JSON header."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..io.files import atomic_path
from ..io.npz import read_arrays
from ..io.parsing import parse_json
from .neighbours import symbol
from .twocentre import PairTable, TwoCentre, bond_functions

__all__ = ["FORMAT", "VERSION", "load_table", "save_table"]

FORMAT = "deeph-gformer overlap table"
#: 2: a digest of everything in the file
VERSION = 2


def save_table(path: str | os.PathLike[str], table: TwoCentre) -> pathlib.Path:
    """Write a table in one step; ``.npz`` is appended where it is missing. Distances in Å, S has no
    unit.

    Returns:
        The file written.
    """
    path = pathlib.Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "orbital_types": {str(z): list(s) for z, s in table.orbital_types.items()},
        "report": dict(table.report),
        "pairs": [
            {
                "elements": list(pair),
                "degree": p.degree,
                "cutoff_A": p.cutoff,
                "report": dict(p.report),
            }
            for pair, p in table.pairs.items()
        ],
    }
    arrays: dict[str, NDArray[np.generic]] = {"header": np.array(json.dumps(header))}
    for (a, b), pair in table.pairs.items():
        arrays.update(
            {
                f"knots_{a}_{b}": pair.knots,
                f"coefficients_{a}_{b}": pair.coefficients,
                f"valid_{a}_{b}": pair.valid,
            }
        )
    for z, block in table.onsite.items():
        arrays[f"onsite_{z}"] = block
    arrays["digest"] = np.array(_digest(arrays))
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)
    return path


def _digest(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over names, types, shapes and values of all arrays but itself."""
    digest = hashlib.sha256()
    for name in sorted(set(arrays) - {"digest"}):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype.str} {np.shape(arrays[name])}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _check(table: TwoCentre) -> None:
    """Raise unless arrays have the shapes that shells ask for, and values that overlaps can have.

    Raises:
        ValueError: says which do not.
    """
    for (a, b), pair in table.pairs.items():
        where, size = f"{symbol(a)}-{symbol(b)}", len(pair.knots) - pair.degree - 1
        count = len(bond_functions(table.orbital_types[a], table.orbital_types[b])[0])
        if type(pair.degree) is not int or pair.coefficients.shape != (size, count):
            raise ValueError(f"radial functions of {where} have a wrong shape")
        if not np.isfinite(pair.coefficients).all():
            raise ValueError(f"radial functions of {where} hold NaN or infinite values")
        if not (np.diff(pair.knots) >= 0).all() or not 0 < pair.cutoff < 1000:
            raise ValueError(f"distances of {where} do not ascend")
        if pair.valid.ndim != 2 or pair.valid.shape[1] != 2 or not np.isfinite(pair.valid).all():
            raise ValueError(f"known distances of {where} have a wrong shape")
    for z, block in table.onsite.items():
        size = sum(2 * l + 1 for l in table.orbital_types[z])
        if block.shape != (size, size):
            raise ValueError(f"the block of {symbol(z)} itself has a wrong shape")
        if not (np.abs(block - block.T).max() < 1e-4 and np.linalg.eigvalsh(block).min() > 0):
            raise ValueError(f"the block of {symbol(z)} itself is no overlap")


def load_table(path: str | os.PathLike[str]) -> TwoCentre:
    """Read what :func:`save_table` wrote; once, as long as the file stays as it is.

    Raises:
        DataError: the file is missing, damaged, no overlap table, or of a later version.
    """
    path = pathlib.Path(path)
    try:
        found = path.stat()
    except OSError:  # told when it is read
        return _load(path, (0, 0))
    return _load(path, (found.st_mtime_ns, found.st_size))


@functools.lru_cache(maxsize=8)
def _load(path: pathlib.Path, stamp: tuple[int, int]) -> TwoCentre:
    """The table in a file; ``stamp``: time of change and size, by which a new one is told."""
    try:
        data = read_arrays(path, "overlap table")

        def numbers(name: str) -> NDArray[np.float64]:
            values = np.array(data[name], dtype=np.float64)
            values.setflags(write=False)  # everybody has the same
            return values

        header = parse_json(str(data["header"]), f"{path}, header")
        if header["format"] != FORMAT:
            raise KeyError("format")
        if header["version"] > VERSION:
            raise DataError(
                f"{path}: overlap table of version {header['version']}, this program reads up to "
                f"{VERSION}; update deeph-gformer"
            )
        shells = {int(z): tuple(s) for z, s in header["orbital_types"].items()}
        pairs = {}
        for entry in header["pairs"]:
            a, b = entry["elements"]
            pairs[a, b] = PairTable(
                numbers(f"knots_{a}_{b}"),
                numbers(f"coefficients_{a}_{b}"),
                entry["degree"],
                entry["cutoff_A"],
                numbers(f"valid_{a}_{b}"),
                entry["report"],
            )
        onsite = {z: numbers(f"onsite_{z}") for z in shells}
        if header["version"] > 1 and str(data["digest"]) != _digest(data):
            raise ValueError("it is not as it was written")
        table = TwoCentre(shells, pairs, onsite, header["report"])
        _check(table)
        return table
    except np.linalg.LinAlgError:
        raise DataError(f"{path}: not an overlap table, or damaged") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path}: not an overlap table, or damaged ({error}); make one with deeph-gformer "
            "overlap fit"
        ) from None
