"""The model card of a bundle: where its data come from, its errors, its limits.

``card.json`` lies in the bundle and names the bundle's fingerprint: a card of other weights is not
shown. ``benchmarks/model_cards.py`` writes those of the shipped models.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from ..errors import DataError
from ..gformer.bundle import BUNDLE_FILE
from ..io.files import read_json

__all__ = ["CARD_FILE", "Card", "SetErrors", "read_card"]

CARD_FILE = "card.json"


@dataclasses.dataclass(frozen=True)
class SetErrors:
    """Mean errors on test structures, stage 1 and refined, in meV.

    Attributes:
        name: of the set.
        structures: how many.
        atoms: of each, smallest and largest.
        trained: whether the training set holds structures of this kind.
        hamiltonian: MAE_all of ½(H + H†) without μS.
        states: first-order errors of DFT's states within 3 eV of the Fermi level.
        bands: mean errors of all bands there, each H at its own Fermi level.
    """

    name: str
    structures: int
    atoms: tuple[int, int]
    trained: bool
    hamiltonian: tuple[float, float]
    states: tuple[float, float]
    bands: tuple[float, float]

    def row(self) -> tuple[str, ...]:
        """Cells of a table: set, structures, atoms, H, states, bands."""
        few, many = self.atoms
        pairs = ((self.hamiltonian, 3), (self.states, 1), (self.bands, 1))
        return (
            self.name + ("" if self.trained else " (never trained on)"),
            str(self.structures),
            str(few) if few == many else f"{few} to {many}",
            *(f"{a:.{digits}f} -> {b:.{digits}f}" for (a, b), digits in pairs),
        )


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model's user should know.

    Attributes:
        system: the material.
        bundle: fingerprint of the bundle of which the errors are.
        data: which structures, and how they were made.
        code: DFT code.
        functional: exchange and correlation.
        basis: orbitals, and how the core is treated.
        command: of the training.
        errors: on structures that neither stage saw.
        invariance_meV: largest change of an eigenvalue near the Fermi level when a test structure
            is written down otherwise, by floating point.
        limits: of its use, a sentence each.
        licence: of the weights.
    """

    system: str
    bundle: str
    data: str
    code: str
    functional: str
    basis: str
    command: str
    errors: tuple[SetErrors, ...]
    invariance_meV: dict[str, float]
    limits: tuple[str, ...]
    licence: str = "MIT"

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Card:
        """From :meth:`to_json`.

        Raises:
            TypeError, KeyError: another table.
        """
        rows: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
            for row in table["errors"]
        ]
        errors = tuple(SetErrors(**row) for row in rows)
        return cls(**{**table, "errors": errors, "limits": tuple(table["limits"])})

    def lines(self) -> dict[str, str]:
        """What ``info`` and a report show, one entry a line."""
        table = {
            "system": self.system,
            "data": self.data,
            "DFT code": self.code,
            "functional": self.functional,
            "basis": self.basis,
            "command": self.command,
        }
        for one in self.errors:
            name, count, _, h, states, bands = one.row()
            table[f"errors, {name}"] = (
                f"H {h}, states {states}, bands {bands} meV (stage 1 -> refined, {count} "
                f"structure{'s' if one.structures > 1 else ''})"
            )
        table["invariance"] = ", ".join(f"{k} {v:.1g}" for k, v in self.invariance_meV.items())
        table["invariance"] += " meV"
        table["limits"] = " ".join(self.limits)
        table["licence"] = self.licence
        return table


def read_card(bundle: str | os.PathLike[str]) -> Card | None:
    """The card of a bundle; None where there is none, or where it is of other weights.

    Args:
        bundle: its folder.

    Raises:
        DataError: the card is damaged.
    """
    path = pathlib.Path(bundle) / CARD_FILE
    if not path.is_file():
        return None
    try:
        card = Card.from_json(read_json(path))
    except (TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: no model card of this version; remove it") from None
    table = read_json(path.with_name(BUNDLE_FILE))
    return card if card.bundle == table.get("fingerprint") else None
