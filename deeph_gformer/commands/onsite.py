"""``onsite``: on-site levels from a linear electrostatic model, for a finished GFormer."""

from __future__ import annotations

import dataclasses
import pathlib

from ..results import LevelFit
from .models import load_model
from .options import Verb, option
from .shared import JsonOption, ModelOptions

__all__ = ["VERBS"]

#: Names of l.
_LETTERS = "spdfghi"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnsiteOptions(ModelOptions, JsonOption):
    """Of ``onsite``."""

    preprocessed: pathlib.Path = option(
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="folder with the structure folders of the training, with DFT's H and S",
    )
    splits: pathlib.Path = option(
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help="split file of the training, as it is left in the run folder",
    )
    output: pathlib.Path = option(
        "-o",
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="BUNDLE",
        writes="folder",
        help="where the new bundle goes",
    )
    overwrite: bool = option(default=False, help="replace a bundle that is there")


def _run_onsite(options: OnsiteOptions) -> LevelFit:
    from ..training.levels import add_levels

    model = load_model(options)
    found = add_levels(
        model, options.preprocessed, options.splits, options.output, options.overwrite
    )
    print("\n".join(_lines(found)))
    return found


def _lines(found: LevelFit) -> list[str]:
    """The table, and what became of it."""
    train, val = found.structures["train"], found.structures["val"]
    lines = [
        f"{train} training structures, {val} for validation; {found.radial_functions} radial "
        f"functions within {found.cutoff_angstrom:g} Å",
        f"{'levels (meV)':<14}{'spread':>9}{'left out':>10}{'validation':>18}{'share':>8}",
    ]
    for shell in found.shells:
        name = f"{shell['number'] + 1}. {_LETTERS[shell['l']]}"
        change = "{:.1f} -> {:.1f}".format(*shell["val_meV"])
        lines.append(
            f"{name:<14}{shell['spread_meV']:9.1f}{shell['left_out_meV']:10.1f}{change:>18}"
            f"{shell['share']:8.2f}"
        )
    mean, rest = found.between_atoms
    lines.append(f"between atoms: {mean:.2f} of an atom's mean shift, {rest:.2f} of the rest")
    parts = [f"H {found.val_mae_meV[0]:.4f} -> {found.val_mae_meV[1]:.4f} meV"]
    if found.val_states_meV is not None:
        parts.append(f"states {found.val_states_meV[0]:.2f} -> {found.val_states_meV[1]:.2f} meV")
    lines.append(f"validation: {', '.join(parts)}")
    if found.kept:
        lines.append(f"kept; bundle: {found.bundle}")
    else:
        lines.append("this gains less than 10 %, so no bundle was written; keep the one that is")
    return lines


VERBS = (
    Verb(
        "onsite",
        "train",
        "give a trained GFormer on-site levels of a linear electrostatic model",
        OnsiteOptions,
        _run_onsite,
        "Fit the on-site levels of the training structures by a linear function of their "
        "surroundings and of the potential of all bond dipoles, and let the levels of predictions "
        "follow it as far as validation asks for. In polar layers, whose potential reaches far, "
        "this is what networks of few structures lack. A new bundle is written where errors on "
        "validation fall by 10 % or more. It is used like any other, and needs S.",
        results=(LevelFit,),
        examples=(
            "onsite --preprocessed DATA --splits runs/mine/splits.json --stage1 MODEL_DIR \\\n"
            "      --model runs/mine/bundle --output runs/mine/bundle-onsite",
        ),
    ),
)
