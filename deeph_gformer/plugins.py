"""What other installed packages add: a stage 1, format, export, DFT reader, metric, attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import GFormerError

__all__ = ["installed"]

T = TypeVar("T")


def installed(
    group: str, known: Mapping[str, T], check: Callable[[Any], T | None], what: str
) -> dict[str, T]:
    """``known``, and what the entry points of a group name.

    Args:
        group: of the entry points, e.g. ``deeph_gformer.formats``.
        known: those of this package, by name.
        check: makes one of what an entry point names; None where it cannot be one.
        what: how messages call it, e.g. ``FolderFormat``.

    Returns:
        All by name: a new one by its attribute ``name``, or where it has none by that of its entry
        point.

    Raises:
        GFormerError: a package cannot be imported, or what it names is none, or has a name that is
            taken.
    """
    from importlib.metadata import entry_points

    found = dict(known)
    for point in entry_points(group=group):
        where = f"entry point {group}: '{point.value}'"
        try:
            result = check(point.load())
        except GFormerError:
            raise
        except Exception as error:  # noqa: BLE001  somebody else's code: it may raise anything
            raise GFormerError(
                f"{where} cannot be loaded ({type(error).__name__}: {error}); remove that package, "
                "or mend it"
            ) from None
        name = str(getattr(result, "name", point.name))
        if result is None or name in found:
            raise GFormerError(
                f"{where} is no {what} with a name of its own; remove that package, or mend it"
            )
        found[name] = result
    return found
