"""Evaluate the shipped models and write their cards: ``card.json`` in each bundle, ``README.md``
beside it, and the first table of docs/measured/accuracy.md.

    python benchmarks/invariance.py --data DIR --json WORK/invariance.json
    python benchmarks/model_cards.py --data DIR --work WORK

``--data`` holds the unpacked DFT sets, those of one name together. What was measured is kept in
``--work`` as JSON, one file a set, and read again as long as the model is the same.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import numpy as np
from states import band_errors

import deeph_gformer
from deeph_gformer.analysis.card import CARD_FILE, Card, SetErrors
from deeph_gformer.analysis.describe import describe
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.io.files import read_json, write_json, write_text

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
ABACUS = "ABACUS (LCAO), cutoff of the grid {} Ry"
ORBITALS = "numerical atomic orbitals, double zeta ({} per atom)"
FEW = (
    "The training set is small: it shows what the method gives with little data, and is a model to "
    "start from."
)
OWN = (
    "It knows its own basis, functional and kind of structure only; 'refine' warns where a "
    "structure is unlike the training set."
)

#: By system: title, test sets (folder, split file, whether of the kind it was trained on), what the
#: structures are, orbitals, further arguments of the training, further limits.
SYSTEMS: dict[str, dict[str, Any]] = {
    "mos2": {
        "title": "Monolayer MoS2",
        "sets": [("mos2", True)],
        "data": "2x2 cells of 12 atoms, displaced at random",
        "orbitals": "Mo 19, S 13",
        "cutoff": 80,
        "more": "--set cascade=false",
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
        "data": "2x2 cells of 16 atoms, random stacking and distance, displaced at random",
        "orbitals": "C 13",
        "cutoff": 80,
        "more": "",
        "limits": ["Twisted bilayers were never trained on; their gain is smaller."],
    },
    "bismuthene": {
        "title": "Bilayer bismuthene, spin-orbit coupling",
        "sets": [("bismuthene", True), ("bismuthene_21.8deg_0K", False)],
        "data": "2x2 cells of 16 atoms, random stacking and distance, displaced at random",
        "orbitals": "Bi 19",
        "cutoff": 60,
        "more": "",
        "limits": [],
    },
    "bi2te3": {
        "title": "Bi2Te3, two quintuple layers, spin-orbit coupling",
        "sets": [("bi2te3", True)],
        "data": "cells of 10 atoms, displaced at random",
        "orbitals": "Bi 19, Te 19",
        "cutoff": 60,
        "more": "",
        "limits": [
            "The gap moves against the other states: check bands with a shift taken out, and Z2 "
            "only where the gap is far above 70 meV."
        ],
    },
    "bi2se3": {
        "title": "Bi2Se3, two quintuple layers, spin-orbit coupling",
        "sets": [("bi2se3", True)],
        "data": "cells of 10 atoms, displaced at random",
        "orbitals": "Bi 19, Se 19",
        "cutoff": 70,
        "more": "",
        "limits": [
            "Stage 1 alone has ghost bands here.",
            "Weights are a mean of those before and after the last training (0.7 and 0.3).",
        ],
    },
    "graphene": {
        "title": "Monolayer graphene",
        "sets": [("graphene_gpaw", True)],
        "data": "3x3 cells of 18 atoms, displaced by 0.05 Å, 1 % strain",
        "code": "GPAW (PAW)",
        "basis": "numerical atomic orbitals, double zeta with polarisation (C 13 per atom)",
        "more": "--set training.states_weight=0.1",
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


def measured(name: str, data: pathlib.Path, work: pathlib.Path) -> list[dict[str, Any]]:
    """The evaluation of each test set, with ``bands`` of each structure; read where it is known."""
    base, model, found = folder_of(name), None, []
    fingerprint = read_json(base / "gformer" / "bundle.json")["fingerprint"]
    for folder, trained in SYSTEMS[name]["sets"]:
        path = work / f"{folder}.json"
        table = read_json(path) if path.is_file() else {}
        if table.get("bundle") != fingerprint:
            model = model or deeph_gformer.load(base / "gformer", stage1=base / "stage1")
            splits = splits_of(name) if trained else None
            found = evaluate(model, data / folder, splits=splits, invariance=False, rotations=0)
            table = found.to_json()
            table["bundle"] = fingerprint
        if "bands" not in table:
            model = model or deeph_gformer.load(base / "gformer", stage1=base / "stage1")
            names = [record["name"] for record in table["structures"]]
            table["bands"] = {one: band_errors(model, data / folder / one) for one in names}
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
        f"--splits {splits_of(name).relative_to(ROOT)} "
        f"--stage1 {folder_of(name).relative_to(ROOT)}/stage1 {facts['more']}"
    )
    return Card(
        system=facts["title"],
        bundle=tables[0]["bundle"],
        data=facts["data"],
        code=facts.get("code") or ABACUS.format(facts["cutoff"]),
        functional="PBE",
        basis=facts.get("basis") or ORBITALS.format(facts["orbitals"]),
        command=command.strip() + " (and fine-tunes of it, docs/measured/accuracy.md)",
        errors=tuple(sets),
        invariance_meV=invariance(name, work),
        limits=(*facts["limits"], FEW, OWN),
    )


def readme(card: Card, described: dict[str, Any]) -> str:
    """The card as a page."""
    model = {k.replace("_", " "): v for k, v in described.items() if k not in ("kind", "card")}
    text = [f"# {card.system}", ""]
    text += ["Made by `python benchmarks/model_cards.py`; `deeph-gformer info` shows it, too.", ""]
    text += ["| test set | structures | atoms | H | states | bands |", "|---|--:|--:|--:|--:|--:|"]
    text += [f"| {' | '.join(one.row())} |" for one in card.errors]
    text += [
        "",
        "Mean errors in meV on structures that neither stage saw, stage 1 -> refined: of H without "
        "μS, of DFT's",
        "states within 3 eV of the Fermi level to first order, and of all bands there.",
        "",
        "Limits:",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
        "| | |",
        "|---|---|",
    ]
    shown = {k: v for k, v in card.lines().items() if not k.startswith(("errors", "limits"))}
    for key, value in {**shown, **model}.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, float):
            value = f"{value:.4g}"
        text.append(f"| {key} | {f'`{value}`' if key == 'command' else value} |")
    return "\n".join(text) + "\n"


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
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--work", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("names", nargs="*", default=list(SYSTEMS), metavar="NAME")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        tables, bundle = measured(name, args.data, args.work), folder_of(name) / "gformer"
        card = card_of(name, tables, args.work)
        write_json(bundle / CARD_FILE, card.to_json())
        place = bundle if name == "graphene" else bundle.parent
        write_text(place / "README.md", readme(card, describe(bundle).to_json()))
        for number, errors in enumerate(card.errors):
            print(accuracy_row(f"{name}: {errors.name}", "" if number else "?", errors))


if __name__ == "__main__":
    main()
