"""Evaluate the shipped models and write their cards: ``card.json`` in each bundle, ``README.md``
beside it, and the first table of docs/measured/accuracy.md.

    python benchmarks/invariance.py --data DIR --json WORK/invariance.json
    python benchmarks/model_cards.py --data DIR --work WORK
    python benchmarks/model_cards.py --pages    # README.md from card.json, nothing is measured

``--data`` holds the unpacked DFT sets, those of one name together. What was measured is kept in
``--work`` as JSON, one file a set, and read again as long as the model is the same. Edges are the
blocks of S, which are all that a new structure has.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap
from typing import Any

import numpy as np
from states import band_errors

import deeph_gformer
from deeph_gformer.analysis.card import CARD_FILE, Card, SetErrors, read_card
from deeph_gformer.analysis.describe import describe
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.io.files import read_json, write_json, write_text
from deeph_gformer.pipeline import HamiltonianModel

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
ABACUS = "ABACUS (LCAO), cutoff of the grid {} Ry, {} k mesh"
ORBITALS = "numerical atomic orbitals, double zeta: {}"
FEW = (
    "The training set is small: it shows what the method gives with little data, and is a model to "
    "start from."
)
OWN = (
    "It knows its own basis, functional and kind of structure only; 'refine' warns where a "
    "structure is unlike the training set."
)
NEEDS_S = "Predictions need S: overlaps.h5, or the table that comes with the bundle."
#: Of the GFormers that were trained from random weights, and are not fine-tuned since.
RANDOM_START = "--epochs {} --set training.monitor=both --set training.warmup_steps=50"

#: Of those that went on from there, e.g. with varied edges.
TUNED = " (and fine-tunes of it, docs/measured/accuracy.md)"

#: Of those that 'deeph-gformer onsite' gave on-site levels, too.
LEVELS = " (and fine-tunes of it and on-site levels, docs/measured/accuracy.md)"

#: By system: title, test sets (folder, split file, whether of the kind it was trained on), what the
#: structures are, orbitals, further arguments of the training, further limits; ``splits`` where the
#: training had more structures than the test sets' own file names.
SYSTEMS: dict[str, dict[str, Any]] = {
    "mos2": {
        "title": "Monolayer MoS2",
        "sets": [("mos2", True)],
        "data": "2x2 cells of 12 atoms, displaced at random",
        "orbitals": "Mo 3s2p2d (19), S 2s2p1d (13), radius 7 bohr",
        "cutoff": (80, "4x4x1"),
        "more": f"--set cascade=false{TUNED}",
        "limits": ["Predicts all of H from stage 1's features."],
    },
    "bilayer_graphene": {
        "title": "Bilayer graphene",
        "sets": [
            ("bilayer_graphene", True),
            ("bilayer_graphene_21.8deg", False),
            ("bilayer_graphene_21.8deg_0K", False),
            ("bilayer_graphene_13.2deg_0K", False),
        ],
        "data": "cells of 16, 28 and 36 atoms, random stacking and distance, displaced at random; "
        "ideal ones of 4 atoms",
        "orbitals": "C 2s2p1d (13), radius 6 bohr",
        "cutoff": (80, "7x7x1 (16 atoms)"),
        "splits": "examples/systems/splits/bilayer_graphene_cells.json",
        "more": f"{RANDOM_START.format(140)}{TUNED}",
        "limits": ["Twisted bilayers were never trained on; their gain is smaller."],
    },
    "bismuthene": {
        "title": "Bilayer bismuthene, spin-orbit coupling",
        "sets": [("bismuthene", True), ("bismuthene_21.8deg_0K", False)],
        "data": "2x2 cells of 16 atoms, random stacking and distance, displaced at random",
        "orbitals": "Bi 3s2p2d (19), radius 7 bohr",
        "cutoff": (60, "3x3x1"),
        "more": f"{RANDOM_START.format(130)}{TUNED}",
        "limits": [],
    },
    "bi2te3": {
        "title": "Bi2Te3, two quintuple layers, spin-orbit coupling",
        "sets": [("bi2te3", True)],
        "data": "cells of 10 atoms, displaced at random",
        "orbitals": "Bi 3s2p2d (19), Te 3s2p2d (19), radius 7 bohr",
        "cutoff": (60, "5x5x1"),
        "more": f"{RANDOM_START.format(140)}{LEVELS}",
        "limits": [
            "States at the gap are off by more than others, by up to 29 and 53 meV in the test "
            "structures: check bands with a shift taken out, and Z2 only where the gap is far "
            "above that.",
            NEEDS_S,
        ],
    },
    "bi2se3": {
        "title": "Bi2Se3, two quintuple layers, spin-orbit coupling",
        "sets": [("bi2se3", True)],
        "data": "cells of 10 atoms, displaced at random",
        "orbitals": "Bi 3s2p2d (19), radius 7 bohr, Se 3s2p2d (19), radius 8 bohr",
        "cutoff": (70, "5x5x1"),
        "more": f"{RANDOM_START.format(140)}{LEVELS}",
        "limits": [
            "Stage 1 alone has ghost bands in some structures.",
            NEEDS_S,
            "S has small eigenvalues, and states at the gap hang on them: the gap of the test "
            "structure is 0.125 eV instead of 0.098.",
        ],
    },
    "graphene": {
        "title": "Monolayer graphene",
        "sets": [("graphene_gpaw", True)],
        "data": "3x3 cells of 18 atoms, displaced by 0.05 Å, 1 % strain",
        "code": "GPAW (PAW)",
        "basis": "numerical atomic orbitals, double zeta with polarisation (C 13 per atom)",
        "splits": "examples/graphene/splits_gformer.json",
        "more": f"--set training.states_weight=0.1{TUNED}",
        "limits": [
            "S of PAW is not two-centre, so structures need overlaps.h5 of a GPAW run.",
            "The energy zero is the vacuum level.",
        ],
    },
}


def folder_of(name: str) -> pathlib.Path:
    """Of a shipped model."""
    return EXAMPLES / "graphene" if name == "graphene" else EXAMPLES / "systems/models" / name


def splits_of(name: str) -> pathlib.Path:
    """Names of the structures of its GFormer's training."""
    if name == "graphene":
        return EXAMPLES / "graphene" / "splits.json"
    return EXAMPLES / "systems" / "splits" / f"{name}_gformer.json"


