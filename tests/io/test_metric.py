"""S that can be that of no orbitals is refused wherever it is read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.io import BlockMatrix, Structure, read_matrix
from deeph_gformer.io.folder import get_format, write_matrix
from deeph_gformer.io.metric import require_metric
from deeph_gformer.overlap.fit import fit_table

from ..conftest import random_structure


def lonely(distance: float, value: float) -> tuple[Structure, BlockMatrix]:
    """Two atoms with one orbital each."""
    structure = Structure(
        np.eye(3) * 30, np.array([[0, 0, 0], [distance, 0, 0]]), np.array([1, 1]), ((0,), (0,))
    )
    keys = np.array([[0, 0, 0, i, j] for i in (0, 1) for j in (0, 1)])
    blocks = [np.array([[1.0 if i == j else value]]) for *_, i, j in keys.tolist()]
    return structure, BlockMatrix.from_blocks(keys, blocks)


@pytest.mark.parametrize("form", ["legacy", "dock"])
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda v: np.full_like(v, 100.0), "on its diagonal, norms of orbitals, are 0.1 to 10"),
        (lambda v: np.ones_like(v), "orbitals of one atom are independent"),
        (lambda v: 100 * v, "on its diagonal"),
        (lambda v: 0.01 * v, "on its diagonal"),
        (lambda v: -v, "on its diagonal"),
        (lambda v: v.astype(np.float32), ""),
        (lambda v: 0.7 * v, ""),
    ],
)
def test_s_of_no_orbitals(
    tmp_path: pathlib.Path,
    form: str,
    change: Callable[[np.ndarray], np.ndarray],
    rule: str,
) -> None:
    structure, _, s = random_structure(1, grouped=True)
    get_format(form).write_structure(tmp_path, structure)
    other = dataclasses.replace(s, values=change(s.values))
    path = write_matrix(tmp_path, "overlap", other, structure, form)
    if not rule:
        assert np.abs(read_matrix(tmp_path, "overlap").values - other.values).max() < 1e-6
        return
    words = rf"{path}: block .* of S has elements that are no overlaps: {rule}"
    with pytest.raises(DataError, match=words):
        read_matrix(tmp_path, "overlap")
    with pytest.raises(DataError, match=words):
        fit_table([tmp_path])


@pytest.mark.parametrize(("value", "good"), [(0.99, True), (-0.99, True), (1, False), (-2, False)])
def test_two_orbitals_are_never_one(value: float, good: bool) -> None:
    # s orbitals exp(-αr²), α = 0.01/bohr², 0.74 Å apart: exp(-αd²/2) = 0.9903
    structure, s = lonely(0.74, value)
    if good:
        require_metric(s, structure.orbital_counts, "x")
        return
    with pytest.raises(DataError, match="x: block .* each is less than the root"):
        require_metric(s, structure.orbital_counts, "x")
