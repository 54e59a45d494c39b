"""The HTML file: one page, no scripts and no fonts from elsewhere, every name escaped."""

from __future__ import annotations

import datetime
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..analysis.metric import metrics
from ..results.worse import UNLIKE, worse_than_stage1
from . import figures
from .collect import block_tables

__all__ = ["render"]

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #26323c; margin: 0; }
main { max-width: 1060px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 8px 0 2px; } h2 { margin: 36px 0 6px; font-size: 20px; }
p.note { color: #5b6670; margin: 2px 0 10px; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 18px 0; }
.card { border: 1px solid #d5dbe0; border-radius: 9px; padding: 12px 18px; min-width: 150px; }
.card b { display: block; font-size: 25px; } .card span { color: #5b6670; font-size: 13px; }
table { border-collapse: collapse; margin: 8px 0; font-size: 14px; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #e3e8ec; }
th:first-child, td:first-child { text-align: left; }
th { background: #f2f4f6; } table.sortable th { cursor: pointer; }
table.sortable th::after { content: " \\2195"; color: #9aa5ae; font-size: 11px; }
td.left { text-align: left; }
p.warning { border-left: 5px solid #b02a2a; background: #fbeeee; padding: 8px 14px; }
td.bad { color: #b02a2a; font-weight: bold; }
select { font: inherit; margin: 6px 0; }
"""

_SCRIPT = """
document.querySelectorAll("table.sortable th").forEach(function (head) {
  head.addEventListener("click", function () {
    var table = head.closest("table"), body = table.tBodies[0];
    var column = head.cellIndex, down = head.dataset.down !== "1";
    head.dataset.down = down ? "1" : "0";
    var value = function (row) {
      var text = row.cells[column].textContent, number = parseFloat(text);
      return isNaN(number) ? text : number;
    };
    Array.from(body.rows).sort(function (a, b) {
      var x = value(a), y = value(b), order = x < y ? -1 : x > y ? 1 : 0;
      return down ? -order : order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
document.querySelectorAll("select.choose").forEach(function (list) {
  var show = function () {
    document.querySelectorAll("." + list.dataset.group).forEach(function (part) {
      part.style.display = part.id === list.value ? "block" : "none";
    });
    window.dispatchEvent(new Event("resize"));
  };
  list.addEventListener("change", show); show();
});
"""


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _number(value: Any) -> str:
    """Four digits of a number."""
    if value is None:
        return "-"
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else _escape(value)


def _table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], sortable: bool = True, bad: int = -1
) -> str:
    """A table; in column ``bad`` numbers of at least 1 (ratios: worse than stage 1) stand out."""
    lines = []
    for row in rows:
        cells = []
        for n, value in enumerate(row):
            worse = n == bad and isinstance(value, float) and value >= 1
            cells.append(f"<td{' class=bad' if worse else ''}>{_number(value)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{_escape(h)}</th>" for h in header)
    kind = ' class="sortable"' if sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_escape(k)}</td><td class=left>{_escape(v)}</td></tr>" for k, v in values.items()
    )
    return f"<table>{rows}</table>"


class _Figures:
    """Figures as HTML; plotly's own script comes with the first one."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, figure: Any, name: str) -> str:
        text: str = figure.to_html(
            full_html=False, include_plotlyjs=self.first, div_id=name, config={"displaylogo": False}
        )
        self.first = False
        return text


def _cards(result: Mapping[str, Any]) -> str:
    total = result["total"]
    first, both = total["stage1"]["mae_all_meV"], total["refined"]["mae_all_meV"]
    cards = [
        (f"{first:.3f} meV", "stage 1, MAE of H"),
        (f"{both:.3f} meV", "refined, MAE of H"),
        (f"{both / first:.3f}" if first else "-", "refined / stage 1"),
        (f"{total['better_structures']} of {total['structures']}", "structures better"),
    ]
    if total.get("states_error_meV"):
        change = f"{total['stage1_states_error_meV']:.1f} → {total['states_error_meV']:.1f} meV"
        cards.append((change, "energies of states"))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{_escape(a)}</b><span>{_escape(b)}</span></div>'
            for a, b in cards
        )
        + "</div>"
    )


def _evaluation(result: Mapping[str, Any], draw: _Figures) -> list[str]:
    parts = [
        "<h2>Errors of H</h2>",
        f'<p class="note">Errors are {_escape(result["errors"])}; H and H + μS are the same '
        "physics. "
        "Click a column to sort.</p>",
        _cards(result),
    ]
    if text := worse_than_stage1(result["total"], "these structures"):
        parts.append(f'<p class="warning">Warning: {_escape(text)}. {_escape(UNLIKE)}</p>')
    columns = ["structure", "atoms", "stage 1 / meV", "refined / meV", "ratio"]
    rows = [
        [r["name"], r["atoms"], r["stage1_mae_meV"], r["refined_mae_meV"], r["ratio"]]
        for r in result["structures"]
    ]
    for key, label in (pair for m in metrics().values() for pair in m.labels.items()):
        if any(r.get(key) is not None for r in result["structures"]):
            columns += [f"{label}, stage 1 / meV", f"{label}, refined / meV"]
            for row, record in zip(rows, result["structures"], strict=True):
                row += [record.get(f"stage1_{key}"), record.get(key)]
    parts += ["<h3>By structure</h3>", _table(columns, rows, bad=4)]
    places = [
        [
            p["place"],
            p["stage1_mae_meV"],
            p["refined_mae_meV"],
            p["refined_mae_meV"] / p["stage1_mae_meV"] if p["stage1_mae_meV"] else None,
        ]
        for p in result["places"]
    ]
    header = ["", "stage 1 / meV", "refined / meV", "ratio"]
    parts += ["<h3>By place</h3>", _table(["place", *header[1:]], places, bad=3)]
    tables = block_tables(dict(result))
    pairs: list[list[Any]] = []
    for name, table in tables.items():
        if "-".join(reversed(name.split("-"))) in [row[0] for row in pairs]:
            continue  # the same blocks, transposed
        sums = [
            [v for row in table[kind] for v in row if v is not None]
            for kind in ("stage 1", "refined")
        ]
        if sums[0]:
            a, b = (sum(v) / len(v) for v in sums)
            pairs.append([name, a, b, b / a if a else None])
    parts += [
        "<h3>By pair of elements (mean over blocks)</h3>",
        _table(["pair", *header[1:]], pairs, bad=3),
        "<h3>By orbital block</h3>",
        '<p class="note">Mean |ΔH| in meV between a shell of the first atom and one of the second; '
        "choose the pair of elements.</p>",
    ]
    options = "".join(
        f'<option value="map-{n}">{_escape(k)}</option>' for n, k in enumerate(tables)
    )
    parts.append(f'<select class="choose" data-group="maps">{options}</select>')
    for n, table in enumerate(tables.values()):
        figure = draw(figures.block_maps(table), f"blocks-{n}")
        parts.append(f'<div class="maps" id="map-{n}">{figure}</div>')
    parts += ["<h3>By distance</h3>", draw(figures.error_distance(result["distance"]), "distance")]
    return parts


def _symmetry(result: Mapping[str, Any]) -> list[str]:
    total, rows = result["total"], []
    if "equivariance" in result:
        e = result["equivariance"]
        rows.append(["rotations", None, e["refined_error_meV"], e["stage1_error_meV"]])
    for kind, value in total.get("invariance_meV", {}).items():
        rows.append(
            [
                kind.replace("_", " "),
                value,
                total.get("invariance_blocks_meV", {}).get(kind),
                total.get("stage1_invariance_blocks_meV", {}).get(kind),
            ]
        )
    if not rows:
        return []
    text = [[row[0], *("-" if v is None else f"{v:.1e}" for v in row[1:])] for row in rows]
    return [
        "<h2>The same crystal, described otherwise</h2>",
        '<p class="note">None of these may change the physics. Largest differences in meV.</p>',
        _table(
            ["description", "eigenvalues", "elements of H", "elements of H, stage 1"],
            text,
            sortable=False,
        ),
    ]


def _guard(result: Mapping[str, Any]) -> list[str]:
    """How unlike the training set each structure is."""
    found = [r for r in result["structures"] if "correction_z" in r]
    if not found:
        return []
    columns = {"structure": "name", "correction": "correction_z", "features": "features_z"}
    note = (
        "The guard: how far the size of the correction, and stage 1's features, are from those of "
        "training and validation, in standard deviations. Above 6 there is a warning."
    )
    if any(r.get("levels_distance") is not None for r in found):
        columns["levels"] = "levels_distance"
        note += (
            " On-site levels: how far they are from those of their fit, 1 at most there. Above 2 "
            "there is a warning."
        )
    rows = [[*(r.get(key) for key in columns.values()), r["guard_warning"] or "-"] for r in found]
    return [
        "<h2>Like the training set?</h2>",
        f'<p class="note">{note}</p>',
        _table([*columns, "warning"], rows),
    ]


def _worst(found: Mapping[str, Any], draw: _Figures) -> list[str]:
    parts = [f"<h2>The structure that is worst for stage 1: {_escape(found['name'])}</h2>"]
    if "bands" in found:
        parts += [
            '<p class="note">Each Hamiltonian relative to its own Fermi level; below, what is '
            "left of each band (E - E<sub>DFT</sub>, without the difference of the levels).</p>",
            draw(figures.band_overlay(found["bands"]), "bands"),
        ]
    else:
        parts.append(f'<p class="note">No bands: {_escape(found.get("no_bands", ""))}</p>')
    return [*parts, draw(figures.geometry(found["geometry"]), "geometry")]


def render(
    title: str,
    *,
    result: Mapping[str, Any] | None = None,
    worst: Mapping[str, Any] | None = None,
    history: Mapping[str, Sequence[float | None]] | None = None,
    card: Mapping[str, str] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> str:
    """The whole page.

    Args:
        title: of the page.
        result: of ``evaluate``.
        worst: of :func:`.collect.worst_structure`.
        history: of :func:`.collect.read_run`.
        card: of :func:`.collect.describe_model`.
        provenance: further lines on where the numbers come from.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    figures.require_plotly()
    draw = _Figures()
    parts: list[str] = []
    if result is not None:
        parts += _evaluation(result, draw)
    if worst is not None:
        parts += _worst(worst, draw)
    if result is not None:
        parts += _symmetry(result) + _guard(result)
    if history is not None:
        parts += [
            "<h2>Training</h2>",
            f'<p class="note">{len(history["epoch"])} epochs so far.</p>',
            draw(figures.learning_curve(history), "history"),
        ]
    if card:
        parts += ["<h2>Model card</h2>", _pairs(card)]
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    sources = {"deeph-gformer": __version__, "made": now, **(provenance or {})}
    parts += ["<h2>Provenance</h2>", _pairs(sources)]
    data = json.dumps({"title": title, "total": (result or {}).get("total")}, default=str)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{_escape(title)}</h1>{''.join(parts)}</main><script>{_SCRIPT}</script>"
        f'<script type="application/json" id="summary">{data.replace("<", chr(92) + "u003c")}'
        "</script></body></html>"
    )
