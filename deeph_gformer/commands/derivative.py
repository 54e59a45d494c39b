"""``derivative``: ∂H/∂τ and ∂S/∂τ of atoms."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from .models import load_model
from .options import Verb, argument, option
from .shared import EdgeOptions
from .single import dtype_option, output_folder, overlap_source, stage1_only_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DerivativeOptions(EdgeOptions):
    """Of ``derivative``."""

    source: pathlib.Path = argument(
        type=pathlib.Path, metavar="DIR", help="structure folder, or structure file"
    )
    atom: tuple[str, ...] = option(
        nargs="+",
        required=True,
        metavar="N",
        help="which atoms, counted from 1: numbers, ranges such as 1-4, or all",
    )
    overlap: tuple[str, ...] = overlap_source(
        "∂S/∂τ, and edges of a structure without S", shown="the table in the bundle"
    )
    stage1_only: bool = stage1_only_option()
    output: pathlib.Path | None = output_folder("where the folders atom_N go", "DIR/derivative", "")
    overwrite: bool = option(default=False, help="replace folders that are there")
    dtype: Literal["float32", "float64"] | None = dtype_option("float64")


def _run(options: DerivativeOptions) -> None:
    model = load_model(options, options.stage1_only)

    from ..inference.derivatives import run

    run(
        options.source,
        model,
        options.atom,
        options.output,
        options.overlap or None,
        options.edges,
        options.overwrite,
        print,
    )


VERBS = (
    Verb(
        "derivative",
        "physics",
        "∂H/∂τ and ∂S/∂τ of atoms, by automatic differentiation",
        DerivativeOptions,
        _run,
        "Derivatives of H (eV/Å) and S (1/Å) by the position of atoms, each with all its periodic "
        "images (of a supercell: one atom of it). OUTPUT/atom_N holds one file per direction, "
        "hamiltonians_dx.h5 and so on, with the keys of hamiltonians.h5. S needs a table or basis "
        "files.",
        examples=(
            "derivative structures/0030 --atom 1-4 --stage1 MODEL_DIR --model runs/mine/bundle",
        ),
    ),
)
