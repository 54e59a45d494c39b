"""NumPy's ``.npz`` files: sizes are checked before anything is inflated, nothing is unpickled."""

from __future__ import annotations

import math
import os
import zipfile

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, printable
from .files import require_file
from .hdf5.reading import require_memory

__all__ = ["read_arrays"]


def read_arrays(path: str | os.PathLike[str], what: str) -> dict[str, NDArray[np.generic]]:
    """Every array of a file.

    Args:
        path: the file.
        what: it should be, for messages.

    Raises:
        DataError: it is missing, damaged, no such file, or announces far more than it can hold.
    """
    path = require_file(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            require_memory(path, file.fileno(), size, "the archive")
            for entry in entries:
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(stream)
                if math.prod(shape) * dtype.itemsize > entry.file_size:
                    raise DataError(
                        f"{path}: '{printable(entry.filename)}' announces {math.prod(shape)} "
                        "values, more than are there"
                    )
            file.seek(0)
            with np.load(file, allow_pickle=False) as table:
                return {name: table[name] for name in table.files}
    except DataError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - zip, zlib and npy headers fail in many ways
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])[:200]
        raise DataError(f"{path}: no {what}, or damaged ({reason})") from None
