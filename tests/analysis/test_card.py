"""Model cards: of this bundle only, shown by ``info`` and reports; those of the shipped models."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import pytest

from deeph_gformer.analysis.card import CARD_FILE, read_card
from deeph_gformer.cli import main
from deeph_gformer.errors import DataError
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.report.collect import describe_model

from ..conftest import ROOT

BUNDLES = sorted(p.parent for p in (ROOT / "examples").rglob("bundle.json"))
#: First cells of the rows of docs/measured/accuracy.md.
ROWS = {
    "mos2": ("MoS2",),
    "bilayer_graphene": ("bilayer graphene", "- twisted by 21.8° and 13.2°"),
    "bismuthene": ("bismuthene bilayer", "- twisted by 21.8°, never"),
    "bi2te3": ("Bi2Te3",),
    "bi2se3": ("Bi2Se3",),
    "graphene": ("graphene (GPAW",),
}


def test_there_are_six() -> None:
    assert {b.parent.name for b in BUNDLES} == set(ROWS)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.parent.name)
def test_a_shipped_card_is_of_its_bundle_and_says_what_the_docs_say(bundle: pathlib.Path) -> None:
    card = read_card(bundle)
    assert card is not None, "run benchmarks/model_cards.py again"
    page = (bundle if bundle.parent.name == "graphene" else bundle.parent) / "README.md"
    text = page.read_text(encoding="utf-8")
    table = json.loads((bundle / "bundle.json").read_text())
    assert f"gauge | {table['gauge']}" in text and f"| {table['model']['arch']} |" in text
    words = " ".join(text.replace("\\\n", "").split())
    docs = (ROOT / "docs" / "measured" / "accuracy.md").read_text(encoding="utf-8")
    starts = ROWS[bundle.parent.name]
    assert len(starts) == len(card.errors)
    for start, errors in zip(starts, card.errors, strict=True):
        row = next(line for line in docs.splitlines() if line.startswith(f"| {start}"))
        cells = [cell.strip(" *") for cell in row.strip("|").split("|")]
        first, both = errors.hamiltonian
        assert cells[3:6] == [f"{first:.3f}", f"{both:.3f}", f"{both / first:.3f}"], start
        for place, (a, b) in ((6, errors.states), (8, errors.bands)):
            assert cells[place : place + 2] == [f"{a:.1f} -> {b:.1f}", f"{b / a:.2f}"], start
        assert errors.row()[3] in text and errors.row()[5] in text
    for key in ("functional", "licence", "DFT code", "basis"):
        assert re.search(rf"^\| {key} \| .+ \|$", text, re.MULTILINE), key
    assert " ".join(card.command.partition(" (and ")[0].split()) in words
    assert all(f"{value:.1g}" in text for value in card.invariance_meV.values())
    assert card.limits and all(f"- {limit}" in words for limit in card.limits)


def test_the_ratios_of_the_readme_are_those_of_the_cards() -> None:
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for bundle in BUNDLES:
        card = read_card(bundle)
        for errors in card.errors if card else ():
            first, both = errors.hamiltonian
            ratios[errors.trained].append(both / first)
    known, twisted = (sorted(f"{r:.2f}" for r in ratios[kind]) for kind in (True, False))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"has {known[0]} to {known[-1]} of stage 1's error" in text
    assert f"(twisted bilayers: {' and '.join(twisted)})" in text


def test_info_and_reports_show_it(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ROOT / "examples" / "systems" / "models" / "mos2" / "gformer"
    card = read_card(bundle)
    assert card is not None
    assert main(["info", str(bundle), "--json", str(tmp_path / "i.json")]) == 0
    out = capsys.readouterr().out
    assert "functional: PBE" in out and "errors, test structures: H " in out and "limits: " in out
    assert json.loads((tmp_path / "i.json").read_text())["card"] == json.loads(
        (bundle / CARD_FILE).read_text()
    )
    assert describe_model(load_bundle(bundle))["functional"] == "PBE"

    copy = tmp_path / "other"
    shutil.copytree(bundle, copy)
    table = json.loads((copy / CARD_FILE).read_text())
    (copy / CARD_FILE).write_text(json.dumps({**table, "bundle": "0" * 64}))
    assert read_card(copy) is None
    assert main(["info", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "functional" not in out and "card.json is of other weights" in out
    (copy / CARD_FILE).write_text(json.dumps({"system": "x"}))
    with pytest.raises(DataError, match="no model card of this version"):
        read_card(copy)
