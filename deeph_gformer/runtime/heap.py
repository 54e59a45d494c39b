"""Memory that is freed stays with the process, for steps that need the same again and again."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes of the largest block that a glibc with an upper bound for it keeps.
_OLD_LIMIT = 1 << 25


def keep_freed_memory(size: int = 1 << 30) -> bool:
    """Let glibc keep freed memory up to ``size`` bytes, in blocks of up to as many.

    As it is, glibc gives large blocks back to the kernel at once, which clears each page when it is
    touched again: a fifth of the time of a training step that takes some hundred MB.

    Args:
        size: bytes, below 2 GiB.

    Returns:
        Whether the C library is one that knows this; with another nothing is changed.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS; Windows has no CDLL(None)
        return False
    large = option(_MMAP_THRESHOLD, size) or option(_MMAP_THRESHOLD, min(size, _OLD_LIMIT))
    return bool(large and option(_TRIM_THRESHOLD, size))
