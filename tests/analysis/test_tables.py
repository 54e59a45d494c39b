"""What the terminal tables say."""

from __future__ import annotations

from typing import Any

import pytest

from deeph_gformer.analysis.tables import evaluation_table


@pytest.mark.parametrize(
    ("gauge", "errors", "said", "other"),
    [
        ("raw", "raw", "", "without μS"),
        ("standard", "without μS", "errors are without μS", "raw (with μS)"),
        ("standard", "raw", "overlaps.h5 is missing", "without μS"),
    ],
)
def test_the_table_says_which_errors_these_are(
    gauge: str, errors: str, said: str, other: str
) -> None:
    means = {
        "mae_all_meV": 1.0,
        "mae_challenging_structure_meV": 1.0,
        "mae_challenging_block_meV": 1.0,
        "mae_elements_meV": 1.0,
    }
    records: list[dict[str, Any]] = [
        {"stage1_mae_meV": 5.0, "refined_mae_meV": 6.0},
        {"stage1_mae_meV": 5.0, "refined_mae_meV": 3.0},
    ]
    total: dict[str, Any] = {
        "stage1": means,
        "refined": means,
        "structures": 2,
        "challenging_structure": "0",
        "challenging_block": {"42 16": [6, 0], "16 42": [0, 6]},
    }
    for kind, value in (("raw", 7.0), ("gauge_free", 8.0)):
        total.update({f"{kind}_stage1_mae_meV": value, f"{kind}_refined_mae_meV": value / 2})
    place = {
        "place": "on-site",
        "share_of_elements": 0.25,
        "mean_abs_hamiltonian_meV": 10.0,
        "stage1_mae_meV": 4.0,
        "refined_mae_meV": 1.0,
    }
    text = evaluation_table(
        {
            "gauge": gauge,
            "errors": errors,
            "structures": [{"name": str(n), "atoms": 3, **r} for n, r in enumerate(records)],
            "total": total,
            "places": [place],
        }
    )
    lines = text.splitlines()
    assert (
        lines[2].split()[2:4] == ["5.0000", "6.0000"]
        and "1 of 2 structures better" in text
        and said in text
    )
    assert "block: Mo-S, shells 7 and 1 / S-Mo, shells 1 and 7; 1 of 2" in text
    row = next(line for line in lines if line.startswith(f"MAE_all^H {other} "))
    assert ("7.0000" if other.startswith("raw") else "8.0000") in row
    assert next(line for line in lines if line.startswith("on-site")).split()[1:] == [
        "25.0",
        "%",
        "10.0",
        "4.0000",
        "1.0000",
        "0.250",
    ]
