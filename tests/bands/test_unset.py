"""Numbers that stand for "never set" are not taken for values."""

from __future__ import annotations

import math

import pytest

from deeph_gformer.bands.fermi import electron_number

from ..conftest import random_structure


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, True, "8", None])
def test_an_unset_occupation_is_none(value: object) -> None:
    structure, *_ = random_structure()
    structure.info["occupation"] = value
    assert electron_number(structure) is None
    structure.info["occupation"] = 8.5
    assert electron_number(structure) == (8.5, "occupation in info.json")
