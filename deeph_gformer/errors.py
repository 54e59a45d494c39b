"""Errors a user can cause. Each message says what is wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = [
    "GFormerError",
    "DataError",
    "ModelError",
    "ConfigError",
    "MissingDependencyError",
    "lacks_memory",
    "printable",
    "reason",
]


class GFormerError(Exception):
    """Base of every error that deeph-gformer raises on purpose.

    The command line turns it into one line and exit code 2.
    """


class DataError(GFormerError):
    """A structure folder or one of its files is missing, damaged or inconsistent."""


class ModelError(GFormerError):
    """A DeepH-E3 model folder or a GFormer bundle cannot be used, or does not fit the structure."""


class ConfigError(GFormerError):
    """An option or a configuration key is unknown, missing or out of range."""


class MissingDependencyError(GFormerError):
    """An optional library is needed; the message names it and the extra that brings it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library '{library}', which is not installed: pip install "
            f"'deeph-gformer[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[GFormerError], tuple[str]]:
        """Sent to another process as the message alone."""
        return GFormerError, (str(self),)


def lacks_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, is what was missing: Python's, NumPy's and
    torch's ways to say so."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in text for words in ("out of memory", "can't allocate memory", "bad_alloc"))
    )


def printable(text: str) -> str:
    """``text`` on one line that any terminal shows as it is: control characters and bytes that are
    no text are escaped.

    Args:
        text: e.g. a message with the name of a file in it.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text
    )


def reason(error: BaseException) -> str:
    """What another package says of its failure, on one line of at most 200 characters.

    Args:
        error: e.g. an assertion of a parser, which often has no text.
    """
    text = printable(" ".join(str(error).split()))[:200]
    return text or f"no reason given: {type(error).__name__}"
