"""Tables 2-4 from the results of an ablation: terminal text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..algebra.orbitals import Basis
from ..analysis.metric import metrics
from ..analysis.tables import text_table
from ..config import to_mapping
from ..io.files import write_json, write_text
from .settings import SETTINGS, AblationConfig

__all__ = ["write_tables", "metrics_of"]

Column = tuple[str, str, str, str]  # key, heading, LaTeX heading, number format


def columns(gauge: str) -> list[Column]:
    """Columns of the tables; beside errors in the gauge of the training stand those of the other
    kind.
    """
    other: Column = (
        ("raw_mae_all_meV", "MAE_all^H with μS", r"MAE$_{all}^H$ with $\mu S$", ".4f")
        if gauge == "standard"
        else (
            "gauge_free_mae_all_meV",
            "MAE_all^H without μS",
            r"MAE$_{all}^H$, $\mu S$ removed",
            ".4f",
        )
    )
    return [
        ("mae_all_meV", "MAE_all^H", r"MAE$_{all}^H$", ".4f"),
        ("mae_challenging_structure_meV", "MAE_cha.s^H", r"MAE$_{cha.s}^H$", ".4f"),
        ("mae_challenging_block_meV", "MAE_cha.b^H", r"MAE$_{cha.b}^H$", ".4f"),
        other,
        *((next(iter(m.labels)), m.name, m.name, ".2f") for m in metrics().values()),
        ("equivariance_error_meV", "equivariance error", "equivariance error", ".1e"),
        ("ratio_to_e3", "MAE_all/e3", r"MAE$_{all}^H$/e3", ".3f"),
    ]


def metrics_of(result: dict[str, Any], reference: dict[str, Any]) -> dict[str, float | None]:
    """The figures of one setting on one test set.

    Args:
        result: of :func:`deeph_gformer.analysis.evaluate.evaluate` for the setting.
        reference: the same for ``e3``, which decides what the challenging structure and block are.
    """
    base = [s["refined_mae_meV"] for s in reference["structures"]]
    worst = reference["structures"][int(np.argmax(base))]["name"]
    blocks = [
        math.nan if b["refined_mae_meV"] is None else b["refined_mae_meV"]
        for b in reference["blocks"]
    ]
    total = result["total"]
    own = next(s for s in result["structures"] if s["name"] == worst)
    return {
        "mae_all_meV": total["refined"]["mae_all_meV"],
        "mae_challenging_structure_meV": own["refined_mae_meV"],
        "mae_challenging_block_meV": result["blocks"][int(np.nanargmax(blocks))]["refined_mae_meV"],
        "raw_mae_all_meV": total.get("raw_refined_mae_meV"),
        "gauge_free_mae_all_meV": total.get("gauge_free_refined_mae_meV"),
        **{key: total.get(key) for m in metrics().values() for key in m.labels},
        "equivariance_error_meV": result.get("equivariance", {}).get("refined_error_meV"),
        "ratio_to_e3": total["refined"]["mae_all_meV"] / float(np.mean(base)),
        "mae_elements_meV": total["refined"]["mae_elements_meV"],
        "better_than_e3_structures": sum(
            s["refined_mae_meV"] < b for s, b in zip(result["structures"], base, strict=True)
        ),
        "structures": len(base),
    }


def _rows(results: Sequence[dict[str, Any]], reference: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per setting: means over seeds, with their spread where there are several."""
    rows: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(r["setting"] for r in results):
        own = [r for r in results if r["setting"] == kind]
        row: dict[str, Any] = {
            "setting": kind,
            "label": SETTINGS[kind].label,
            "seeds": [r["seed"] for r in own],
            "parameters": own[0]["parameters"],
            "training_seconds": float(np.mean([r["training_seconds"] for r in own])),
            "own_training_seconds": float(np.mean([r["own_training_seconds"] for r in own])),
            "best_val_mae_meV": own[0].get("best_val_mae_meV"),
            "epochs": own[0].get("epochs"),
            "tests": {},
        }
        for name in own[0]["tests"]:
            per_seed = [metrics_of(r["tests"][name], reference["tests"][name]) for r in own]
            mean = {
                k: None if per_seed[0][k] is None else float(np.mean([m[k] for m in per_seed]))
                for k in per_seed[0]
            }
            for key in ("mae_all_meV", *(next(iter(m.labels)) for m in metrics().values())):
                values = [value for m in per_seed if (value := m[key]) is not None]
                if len(values) > 1:
                    mean[_spread(key)] = float(np.std(values, ddof=1))
            row["tests"][name] = mean
        rows[kind] = row
    return list(rows.values())


def _spread(key: str) -> str:
    """The key of a figure's standard deviation over the seeds."""
    return f"{key.removesuffix('_meV')}_spread_meV"


def _cells(row: dict[str, Any], name: str, shown: Sequence[Column]) -> list[str]:
    figures, cells = row["tests"][name], []
    for key, _, _, form in shown:
        value, spread = figures[key], figures.get(_spread(key))
        cell = "-" if value is None else format(value, form)
        cells.append(cell if spread is None else f"{cell} ± {spread:{form}}")
    return cells


