"""S of a DFT run is a metric: no element is larger than the orbitals' own norms allow."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.interop.dft.run import DFTRun, check_run

from ...conftest import random_structure


@pytest.mark.parametrize("spinful", [False, True])
@pytest.mark.parametrize(
    ("change", "good"),
    [
        (lambda s, e: None, True),
        (lambda s, e: s[e].__setitem__((0, 0), -1.0), False),  # of an orbital with itself
        (lambda s, e: s[e].__setitem__((0, 0), 0.0), False),
        (lambda s, e: s[e].__setitem__((0, 1), 1.2), False),
        (lambda s, e: s[e].__setitem__((0, 0), 1.0001 * s[e][0, 0]), True),
    ],
)
def test_elements_beyond_the_norms(spinful: bool, change: object, good: bool) -> None:
    structure, h, s = random_structure(1, 3, spinful)
    values = s.values.copy()
    itself = (s.keys[:, 3] == s.keys[:, 4]) & ~s.keys[:, :3].any(axis=1)
    e = int(np.flatnonzero(itself)[0])
    n = int(s.shapes[e, 0])
    block = values[s.offsets[e] : s.offsets[e + 1]].reshape(n, n)
    change({e: block}, e)  # type: ignore[operator]
    block[1, 0] = block[0, 1]
    run = DFTRun(structure, h, dataclasses.replace(s, values=values), (), ())
    if good:
        check_run(run, pathlib.Path("x"))
    else:
        with pytest.raises(DataError, match=r"x: block .* of S has elements that are no overlaps"):
            check_run(run, pathlib.Path("x"))
