"""Terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .metric import metrics
from .metrics import headline

__all__ = ["text_table", "refine_table", "evaluation_table"]

MOST_NOTES = 3


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(str(row[c])) for row in [header, *rows]) for c in range(len(header))]

    def line(row: Sequence[str]) -> str:
        """One row."""
        return "  ".join(
            str(v).ljust(w) if c == 0 else str(v).rjust(w)
            for c, (v, w) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def _block_name(channel: Mapping[str, Sequence[int]]) -> str:
    """A target block in words; shells counted from 1, in the order of ``orbital_types.dat``."""
    from ase.data import chemical_symbols

    def one(pair: str, shells: Sequence[int]) -> str:
        """Of one pair of elements."""
        first, second = (chemical_symbols[int(z)] for z in pair.split())
        return f"{first}-{second}, shells {shells[0] + 1} and {shells[1] + 1}"

    return " / ".join(one(pair, shells) for pair, shells in channel.items())


def _number(value: Any, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def refine_table(result: Mapping[str, Any], alone: bool = False) -> str:
    """Summary of :func:`deeph_gformer.refine`.

    ``alone``: one stage ran, so there is nothing to compare with it.
    """
    records = result["structures"]
    columns: list[tuple[str, Any]] = [
        ("structure", lambda r: r["name"]),
        ("atoms", lambda r: str(r["atoms"])),
        ("edges", lambda r: str(r["edges"])),
        ("stage 1 MAE/meV", lambda r: _number(r.get("stage1_mae_meV"))),
        ("refined MAE/meV", lambda r: _number(r.get("refined_mae_meV"))),
        ("mean |ΔH|/meV", lambda r: _number(r["mean_correction_meV"])),
        ("seconds", lambda r: f"{r['seconds']:.2f}"),
        (
            "peak GB",
            lambda r: f"{r['peak_memory_bytes'] / 1e9:.2f}" if "peak_memory_bytes" in r else "-",
        ),
    ]
    if alone:
        columns[3:6] = [("MAE/meV", columns[4][1])]
    header, rows = (
        [name for name, _ in columns],
        [[show(r) for _, show in columns] for r in records],
    )
    lines = [text_table(header, rows)] if rows else []
    for r in records:
        if r["spin_from"] == "model":
            lines.append(f"{r['name']}: no info.json, the model's spin was used")
    if result["skipped"]:
        lines.append(f"skipped, a prediction is there: {', '.join(result['skipped'])}")
    total = result["total"]
    if "errors" in total:
        e = total["errors"]
        better = f"; {e['better_structures']} of {e['structures']} structures better than stage 1"
        lines.append(f"MAE_all against DFT: {headline(e, alone)}{'' if alone else better}")
    steps: dict[str, float] = {}
    for r in records:
        for step, seconds in r.get("step_seconds", {}).items():
            steps[step] = steps.get(step, 0.0) + seconds
    if steps:
        lines.append(
            "time: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in steps.items())
        )
    lines.append(
        f"{total['structures']} structures, {total['edges']:,} edges, {total['seconds']:.1f} s"
    )
    return "\n".join(lines)


def evaluation_table(result: Mapping[str, Any]) -> str:
    """Result of :func:`deeph_gformer.analysis.evaluate.evaluate`."""
    records, total = result["structures"], result["total"]
    free = result["errors"] == "without μS"  # the model cannot know μ
    pairs = [(r["stage1_mae_meV"], r["refined_mae_meV"]) for r in records]
    rows = [
        [r["name"], str(r["atoms"]), f"{a:.4f}", f"{b:.4f}", f"{b / a:.3f}" if a else "-"]
        for r, (a, b) in zip(records, pairs, strict=True)
    ]
    lines = [
        text_table(["structure", "atoms", "stage 1 MAE/meV", "refined MAE/meV", "ratio"], rows)
    ]
    if free:
        lines.append("errors are without μS (the zero of energy), but where 'raw' is said")
    elif result["gauge"] == "standard":
        lines.append(
            "trained in the gauge H - μS, but these errors are raw (overlaps.h5 is missing, or raw "
            "ones are asked): they include μS, which the model cannot know"
        )
    lines.append("")
    first, both = total["stage1"], total["refined"]
    body = [
        [
            label,
            f"{first[key]:.4f}",
            f"{both[key]:.4f}",
            f"{both[key] / first[key]:.3f}" if first[key] else "-",
        ]
        for label, key in (
            ("MAE_all^H", "mae_all_meV"),
            ("MAE_cha.s^H", "mae_challenging_structure_meV"),
            ("MAE_cha.b^H", "mae_challenging_block_meV"),
            ("MAE over all elements", "mae_elements_meV"),
        )
    ]
    other, label = (
        ("raw", "MAE_all^H raw (with μS)") if free else ("gauge_free", "MAE_all^H without μS")
    )
    if f"{other}_stage1_mae_meV" in total:
        a, b = total[f"{other}_stage1_mae_meV"], total[f"{other}_refined_mae_meV"]
        body.append([label, f"{a:.4f}", f"{b:.4f}", f"{b / a:.3f}" if a else "-"])
    for key, label in (pair for m in metrics().values() for pair in m.labels.items()):
        a, b = total.get(f"stage1_{key}"), total.get(key)
        if a is not None and b is not None:
            body.append([label, f"{a:.4f}", f"{b:.4f}", f"{b / a:.3f}" if a else "-"])
    if "equivariance" in result:
        e = result["equivariance"]
        body.append(
            [
                "equivariance error",
                f"{e['stage1_error_meV']:.2e}",
                f"{e['refined_error_meV']:.2e}",
                "-",
            ]
        )
    lines.append(text_table(["metric / meV", "stage 1", "refined", "ratio"], body))
    lines += _left_out(records)
    lines += ["", _place_table(result["places"]), ""]
    if "invariance_meV" in total:
        lines += [_invariance_table(total), ""]
    lines.append(
        f"challenging structure: {total['challenging_structure']}; challenging block: "
        f"{_block_name(total['challenging_block'])}; "
        f"{sum(b < a for a, b in pairs)} of {total['structures']} structures better than stage 1"
    )
    return "\n".join(lines)


def _left_out(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Structures that a metric has no value of, and what was left out of its values.

    Args:
        records: of :func:`deeph_gformer.analysis.evaluate.evaluate`.
    """
    lines = []
    for name in (*(m.name for m in metrics().values()), "invariance"):
        notes = [f"{r['name']}: {note}" for r in records for note in r.get(f"{name}_notes") or ()]
        if not notes:
            continue
        keys = [key for m in metrics().values() if m.name == name for key in m.labels]
        without = sum(any(r.get(key) is None for key in keys) for r in records)
        count = f" none of {without} of {len(records)} structures;" if without else ""
        more = f"; {len(notes) - MOST_NOTES} more with --json" if len(notes) > MOST_NOTES else ""
        lines.append(f"{name}:{count} left out: {'; '.join(notes[:MOST_NOTES])}{more}")
    return lines