def _time(row: dict[str, Any]) -> str:
    return f"{row['training_seconds']:.0f}" if row["training_seconds"] else "-"


def _latex(rows: list[dict[str, Any]], names: Sequence[str], shown: Sequence[Column]) -> str:
    head = " & ".join(["Method", *(c[2] for _ in names for c in shown), "parameters", "training/s"])
    groups = " & ".join(
        [
            "",
            *(rf"\multicolumn{{{len(shown)}}}{{c}}{{{n.replace('_', ' ')}}}" for n in names),
            "",
            "",
        ]
    )
    lines = [
        r"\begin{tabular}{l" + "r" * (len(shown) * len(names) + 2) + "}",
        r"\hline",
        groups + r" \\",
        head + r" \\",
        r"\hline",
    ]
    for row in rows:
        cells = [c.replace("±", r"$\pm$") for n in names for c in _cells(row, n, shown)]
        lines.append(
            " & ".join(
                [SETTINGS[row["setting"]].latex, *cells, f"{row['parameters']:,}", _time(row)]
            )
            + r" \\"
        )
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _csv(rows: list[dict[str, Any]], names: Sequence[str]) -> str:
    text = io.StringIO()
    keys = list(dict.fromkeys(k for row in rows for n in names for k in row["tests"][n]))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "setting",
            "test_set",
            *keys,
            "parameters",
            "training_seconds",
            "own_training_seconds",
            "epochs",
            "seeds",
        ]
    )
    for row in rows:
        for n in names:
            writer.writerow(
                [
                    row["setting"],
                    n,
                    *("" if row["tests"][n].get(k) is None else row["tests"][n][k] for k in keys),
                    row["parameters"],
                    row["training_seconds"],
                    row["own_training_seconds"],
                    row["epochs"],
                    " ".join(map(str, row["seeds"])),
                ]
            )
    return text.getvalue()


def _markdown(
    rows: list[dict[str, Any]], names: Sequence[str], sizes: dict[str, int], shown: Sequence[Column]
) -> str:
    parts = []
    for n in names:
        head = ["method", *(c[1] for c in shown), "parameters", "training / s"]
        lines = [
            f"### {n} ({sizes[n]} structures; errors in meV)\n",
            "| " + " | ".join(head) + " |",
            "|---" + "|--:" * (len(head) - 1) + "|",
        ]
        lines += [
            "| "
            + " | ".join(
                [row["label"], *_cells(row, n, shown), f"{row['parameters']:,}", _time(row)]
            )
            + " |"
            for row in rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _text(
    rows: list[dict[str, Any]],
    names: Sequence[str],
    sizes: dict[str, int],
    notes: Sequence[str],
    shown: Sequence[Column],
) -> str:
    parts = []
    for n in names:
        body = [
            [row["label"], *_cells(row, n, shown), f"{row['parameters']:,}", _time(row)]
            for row in rows
        ]
        parts.append(
            f"{n}: {sizes[n]} structures, errors in meV\n"
            + text_table(["method", *(c[1] for c in shown), "parameters", "training/s"], body)
        )
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def write_tables(
    folder: pathlib.Path,
    results: Sequence[dict[str, Any]],
    reference: dict[str, Any],
    basis: Basis,
    config: AblationConfig,
) -> dict[str, Any]:
    """Write ``table.txt``, ``.md``, ``.tex``, ``.csv`` and ``.json``, and print the first.

    Args:
        folder: where.
        results: of every setting and seed.
        reference: of ``e3``; of the first setting where no stage 1 is used.
        basis: of the data.
        config: recorded.

    Returns:
        What ``table.json`` holds.
    """
    rows = _rows(results, reference)
    names = list(reference["tests"])
    sizes = {n: len(reference["tests"][n]["structures"]) for n in names}
    label = SETTINGS[reference["setting"]].label
    notes = [
        f"cha.s and cha.b: the structure and the block worst for {label}; training/s: of all "
        "stages that were trained here"
    ]
    for n in names:
        if config.data.gauge == "standard":
            of = reference["tests"][n]["errors"]
            notes.append(
                f"{n}: trained in the gauge H - μS; all errors are "
                + ("without μS" if of != "raw" else "raw, as overlaps.h5 is missing")
            )
    shown = columns(config.data.gauge)
    text = _text(rows, names, sizes, notes, shown)
    table = {
        "deeph_gformer": __version__,
        "reference": reference["setting"],
        "elements": list(basis.elements),
        "spinful": basis.spinful,
        "test_sets": sizes,
        "rows": rows,
        "config": to_mapping(config),
        "results": list(results),
    }
    write_json(folder / "table.json", table)
    files = {
        "table.txt": text,
        "table.md": _markdown(rows, names, sizes, shown),
        "table.tex": _latex(rows, names, shown),
        "table.csv": _csv(rows, names),
    }
    for name, content in files.items():
        write_text(folder / name, content)
    print("\n" + text + f"\ntables: {folder}/table.{{txt,md,tex,csv,json}}", flush=True)
    return table
