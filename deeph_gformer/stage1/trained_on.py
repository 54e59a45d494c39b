"""Structures that a model was trained on, by the list in its folder."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from configparser import ConfigParser
from configparser import Error as IniError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.equality import StructureDescriptor, match_descriptors, structure_descriptor
from ..errors import ModelError
from ..fields import MODEL_NOTES, MODEL_SOURCE
from ..io.files import read_text
from ..io.folder import read_folder
from .bundle import read_notes
from .provider import Stage1Provider

__all__ = ["among", "descriptors_of", "listed", "read_descriptors", "seen_by"]

#: Names that a message lists.
SHOWN = 6


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first ones of many."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def descriptors_of(folders: Sequence[pathlib.Path]) -> list[StructureDescriptor]:
    """What tells each structure from others, see :func:`.equality.structure_descriptor`."""
    return [structure_descriptor(folder.resolve().name, read_folder(folder)) for folder in folders]


def read_descriptors(table: Any, where: pathlib.Path) -> list[StructureDescriptor]:
    """Marks from JSON.

    Args:
        table: a list of :meth:`~deeph_gformer.data.equality.StructureDescriptor.to_json`.
        where: the file, for the message.

    Raises:
        ModelError: the list is damaged.
    """
    try:
        return [StructureDescriptor.from_json(entry) for entry in table]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(
            f"{where}: its list of structures is damaged; delete the entry to go on without it"
        ) from None


def _folders(stage1: Stage1Provider) -> list[pathlib.Path]:
    """Model folders of a stage 1; of a third party's there may be none."""
    models: Sequence[Stage1Provider] = getattr(stage1, "models", (stage1,))
    return [path for path in (pathlib.Path(m.name) for m in models) if path.is_dir()]


def _never_seen(folder: pathlib.Path) -> list[str]:
    """Names that DeepH-E3's ``train.ini`` kept from training (``extra_validation``)."""
    path = folder / MODEL_SOURCE / "train.ini"
    if not path.is_file():  # a bundle as stage 1 has none
        return []
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path, strict=False))
        text = parser.get("train", "extra_validation", fallback="")
    except IniError:
        return []
    return [part.strip().strip("'\"") for part in text.strip("[] ").split(",") if part.strip()]


def seen_by(
    stage1: Stage1Provider, folders: Sequence[pathlib.Path]
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Which structures a stage 1 was trained on, by its own folder.

    Args:
        stage1: frozen.
        folders: of structures.

    Returns:
        (n,) flags, None where no model folder lists its structures; and names that a folder of
        DeepH-E3 itself says were kept from training.

    Raises:
        ModelError: a list is damaged.
    """
    known: list[StructureDescriptor] = []
    any_list, kept = False, []
    for model in _folders(stage1):
        note = read_notes(model).get("structures")
        kept += _never_seen(model)
        if isinstance(note, dict) and "train" in note:
            any_list = True
            known += read_descriptors(note["train"], model / MODEL_NOTES)
    if not any_list:
        return None, kept
    return among(folders, known), kept


def among(
    folders: Sequence[pathlib.Path], known: Sequence[StructureDescriptor]
) -> NDArray[np.bool_]:
    """(n,), which structures of ``folders`` are among the ``known`` ones."""
    return np.array(
        [m is not None for m in match_descriptors(descriptors_of(folders), known)], dtype=bool
    )
