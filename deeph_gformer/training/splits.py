"""Which structures a run trains on, validates on and leaves to tests."""

from __future__ import annotations

import pathlib
from typing import Any

from ..config import DataConfig
from ..data.splits import make_splits, read_splits
from ..errors import DataError, GFormerError
from ..fields import RUN_SPLITS

__all__ = ["run_splits", "split_folders"]


def split_folders(data: DataConfig, seed: int) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test as the configuration says."""
    if data.splits:
        return read_splits(data.splits, data.preprocessed)
    return make_splits(data.preprocessed, data.train_ratio, data.val_ratio, seed)


def run_splits(config: Any, resume: bool) -> dict[str, list[pathlib.Path]]:
    """Folders of train, val and test of a run; a resumed one keeps its own.

    Args:
        config: of a training.
        resume: go on with the run in ``config.output``.

    Raises:
        DataError: the data of a resumed run are no longer where they were.
    """
    data, folder = config.data, pathlib.Path(config.output)
    own = folder / RUN_SPLITS
    if not resume or not own.is_file():
        return split_folders(data, config.training.seed)
    try:
        if data.splits and pathlib.Path(data.splits).is_file():
            return split_folders(data, config.training.seed)
        return read_splits(own, data.preprocessed)
    except GFormerError as error:
        raise DataError(
            f"{folder}: the data of this run have moved or changed ({error}); say where they are "
            "with --preprocessed DIR"
        ) from None