def judged(
    model: HamiltonianModel, folder: pathlib.Path, splits: pathlib.Path | None
) -> dict[str, Any]:
    """What ``evaluate --json`` says of the test structures, with ``bands`` of each: stage 1's mean
    error within 3 eV and that of both stages, meV.
    """
    table = evaluate(
        model, folder, edges="overlaps", splits=splits, invariance=False, rotations=0
    ).to_json()
    names = [record["name"] for record in table["structures"]]
    table["bands"] = {name: band_errors(model, folder / name) for name in names}
    return table


def measured(name: str, data: pathlib.Path, work: pathlib.Path) -> list[dict[str, Any]]:
    """Each test set, judged; read where that is known."""
    base, model, found = folder_of(name), None, []
    fingerprint = read_json(base / "gformer" / "bundle.json")["fingerprint"]
    for folder, trained in SYSTEMS[name]["sets"]:
        path = work / f"{folder}.json"
        table = read_json(path) if path.is_file() else {}
        if table.get("bundle") != fingerprint or "bands" not in table:
            model = model or deeph_gformer.load(base / "gformer", stage1=base / "stage1")
            table = judged(model, data / folder, splits_of(name) if trained else None)
            table["bundle"] = fingerprint
            write_json(path, table)
        print(f"{folder}: {len(table['structures'])} structures", file=sys.stderr)
        found.append(table)
    return found


