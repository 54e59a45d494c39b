"""A sentence on models that do harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ERROR_WORDS", "UNLIKE", "worse_than_stage1"]

#: What is said where a model is worse than its stage 1 on new structures.
UNLIKE = "Are they like the training structures, and is this the right bundle?"

#: What people read for the two kinds of errors of H.
ERROR_WORDS = {"gauge_free": "without μS", "raw": "raw"}


def worse_than_stage1(total: Mapping[str, Any], where: str) -> str:
    """A sentence where both stages are further from DFT than stage 1 alone; else empty.

    Args:
        total: with the keys of :func:`deeph_gformer.analysis.metrics.means`.
        where: of which structures, e.g. ``the validation structures``.
    """
    kind = "gauge_free" if "gauge_free_refined_mae_meV" in total else "raw"
    first, both = (total.get(f"{kind}_{stage}_mae_meV") for stage in ("stage1", "refined"))
    if not isinstance(first, (int, float)) or not isinstance(both, (int, float)):
        return ""
    if not both > first:
        return ""
    return (
        f"the refined H is WORSE than stage 1 alone on {where}: {both:.4f} meV against "
        f"{first:.4f} meV ({ERROR_WORDS[kind]}); stage 1 alone is better here (--stage1-only)"
    )