def _place_table(places: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            p["place"],
            f"{100 * p['share_of_elements']:.1f} %",
            f"{p['mean_abs_hamiltonian_meV']:.1f}",
            f"{p['stage1_mae_meV']:.4f}",
            f"{p['refined_mae_meV']:.4f}",
            f"{p['refined_mae_meV'] / p['stage1_mae_meV']:.3f}" if p["stage1_mae_meV"] else "-",
        ]
        for p in places
    ]
    return text_table(
        ["MAE by place / meV", "elements", "mean |H|", "stage 1", "refined", "ratio"], rows
    )


def _invariance_table(total: dict[str, Any]) -> str:
    """The largest differences of all structures, by kind of description."""
    rows = [
        [
            kind.replace("_", " "),
            _number(energy, ".1e"),
            f"{total['invariance_blocks_meV'][kind]:.1e}",
            f"{total['stage1_invariance_blocks_meV'][kind]:.1e}",
        ]
        for kind, energy in total["invariance_meV"].items()
    ]
    scan = total["smoothness_meV"]
    step = f"second difference, step {scan['step_angstrom']:g} Å"
    rows.append([step, "-", f"{scan['refined']:.1e}", f"{scan['stage1']:.1e}"])
    return text_table(
        ["largest difference / meV", "eigenvalues", "elements of H", "of stage 1"], rows
    )
