"""Numbers that tell whether data are those of before."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.data.sketch import changed_data, sketch, sketch_level


@pytest.mark.parametrize("level", [0.0, 0.003, -4.5])
def test_a_level_is_that_of_single_precision(level: float) -> None:
    """A level near zero is a small difference of large energies, and as sure as those."""

    def changed(by: float) -> bool:
        parts = ({"a": {"the Fermi level": sketch_level(level + off)}} for off in (0.0, by))
        return bool(changed_data(*parts))

    assert not changed(5e-7)
    assert changed(1e-4) and changed(-1e-4)


def test_single_precision_is_no_change_and_one_element_is() -> None:
    values = np.random.default_rng(1).standard_normal(100_000)
    before = {"a": {"H": sketch(values)}}
    assert not changed_data(before, {"a": {"H": sketch(values.astype(np.float32))}})
    values[777] += 1e-3
    assert changed_data(before, {"a": {"H": sketch(values)}}) == ["H of a"]
    assert changed_data(before, {"a": {"H": sketch(values[:-1])}}) == ["H of a"]
