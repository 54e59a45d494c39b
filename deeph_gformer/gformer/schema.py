"""What stands in ``bundle.json``: every key with its type and allowed values; its fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from e3nn.o3 import Irreps

from ..algebra.wigner import GENERATIONS
from ..data.edges import LearnedEdges
from ..errors import ModelError, printable
from ..io.gauge import GAUGES
from ..onsite.levels import LevelModel

__all__ = ["FORMAT", "PLAIN_FORMAT", "check_table", "require_unchanged", "table_fingerprint"]

#: 2: the configuration knows ``messages``; 3: ``pairs``, ``envelope``, ``norm_floor``; ranges of
#: edges; 4: a fingerprint of the table itself; 5: ``training.levels``
FORMAT = 5
#: Of a bundle without levels, so that versions of this package from before can read it.
PLAIN_FORMAT = 4
#: What may differ between two bundles that predict the same: names, versions, the record.
_FREE = ("fingerprint", "deeph_gformer", "torch", "training")
#: Entries of the training's record that predictions depend on.
_USED = ("edges", "electrons", "guard", "levels", "nearest", "periodicity", "time_reversal")
_MAX_LENGTH = 60.0  # Å

Check = tuple[Callable[[Any], bool], str]


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda v: type(v) in (int, float) and low < v <= high


def _of(kind: type) -> Callable[[Any], bool]:
    return lambda v: type(v) is kind


def _listed(inner: Callable[[Any], bool], least: int = 1) -> Callable[[Any], bool]:
    return lambda v: type(v) is list and len(v) >= least and all(map(inner, v))


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda v: type(v) is str and v in values


def _hexadecimal(length: int) -> Callable[[Any], bool]:
    pattern = re.compile(f"[0-9a-f]{{{length}}}")
    return lambda v: type(v) is str and pattern.fullmatch(v) is not None


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is int and low <= v <= high


def _is_irreps(value: Any) -> bool:
    if type(value) is not str or len(value) > 200_000:
        return False
    try:
        return Irreps(value).lmax <= 11
    except (ValueError, AssertionError):
        return False


def _is_guard(value: Any) -> bool:
    """Numbers, lists and mappings of them; the guard and the nearest atoms are nothing else."""
    if isinstance(value, dict):
        return all(map(_is_guard, value.values()))
    if isinstance(value, list):
        return all(map(_is_guard, value))
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _is_levels(value: Any) -> bool:
    try:
        LevelModel.from_json(value)
    except ValueError:
        return False
    return True


def _is_electrons(value: Any) -> bool:
    return type(value) is list and all(
        type(row) is dict
        and _number(0.0, 1e9)(row.get("electrons"))
        and type(row.get("composition")) is dict
        and all(_integer(1, 10**9)(count) for count in row["composition"].values())
        for row in value
    )


_YES_NO: Check = (_of(bool), "true or false")
_IRREPS: Check = (_listed(_is_irreps, 0), "a list of irreps, as '8x0e+4x1o'")
_HASH: Check = (_hexadecimal(32), "32 hexadecimal digits")
_GENERATION: Check = (_among(*GENERATIONS), f"one of {', '.join(GENERATIONS)}")
_TOP: dict[str, Check] = {
    "format": (_integer(1, FORMAT), f"an integer from 1 to {FORMAT}"),
    "model": (_of(dict), "a mapping"),
    "cutoff_angstrom": (_number(0.0, _MAX_LENGTH), f"a length in (0, {_MAX_LENGTH:g}] Å"),
    "cascade": _YES_NO,
    "parity": _YES_NO,
    "gauge": (_among(*GAUGES), f"one of {', '.join(GAUGES)}"),
    "dtype": (_among("float32", "float64"), "float32 or float64"),
    "e3nn_generation": _GENERATION,
    "basis": (_of(dict), "a mapping"),
    "target_blocks": (_listed(_of(dict)), "a list of mappings, one at least"),
    "stage1": (lambda v: v is None or type(v) is dict, "a mapping, or null"),
    "weights": _HASH,
}
_LATER: dict[str, Check] = {
    "deeph_gformer": (_of(str), "a version"),
    "torch": (_of(str), "a version"),
    "features": _YES_NO,
    "training": (_of(dict), "a mapping"),
    # 1e6: no range
    "edge_range_angstrom": (
        _listed(_listed(_number(-1.0, 1e9))),
        "a matrix of lengths, a row and a column per element",
    ),
    "overlap_table": (
        lambda v: v is None or _hexadecimal(64)(v),
        "64 hexadecimal digits, or null",
    ),
    "fingerprint": _HASH,
}
_BASIS: dict[str, Check] = {
    "elements": (
        lambda v: _listed(_integer(1, 118))(v) and len(set(v)) == len(v),
        "a list of different atomic numbers, 1 to 118",
    ),
    "orbital_types": (
        _listed(_listed(_integer(0, 3))),
        "a list of the l of each shell, 0 to 3, per element",
    ),
    "spinful": _YES_NO,
}
_STAGE1: dict[str, Check] = {
    "fingerprint": _HASH,
    "name": (_of(str), "a name"),
    "generation": _GENERATION,
    "node_irreps": _IRREPS,
    "edge_irreps": _IRREPS,
}
_TRAINING: dict[str, Check] = {
    "edges": (_among(*get_args(LearnedEdges)), f"one of {', '.join(get_args(LearnedEdges))}"),
    "electrons": (
        _is_electrons,
        'a list of {"composition": {symbol: count}, "electrons": number}',
    ),
    "time_reversal": _YES_NO,
    "periodicity": (_listed(_integer(0, 3), 0), "a list of integers from 0 to 3"),
    "guard": (lambda v: type(v) is dict and _is_guard(v), "a mapping of numbers"),
    "nearest": (lambda v: type(v) is dict and _is_guard(v), "a mapping of numbers"),
    "levels": (_is_levels, "a linear model of on-site levels"),
    "trained_on": (_of(dict), "a mapping"),
    "config": (
        lambda v: type(v) is dict and all(type(v.get(k, {})) is dict for k in ("data", "training")),
        "the settings of the training, a mapping of mappings",
    ),
    "validation": (_of(dict), "a mapping"),
}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return printable(text if len(text) <= 60 else f"{text[:50]}...")


def _check(
    table: Mapping[str, Any], wanted: Mapping[str, Check], where: str, prefix: str, all_: bool
) -> None:
    for key, (holds, allowed) in wanted.items():
        if key not in table:
            if all_:
                raise ModelError(f"{where}: {prefix}{key} is missing; it is {allowed}")
        elif not holds(table[key]):
            raise ModelError(
                f"{where}: {prefix}{key} is {_shown(table[key])}; allowed is {allowed}"
            )


def table_fingerprint(table: Mapping[str, Any]) -> str:
    """SHA-256, shortened, over everything in ``bundle.json`` that predictions depend on.

    Args:
        table: the file, as JSON gives it back.
    """
    used = {k: v for k, v in table.items() if k not in _FREE}
    if used.get("stage1"):
        used["stage1"] = {k: v for k, v in used["stage1"].items() if k != "name"}
    training = table.get("training", {})
    used["training"] = {k: training[k] for k in _USED if k in training}
    text = json.dumps(used, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_table(table: Any, where: str) -> None:
    """Raise unless ``bundle.json`` has every key, of the right type and with an allowed value.

    Args:
        table: the file.
        where: its path, for messages.

    Raises:
        ModelError: names file, key, value and what is allowed.
    """
    newest = table["format"] >= 4
    _check(table, _TOP, where, "", True)
    _check(table, _LATER, where, "", newest)
    strange = sorted(set(table) - set(_TOP) - set(_LATER)) if newest else []
    if strange:
        raise ModelError(f"{where}: {printable(strange[0])} is no key of a bundle")
    _check(table["basis"], _BASIS, where, "basis.", True)
    elements = len(table["basis"]["elements"])
    if len(table["basis"]["orbital_types"]) != elements:
        raise ModelError(
            f"{where}: basis.orbital_types has {len(table['basis']['orbital_types'])} lists for "
            f"{elements} elements; one each is needed"
        )
    if table["stage1"] is not None:
        _check(table["stage1"], _STAGE1, where, "stage1.", True)
        same = len(table["stage1"]["node_irreps"]) == len(table["stage1"]["edge_irreps"])
        if not same:
            raise ModelError(f"{where}: stage1 has different numbers of node and edge irreps")
    elif table["cascade"]:
        raise ModelError(f"{where}: cascade is true without a stage1; allowed is false")
    ranges = table.get("edge_range_angstrom")
    if ranges is not None and {len(ranges), *map(len, ranges)} != {elements}:
        raise ModelError(f"{where}: edge_range_angstrom has not a row and a column per element")
    _check(table.get("training", {}), _TRAINING, where, "training.", False)


def require_unchanged(table: Mapping[str, Any], where: str) -> None:
    """Raise where ``bundle.json`` is not as the training wrote it; formats below 4 cannot tell.

    Args:
        table: the file, checked.
        where: its path, for the message.

    Raises:
        ModelError: it was changed.
    """
    signed = table["format"] >= 4 or "fingerprint" in table
    if signed and table_fingerprint(table) != table["fingerprint"]:
        raise ModelError(
            f"{where}: was changed after the training wrote it (its fingerprint differs), and its "
            "predictions would change with it; take the original file, or train again"
        )
