"""What a calculator is made from: the model, and the overlap table in its bundle."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..fields import OVERLAP_TABLE
from ..overlap import load_table

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["open_model", "bundle_table"]

#: Of :func:`deeph_gformer.load`.
_OPTIONS = ("device", "dtype", "backend", "deephe3_root", "generation", "fill_missing")


def open_model(
    model: HamiltonianModel | str | os.PathLike[str] | None,
    stage1: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> HamiltonianModel:
    """The model itself, or what :func:`deeph_gformer.load` makes of a bundle and a stage 1.

    Raises:
        ConfigError: a loaded model with a stage 1 or options besides, or an unknown option.
    """
    from ..pipeline import HamiltonianModel, load

    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ConfigError(
            f"HamiltonianCalculator: option {', '.join(unknown)} is unknown; of the model there "
            f"are {', '.join(_OPTIONS)}"
        )
    if isinstance(model, HamiltonianModel):
        given = [*options] if stage1 is None else ["stage1", *options]
        if given:
            raise ConfigError(
                f"HamiltonianCalculator: a loaded model is given, so {', '.join(given)} would have "
                "no effect; leave that out"
            )
        return model
    return load(model, stage1, **options)


def bundle_table(model: HamiltonianModel) -> pathlib.Path:
    """The overlap table in the bundle of ``model``.

    Raises:
        ConfigError: there is none, or it cannot make S (PAW data).
    """
    path = model.bundle.path / OVERLAP_TABLE if model.bundle and model.bundle.path else None
    hint = (
        "give HamiltonianCalculator overlap=...: a table ('deeph-gformer overlap fit'), basis "
        "files, or a folder with overlaps.h5"
    )
    if path is None or not path.is_file():
        raise ConfigError(f"the model has no overlap table, so edges and S are unknown; {hint}")
    if not load_table(path).report.get("two_centre", True):
        raise ConfigError(
            f"{path}: the training set's S is not two-centre (PAW?), so this table cannot make "
            f"S; {hint}"
        )
    return path