def errors_of(label: str, tables: list[dict[str, Any]], trained: bool) -> SetErrors:
    """Means over the structures of some sets."""
    rows = [record for table in tables for record in table["structures"]]
    bands = [value for table in tables for value in table["bands"].values()]

    def mean(*keys: str) -> tuple[float, float]:
        first, second = (float(np.mean([row[key] for row in rows])) for key in keys)
        return first, second

    return SetErrors(
        label,
        len(rows),
        (min(row["atoms"] for row in rows), max(row["atoms"] for row in rows)),
        trained,
        mean("gauge_free_stage1_mae_meV", "gauge_free_refined_mae_meV"),
        mean("stage1_states_error_meV", "states_error_meV"),
        (float(np.mean([b[0] for b in bands])), float(np.mean([b[1] for b in bands]))),
    )


def invariance(name: str, work: pathlib.Path) -> dict[str, float]:
    """Worst differences in meV between descriptions of a test structure, by what differs."""
    worst = {}
    for row in read_json(work / "invariance.json"):
        if row["system"] == name and row["crystal"] == "displaced":
            values = [v for v in row["invariance_meV"].values() if v is not None]
            worst[f"eigenvalues, {row['dtype']}"] = max(values)
    return worst


def card_of(name: str, tables: list[dict[str, Any]], work: pathlib.Path) -> Card:
    """The card of one system."""
    facts = SYSTEMS[name]
    known = [t for t, (_, trained) in zip(tables, facts["sets"], strict=True) if trained]
    other = [t for t, (_, trained) in zip(tables, facts["sets"], strict=True) if not trained]
    sets = [errors_of("test structures", known, True)]
    if other:
        sets.append(errors_of("twisted", other, False))
    yaml = "examples/graphene" if name == "graphene" else "examples/systems"
    command = (
        f"deeph-gformer train {yaml}/gformer.yaml --preprocessed data/{facts['sets'][0][0]} "
        f"--splits {facts.get('splits') or splits_of(name).relative_to(ROOT)} "
        f"--stage1 {folder_of(name).relative_to(ROOT)}/stage1 {facts['more']}"
    )
    return Card(
        system=facts["title"],
        bundle=tables[0]["bundle"],
        data=facts["data"],
        code=facts.get("code") or ABACUS.format(*facts["cutoff"]),
        functional="PBE",
        basis=facts.get("basis") or ORBITALS.format(facts["orbitals"]),
        command=command.strip(),
        errors=tuple(sets),
        invariance_meV=invariance(name, work),
        limits=(*facts["limits"], FEW, OWN),
    )


#: Rows of the page's tables, and their names there.
DATA_ROWS = {"data": "structures", "DFT code": "", "functional": "", "basis": "", "licence": ""}
MODEL_ROWS = {
    "elements": "",
    "shells l": "",
    "spinful": "spin-orbit coupling",
    "gauge": "",
    "predicts": "",
    "arch": "",
    "parameters": "",
    "dtype": "",
    "e3nn generation": "",
    "stage1": "",
    "onsite levels": "on-site levels",
    "training structures": "",
    "training epochs": "",
    "stage1 val mae meV": "validation, stage 1: MAE of H / meV",
    "best val mae meV": "validation, best epoch: MAE of H / meV",
    "best val states meV": "validation, best epoch: errors of states / meV",
    "invariance": "largest change of an eigenvalue in another description of the crystal",
    "deeph gformer": "made with deeph-gformer",
}


