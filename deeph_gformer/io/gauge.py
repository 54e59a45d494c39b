"""The zero of energy (gauge) of a Hamiltonian file, and the Fermi level that belongs to it, as
``info.json`` states them.

H and H - μS are the same physics, but their bands differ by μ: a Fermi level is a number of one
gauge, and so of one file. Keys of ``info.json``:

- ``fermi_level`` (legacy) or ``fermi_energy_eV`` (DeepH-dock), and ``gauge``: of the DFT's
  Hamiltonian where that is in the folder,
  otherwise of the predicted one; the level is absent (null) where it is unknown;
- ``deeph_gformer``: ``gauge``, and ``fermi_level`` or else ``fermi_level_note`` (why there is
  none), always of the predicted Hamiltonian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..errors import ConfigError

__all__ = [
    "Gauge",
    "GAUGES",
    "FERMI_KEYS",
    "OURS",
    "StatedLevel",
    "stated_level",
    "require_level",
    "predicted_info",
]

Gauge = Literal["raw", "standard", "unknown"]
GAUGES: tuple[str, ...] = ("raw", "standard", "unknown")
#: Names of the Fermi level in info.json, eV: DeepH-dock's and the legacy format's.
FERMI_KEYS = ("fermi_energy_eV", "fermi_level")
#: What this package adds to info.json.
OURS = "deeph_gformer"


class StatedLevel(NamedTuple):
    """What ``info.json`` says of one Hamiltonian file.

    Attributes:
        energy_eV: Fermi level on the scale of that file; None where there is none that belongs to
            it.
        gauge: ``raw`` (of the DFT code), ``standard`` (H - μS with μ = <H,S>/<S,S>) or ``unknown``.
        why: why there is no level; empty where there is one.
    """

    energy_eV: float | None
    gauge: Gauge
    why: str = ""


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def _gauge(table: Mapping[str, Any]) -> Gauge:
    value = table.get("gauge", "unknown")
    return value if value in GAUGES else "unknown"


def stated_level(
    info: Mapping[str, Any], kind: Literal["hamiltonian", "prediction"]
) -> StatedLevel:
    """The Fermi level that ``info.json`` states for one of the two Hamiltonians of a folder.

    Args:
        info: content of ``info.json``.
        kind: ``hamiltonian`` (of DFT) or ``prediction``.
    """
    table = info.get(OURS)
    ours: Mapping[str, Any] = table if isinstance(table, Mapping) else {}
    written = "gauge" in ours
    top = next((v for key in FERMI_KEYS if (v := _number(info.get(key))) is not None), None)
    if kind == "prediction":
        level = _number(ours.get("fermi_level"))
        if level is not None:
            return StatedLevel(level, _gauge(ours))
        if not written:
            why = "info.json holds the level of DFT's Hamiltonian, not of the predicted one"
        else:
            why = str(ours.get("fermi_level_note", "")) or (
                "info.json holds the level of DFT's Hamiltonian; the prediction has another "
                "zero of energy"
            )
        return StatedLevel(None, _gauge(ours), why)
    if written and info.get("gauge_of") == "prediction":
        why = "info.json states gauge and level of the predicted Hamiltonian, not of DFT's"
        return StatedLevel(None, "unknown", why)
    gauge = _gauge(info) if "gauge" in info else "raw"
    why = "" if top is not None else "info.json has neither fermi_level nor fermi_energy_eV"
    return StatedLevel(top, gauge, why)


def require_level(
    info: Mapping[str, Any], kind: Literal["hamiltonian", "prediction"], where: str
) -> float:
    """The Fermi level of :func:`stated_level`, eV.

    Args:
        info: content of ``info.json``.
        kind: which Hamiltonian is asked about.
        where: file of the Hamiltonian, for the message.

    Raises:
        ConfigError: ``info.json`` has no level of this Hamiltonian, e.g. one of another gauge.
    """
    stated = stated_level(info, kind)
    if stated.energy_eV is None:
        raise ConfigError(
            f"{where}: info.json states no Fermi level of this Hamiltonian ({stated.why}); "
            "give --electrons N to count, or --fermi VALUE"
        )
    return stated.energy_eV


def predicted_info(
    info: Mapping[str, Any],
    name: str,
    gauge: Gauge,
    level: float | None,
    note: str,
    beside_dft: bool,
    in_place: bool = False,
) -> dict[str, Any]:
    """``info.json`` once a prediction lies in its folder.

    Args:
        info: as it was, with DFT's level where the structure comes from DFT.
        name: how the folder's format calls the level.
        gauge: of the predicted Hamiltonian.
        level: its own Fermi level, eV; None where it is unknown.
        note: how the level was found, or why there is none.
        beside_dft: whether DFT's Hamiltonian is in the folder too; then ``info``'s own level is
            its.
        in_place: ``info`` is the user's own file: a level that belongs to no Hamiltonian of the
            folder is kept as ``deeph_gformer: dft_fermi_level``.

    Returns:
        The new content; ``deeph_gformer`` keeps what it had and gains the gauge and the level.
    """
    table = info.get(OURS)
    ours = dict(table) if isinstance(table, Mapping) else {}
    ours.pop("fermi_level", None)
    ours["gauge"] = gauge
    if level is not None:
        ours["fermi_level"] = level
    ours["fermi_level_note"] = note
    new = dict(info)
    if not beside_dft:
        old = next((v for key in FERMI_KEYS if (v := _number(info.get(key))) is not None), None)
        if in_place and old is not None and info.get("gauge_of") != "prediction":
            ours["dft_fermi_level"] = old
        for key in (*FERMI_KEYS, "gauge", "gauge_of"):
            new.pop(key, None)
        if level is not None or name == "fermi_energy_eV":  # DeepH-dock has null there
            new[name] = level
        new.update(gauge=gauge, gauge_of="prediction")
    elif new.get("gauge_of") == "prediction":  # DFT's H was added to a folder of a prediction
        for key in (*FERMI_KEYS, "gauge", "gauge_of"):
            new.pop(key, None)
    new[OURS] = ours
    return new
