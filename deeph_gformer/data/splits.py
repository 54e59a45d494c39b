"""Structures for training, validation and tests: from a file, or drawn; none is in two of them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..io.files import read_json
from ..io.folder import find_structures, read_folder
from ..logs import LOGGER
from .equality import equal_structures

__all__ = ["check_splits", "make_splits", "read_splits"]


def read_splits(
    path: str | os.PathLike[str], root: str | os.PathLike[str], only: str | None = None
) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test from a split file.

    Args:
        path: JSON ``{"train": [...], "val": [...], "test": [...]}``; entries are folder names, or
            ``[first, last]`` numbers of sorted folders as ``{"train": {"range": [0, 25]}}``.
        root: where the folders are.
        only: the split that is used; structures of the others need not be there.

    Raises:
        ConfigError: unknown keys or names, a structure in two splits, or an empty training set.
        DataError: no readable JSON file.
    """
    path = pathlib.Path(path)
    table: Any = read_json(path)
    if (
        not isinstance(table, dict)
        or not {"train", "val"} <= set(table)
        or set(table) - {"train", "val", "test"}
    ):
        raise ConfigError(f"{path}: a split file holds lists under 'train', 'val' and 'test'")
    folders = find_structures(root, ("hamiltonian",))
    by_name = {folder.resolve().name: folder for folder in folders}
    out: dict[str, list[pathlib.Path]] = {"train": [], "val": [], "test": []}
    owner: dict[str, str] = {}
    for split, entry in table.items():
        for name in _names(entry, split, path, folders, root):
            if name in owner:
                raise ConfigError(
                    f"{path}: structure '{name}' is in '{owner[name]}' and in '{split}'; leave it "
                    "in one"
                )
            owner[name] = split
            if name in by_name:
                out[split].append(by_name[name])
            elif only in (None, split):
                raise ConfigError(
                    f"{path}: '{name}' of split '{split}' is no structure with "
                    f"hamiltonians.h5 under {root}; correct its name, or the folder"
                )
    return check_splits(out, str(path), needed=("train", "val") if only is None else ())


def _names(
    entry: Any,
    split: str,
    path: pathlib.Path,
    folders: Sequence[pathlib.Path],
    root: str | os.PathLike[str],
) -> list[str]:
    """The folder names that a split file gives for one split.

    Args:
        entry: what stands there.
        split: its name, for messages.
        path: the split file, for messages.
        folders: all structures, sorted, which a range counts.
        root: where they are, for messages.

    Raises:
        ConfigError: it is neither a list nor a range of these structures.
    """
    if isinstance(entry, dict) and set(entry) == {"range"}:
        ends = entry["range"]
        if (
            not isinstance(ends, list)
            or [type(n) for n in ends] != [int, int]
            or not 0 <= ends[0] <= ends[1] < len(folders)
        ):
            raise ConfigError(
                f"{path}: 'range' of split '{split}' is {ends}; [first, last] with 0 <= "
                f"first <= last <= {len(folders) - 1} is needed "
                f"({len(folders)} structures with hamiltonians.h5 under {root})"
            )
        return [folder.resolve().name for folder in folders[ends[0] : ends[1] + 1]]
    if not isinstance(entry, list):
        raise ConfigError(
            f"{path}: split '{split}' is {entry!r}; a list of folder names or "
            f'{{"range": [first, last]}} is needed'
        )
    return [str(name) for name in entry]


def make_splits(
    root: str | os.PathLike[str], train: float, val: float, seed: int
) -> dict[str, list[pathlib.Path]]:
    """Random splits of all structures with ``hamiltonians.h5`` under ``root``.

    Args:
        root: where to look.
        train: share of the structures for training; one structure at least.
        val: share for validation; one structure at least. The others are for tests.
        seed: of the order; the same one gives the same splits.

    Raises:
        ConfigError: see :func:`check_splits`.
        DataError: ``root`` holds no such structures.
    """
    folders = find_structures(root, ("hamiltonian",))
    order = np.random.default_rng(seed).permutation(len(folders))
    a = max(1, round(train * len(folders)))
    b = max(1, round(val * len(folders)))
    parts = np.split(order, [a, a + b])
    return check_splits(
        {
            name: [folders[n] for n in sorted(part)]
            for name, part in zip(("train", "val", "test"), parts, strict=True)
        },
        str(root),
    )


def check_splits(
    splits: dict[str, list[pathlib.Path]], where: str, needed: Sequence[str] = ("train", "val")
) -> dict[str, list[pathlib.Path]]:
    """The splits as they are, when they are not empty and share no structure (see
    :func:`.equality.equal_structures`).

    A structure that is twice in one split is noted on standard error.

    Args:
        splits: folders.
        where: the source of the splits, for messages.
        needed: which may not be empty.

    Raises:
        ConfigError: an empty split, or a structure in two of them.
    """
    for name in needed:
        if not splits[name]:
            count = sum(map(len, splits.values()))
            raise ConfigError(
                f"{where}: the {name} split is empty; {' and '.join(needed)} need a structure each "
                f"at least, and there {'is' if count == 1 else 'are'} {count} in all"
            )
    where_from = [(split, folder) for split, folders in splits.items() for folder in folders]
    repeated = []
    for a, b in equal_structures([read_folder(folder) for _, folder in where_from]):
        (first, one), (second, other) = (where_from[n] for n in sorted((a, b)))
        if first != second:
            raise ConfigError(
                f"{where}: the same structure is in two splits: {one} ({first}) and {other} "
                f"({second}); errors on such a split say nothing"
            )
        repeated.append(f"{one} and {other} ({first})")
    if repeated:
        LOGGER.info(
            "%s: the same structure is there twice, and counts twice: %s",
            where,
            "; ".join(repeated[:3]),
        )
    return splits
