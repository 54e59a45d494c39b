"""What a source of overlaps knows, in words and numbers."""

from __future__ import annotations

from typing import Any

from .neighbours import symbol
from .provider import OverlapProvider, TableOverlap
from .twocentre import PairTable, TwoCentre

__all__ = ["describe", "figures", "verdict"]


def figures(table: TwoCentre) -> dict[str, Any]:
    """The table's report as plain JSON values; distances in Å (``_A``), S has no unit."""
    pairs = [
        {
            "pair": f"{symbol(a)}-{symbol(b)}",
            "cutoff_A": pair.cutoff,
            "valid_A": pair.valid.tolist(),
            **pair.report,
        }
        for (a, b), pair in table.pairs.items()
    ]
    return {
        **table.report,
        "elements": {symbol(z): list(s) for z, s in table.orbital_types.items()},
        "pairs": pairs,
    }


def verdict(table: TwoCentre) -> str:
    """Whether S is two-centre, and what the table cannot know where it is not."""
    report = table.report
    if report.get("kind") == "basis":
        return (
            "Two-centre integrals of the basis functions: exact for S that is the plain overlap of "
            "these orbitals (not for PAW or ultrasoft S)."
        )
    off, own = float(report["worst_off_site"]), float(report["worst_on_site"])
    if report["two_centre"]:
        return f"S is two-centre: distance alone gives every training block to {max(off, own):.1e}."
    least = report.get("least_eigenvalue_predicted")
    broken = (
        ""
        if least is None or float(least) > 0
        else (
            f" It is not even positive definite (least eigenvalue {float(least):.1e}, of the true "
            f"S {float(report['least_eigenvalue']):.1e}): "
            "no bands can be had from it."
        )
    )
    return (
        f"S is NOT two-centre: distance alone leaves up to {off:.1e} of the off-site and "
        f"{own:.1e} of the on-site blocks unexplained "
        "(three-centre parts, as in PAW, or several bases in one set). A table cannot know these; "
        "predicted S is wrong by as much."
        f"{broken} Use the code's own overlaps where that matters."
    )


def _ranges(pair: PairTable) -> str:
    return ", ".join(
        f"{low:.2f}-{high:.2f}" if high - low > 0.02 else f"{(low + high) / 2:.3f}"
        for low, high in pair.valid
    )


def describe(provider: OverlapProvider) -> list[str]:
    """Lines for the terminal."""
    lines = [
        "elements: "
        + "; ".join(
            f"{symbol(z)} shells {' '.join(map(str, s))}"
            for z, s in sorted(provider.orbital_types.items())
        )
    ]
    if not isinstance(provider, TableOverlap):
        return lines + [
            f"{symbol(a)}-{symbol(b)}: blocks up to {cutoff:.4f} Å"
            for (a, b), cutoff in provider.cutoffs.items()
        ]
    for (a, b), pair in provider.table.pairs.items():
        lines.append(
            f"{symbol(a)}-{symbol(b)}: edges up to {pair.cutoff:.4f} Å; known at {_ranges(pair)} Å"
        )
        if "residual_max" in pair.report:
            report = pair.report
            lines.append(
                f"    {report['blocks']} blocks at "
                f"{report['min_distance_A']:.3f}-{report['max_distance_A']:.3f} Å; "
                f"residual rms {report['residual_rms']:.1e} max {report['residual_max']:.1e}; "
                f"not two-centre rms {report['off_m_rms']:.1e} max {report['off_m_max']:.1e}"
            )
            if report["cut_hard"]:
                lines.append(
                    f"    S is still {report['edge_value']:.1e} at the last distance: where the "
                    "orbitals end is not known from these structures"
                )
    return lines + [verdict(provider.table)]
