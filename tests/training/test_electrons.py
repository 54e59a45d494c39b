"""Valence electrons counted in training sets, against the pseudopotentials' numbers.

C 4, Mo 14, S 6, Te 16, Bi 15.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable

import pytest

from deeph_gformer.training.electrons import count_electrons
from tests.conftest import EXAMPLES


def test_graphene_has_four_per_carbon() -> None:
    found = count_electrons(sorted((EXAMPLES / "structures").iterdir()))
    assert found == [{"composition": {"C": 18}, "electrons": 72.0}]


@pytest.mark.parametrize(
    "name,composition,electrons",
    [("mos2", {"S": 8, "Mo": 4}, 104.0), ("bi2te3", {"Te": 6, "Bi": 4}, 156.0)],
)
def test_other_sets(
    name: str, composition: dict[str, int], electrons: float, dft: Callable
) -> None:
    assert count_electrons([dft(name, "0000")[0], dft(name, "0001")[0]]) == [
        {"composition": composition, "electrons": electrons}
    ]


def test_without_a_fermi_level_nothing_is_said(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(EXAMPLES / "structures" / "0030", folder)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(
        json.dumps({k: v for k, v in info.items() if k != "fermi_level"})
    )
    assert count_electrons([folder]) == []
    (folder / "info.json").write_text(
        json.dumps({**info, "fermi_level": info["fermi_level"] - 3.0})
    )
    assert count_electrons([folder]) == []
