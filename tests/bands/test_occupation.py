"""Numbers that stand for "never set" are not taken for values.

a Gaussian width is a standard deviation everywhere.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from deeph_gformer.bands.electrons import electron_number
from deeph_gformer.bands.fermi import occupations

from ..conftest import random_structure


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, True, "8", None])
def test_an_unset_occupation_is_none(value: object) -> None:
    structure, *_ = random_structure()
    structure.info["occupation"] = value
    assert electron_number(structure) is None
    structure.info["occupation"] = 8.5
    assert electron_number(structure) == (8.5, "occupation in info.json")


def test_gaussian_width_is_a_standard_deviation() -> None:
    """Occupation at one deviation above a level is Φ(1).

    The slope at the level is the Gaussian's height.
    """
    mu = np.array([0.3, 0.3 + 1e-5, 0.3 - 1e-5]) + 0.07 * np.array([1.0, 0.0, 0.0])
    one, plus, minus = (float(occupations(np.array([0.3]), m, "gaussian", 0.07)[0]) for m in mu)
    assert one == pytest.approx(0.8413447460685429, abs=1e-12)
    assert (plus - minus) / 2e-5 == pytest.approx(1 / (0.07 * math.sqrt(2 * math.pi)), rel=1e-6)
