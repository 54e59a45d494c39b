"""What the terminal tables say."""

from __future__ import annotations

from typing import Any

import pytest

from deeph_gformer.evaluation.tables import evaluation_table


@pytest.mark.parametrize("gauge,shown,better", [("raw", ("80.0000", "79.0000"), "2 of 2"), ("standard", ("5.0000", "6.0000"), "1 of 2")])
def test_errors_are_shown_in_the_gauge_of_the_training(gauge: str, shown: tuple[str, str], better: str) -> None:
    errors = {"mae_all_meV": 1.0, "mae_challenging_structure_meV": 1.0, "mae_challenging_block_meV": 1.0, "mae_elements_meV": 1.0}
    records: list[dict[str, Any]] = [
        {"stage1_mae_meV": 80.0, "refined_mae_meV": 79.0, "gauge_free_stage1_mae_meV": 5.0, "gauge_free_refined_mae_meV": 6.0},
        {"stage1_mae_meV": 70.0, "refined_mae_meV": 69.0, "gauge_free_stage1_mae_meV": 5.0, "gauge_free_refined_mae_meV": 3.0},
    ]
    total = {"stage1": errors, "refined": errors, "structures": 2, "challenging_structure": "0", "challenging_block": {}}
    total.update(gauge_free_stage1_mae_meV=5.0, gauge_free_refined_mae_meV=4.5)
    text = evaluation_table(
        {"gauge": gauge, "structures": [{"name": str(n), "atoms": 3, **r} for n, r in enumerate(records)], "total": total}
    )
    assert text.splitlines()[2].split()[2:4] == list(shown) and f"{better} structures better" in text
