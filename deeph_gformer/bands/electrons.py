"""How many electrons a cell has: given, by valence, by info.json, or from other compositions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..io import Structure

__all__ = ["parse_valence", "electron_number", "electrons_by_composition"]


def parse_valence(text: str) -> dict[str, float]:
    """``C=4,Mo=14`` -> electrons per element.

    Raises:
        ConfigError: not of that form, or an element is there twice.
    """
    from ase.data import atomic_numbers

    result: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in atomic_numbers or not 0 <= number < math.inf:
            raise ConfigError(f"valence '{item}': write element=electrons, e.g. C=4 or Mo=14,S=6")
        if result.setdefault(name, number) != number:
            raise ConfigError(f"valence '{text}': gives two numbers of electrons for {name}")
    return result


def electron_number(
    structure: Structure, electrons: float | None = None, valence: Mapping[str, float] | None = None
) -> tuple[float, str] | None:
    """Electrons per cell and where the number comes from: ``electrons``, else ``valence`` per
    element, else info.json's ``occupation``.

    Returns:
        (electrons, source), None where nothing says it.

    Raises:
        ConfigError: the valence lacks an element of the structure, or is no mapping to numbers, or
            the number is none.
    """
    if electrons is not None:
        try:
            return float(electrons), "given"
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{electrons!s:.40} electrons: a number is needed") from None
    if valence is not None and not isinstance(valence, Mapping):
        raise ConfigError(
            f"valence = {valence!r}: write electrons per element as a dict, e.g. {{'C': 4}}"
        )
    if valence:
        from ase.data import chemical_symbols

        symbols = [chemical_symbols[z] for z in structure.numbers]
        missing = sorted(set(symbols) - set(valence))
        if missing:
            raise ConfigError(
                f"valence electrons are given for {', '.join(sorted(valence))}, but structure "
                f"'{structure.name}' also has {', '.join(missing)}"
            )
        try:
            counts = {s: float(valence[s]) for s in sorted(set(symbols))}
        except (TypeError, ValueError, OverflowError):
            counts = {"": math.nan}
        if not all(0 <= count < math.inf for count in counts.values()):
            raise ConfigError(
                f"valence = {dict(valence)!r}: write a number of electrons for each element"
            )
        words = ", ".join(f"{s} {count:g}" for s, count in counts.items())
        return float(sum(counts[s] for s in symbols)), f"valence electrons per element ({words})"
    value = structure.info.get("occupation")
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = float(value) if plain and value is not None else 0.0
    if 0 < number < np.inf:  # -1, 0 and NaN stand for a number that was never set
        return number, "occupation in info.json"
    return None


def electrons_by_composition(
    structure: Structure, known: Sequence[Mapping[str, Any]]
) -> float | None:
    """Electrons per cell of a structure from those of others: each atom brings its own, so a sum of
    compositions brings the sum.

    Args:
        structure: any.
        known: ``{"composition": {"Mo": 4, "S": 8}, "electrons": 104.0}`` per composition, as
            training records them.

    Returns:
        The number, None where the compositions do not determine it.
    """
    from ase.data import atomic_numbers

    kinds = sorted(
        {int(z) for z in structure.numbers}
        | {atomic_numbers[s] for row in known for s in row["composition"]}
    )
    table = np.array(
        [[row["composition"].get(s, 0) for row in known] for s in _symbols(kinds)], dtype=float
    ).reshape(len(kinds), len(known))
    wanted = np.array([(structure.numbers == z).sum() for z in kinds], dtype=float)
    share = np.linalg.lstsq(table, wanted, rcond=None)[0]
    if np.abs(table @ share - wanted).max() > 1e-6:
        return None
    return float(share @ np.array([row["electrons"] for row in known]))


def _symbols(numbers: Sequence[int]) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers]