def readme(card: Card, described: dict[str, Any], folder: str, errors_page: str) -> str:
    """The card as a page.

    Args:
        card: of the bundle.
        described: what ``info`` says of the bundle.
        folder: of stage 1 and GFormer, from the repository's root.
        errors_page: link to what the errors mean.
    """
    facts = {**card.lines(), **{k.replace("_", " "): v for k, v in described.items()}}
    tuned = " (and fine-tunes of it" in card.command
    if tuned:
        del facts["training epochs"]  # of the last of several
    moved = (f"{v:.1g} meV ({k.split(', ')[-1]})" for k, v in card.invariance_meV.items())
    facts["invariance"] = ", ".join(moved)
    command = card.command.partition(" (and ")[0].replace(" --", " \\\n    --")
    text = [
        f"# {card.system}",
        "",
        "A GFormer (`gformer`) and the DeepH-E3 model that it corrects (`stage1`).",
        "",
        "```",
        f"deeph-gformer refine --preprocessed DIR --stage1 {folder}/stage1 \\",
        f"    --model {folder}/gformer --output OUT",
        "```",
        "",
        "## Errors",
        "",
        "| test set | structures | atoms | H | states | bands |",
        "|---|--:|--:|--:|--:|--:|",
        *(f"| {' | '.join(one.row())} |" for one in card.errors),
        "",
        "Mean errors in meV on structures that neither stage saw, stage 1 -> refined: of H without "
        "μS, of",
        "DFT's states within 3 eV of the Fermi level to first order, and of all bands there. What "
        "they mean:",
        f"[errors]({errors_page}).",
        "",
        "## Limits",
        "",
        *(
            line
            for limit in card.limits
            for line in textwrap.wrap(f"- {limit}", 98, subsequent_indent="  ")
        ),
        "",
        "## Data and licence",
        "",
        *_table(facts, DATA_ROWS),
        "",
        "## Model",
        "",
        *_table(facts, MODEL_ROWS),
        "",
        "Trained with",
        "",
        "```",
        command,
        "```",
        "",
        ("and fine-tuned from that; " if tuned else "")
        + "docs/measured/accuracy.md has the whole way. `deeph-gformer info`",
        "shows all of this; `python benchmarks/model_cards.py` made the page.",
    ]
    return "\n".join(text) + "\n"


def _table(facts: dict[str, Any], rows: dict[str, str]) -> list[str]:
    """Rows of what is known."""
    lines = ["| | |", "|---|---|"]
    for key, name in rows.items():
        value = facts.get(key)
        if value is None:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if isinstance(value, float):
            value = f"{value:.4g}"
        if isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"| {name or key} | {value} |")
    return lines


def write_page(name: str, card: Card) -> None:
    """``README.md`` of one system."""
    base = folder_of(name)
    place = base / "gformer" if name == "graphene" else base
    up = "../" * len(place.relative_to(ROOT).parts)
    described = describe(base / "gformer").to_json()
    page = readme(card, described, str(base.relative_to(ROOT)), f"{up}docs/reference/metrics.md")
    write_text(place / "README.md", page)


def accuracy_row(label: str, counts: str, errors: SetErrors) -> str:
    """A row of the table of docs/measured/accuracy.md."""
    few, many = errors.atoms
    (a, b), (c, d), (e, f) = errors.hamiltonian, errors.states, errors.bands
    return (
        f"| {label} | {few if few == many else f'{few} to {many}'} | {counts} | {a:.3f} | {b:.3f} "
        f"| **{b / a:.3f}** | {c:.1f} -> {d:.1f} | {d / c:.2f} | {e:.1f} -> {f:.1f} | {f / e:.2f} |"
    )


def main() -> None:
    """Measure what is not known, write cards, print rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--work", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--pages", action="store_true", help="write README.md only")
    parser.add_argument("names", nargs="*", default=list(SYSTEMS), metavar="NAME")
    args = parser.parse_args()
    if args.pages:
        for name in args.names:
            card = read_card(folder_of(name) / "gformer")
            if card is None:
                parser.error(f"{name}: card.json is of other weights; measure first")
            write_page(name, card)
        return
    if args.data is None or args.work is None:
        parser.error("--data and --work are needed (or --pages)")
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        tables, bundle = measured(name, args.data, args.work), folder_of(name) / "gformer"
        card = card_of(name, tables, args.work)
        write_json(bundle / CARD_FILE, card.to_json())
        write_page(name, card)
        for number, errors in enumerate(card.errors):
            print(accuracy_row(f"{name}: {errors.name}", "" if number else "?", errors))


if __name__ == "__main__":
    main()
