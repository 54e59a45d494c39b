"""Names of many datasets, as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["dataset_names"]


def dataset_names(rows: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Rows of integers as names of datasets, without a Python object for each.

    Args:
        rows: (n, c), as they are printed.

    Returns:
        (n,), ``[1, -2, 3]``.
    """
    count, columns = rows.shape
    if not count:
        return np.zeros(0, dtype="S1")
    texts, places = [], []
    for column in range(columns):
        values, place = _levels(rows[:, column])
        form = (b"[" if not column else b" ") + b"%d" + (b"," if column < columns - 1 else b"]")
        texts.append(np.array([form % value for value in values.tolist()], dtype=np.bytes_))
        places.append(place)
    width = sum(text.dtype.itemsize for text in texts)
    # each text overwrites the padding of the one before; the last one's must stay inside the row
    row = width + max(text.dtype.itemsize for text in texts)
    letters = np.zeros((count, row), dtype=np.uint8)
    start = np.arange(count) * row
    for text, place in zip(texts, places, strict=True):
        size = text.dtype.itemsize
        windows = np.lib.stride_tricks.sliding_window_view(
            letters.reshape(-1), size, writeable=True
        )
        windows[start] = text.view(np.uint8).reshape(-1, size)[place]
        start += np.char.str_len(text)[place]
    return np.ascontiguousarray(letters[:, :width]).view(f"S{width}").reshape(-1)


def _levels(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Values that hold all ``numbers`` (n,), and the place (n,) of each among them."""
    low, high = int(numbers.min()), int(numbers.max())
    if high - low <= 4 * len(numbers):
        return np.arange(low, high + 1), numbers - low
    values, place = np.unique(numbers, return_inverse=True)
    return values, place.reshape(-1)
