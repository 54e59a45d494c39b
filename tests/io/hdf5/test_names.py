"""Names as arrays are those that Python prints."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.io.hdf5.names import dataset_names


@pytest.mark.parametrize("largest", [1, 120, 10**12])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_names_of_datasets_are_pythons_lists(count: int, largest: int) -> None:
    rows = np.random.default_rng(largest).integers(-largest, largest + 1, (count, 6))
    assert [name.decode() for name in dataset_names(rows)] == [str(row) for row in rows.tolist()]
