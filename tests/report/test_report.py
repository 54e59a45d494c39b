"""The HTML report: what it says, that it needs nothing from elsewhere, and that a browser shows
it."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys

import e3nn
import pytest
import torch

from deeph_gformer.cli import main
from deeph_gformer.report.collect import block_tables, read_run
from deeph_gformer.report.page import render
from deeph_gformer.stage1 import load_stage1

from ..test_pipeline import make_bundle

pytest.importorskip("plotly")

NASTY = "<img src=x onerror=alert(1)>&'\""


def evaluation(name: str = "0001") -> dict:
    """A result of evaluate for Mo (s) and S (s, p), with numbers that are easy to find again."""
    shells = {42: [0], 16: [0, 1]}
    blocks = []
    for zi, a_count in ((42, 1), (16, 2)):
        for zj, b_count in ((42, 1), (16, 2)):
            for a in range(a_count):
                for b in range(b_count):
                    value = 100.0 * (zi == 16) + 10 * (zj == 16) + 2 * a + b
                    blocks.append(
                        {
                            "target": {f"{zi} {zj}": [a, b]},
                            "stage1_mae_meV": value,
                            "refined_mae_meV": value / 2,
                            "pairs": {
                                f"{zi} {zj}": {
                                    "stage1_mae_meV": value,
                                    "refined_mae_meV": value / 2,
                                }
                            },
                        }
                    )
    record = {"name": name, "atoms": 3, "stage1_mae_meV": 4.0, "refined_mae_meV": 5.0}
    guard = {"correction_z": 7.25, "features_z": None, "guard_warning": f"odd: {name}"}
    states = {"states_error_meV": 31.5, "stage1_states_error_meV": 62.5}
    return {
        "structures": [record | {"ratio": 1.25} | states | guard],
        "total": {
            **states,
            "stage1": {"mae_all_meV": 4.0},
            "refined": {"mae_all_meV": 5.0},
            "gauge_free_stage1_mae_meV": 4.0,
            "gauge_free_refined_mae_meV": 5.0,
            "better_structures": 0,
            "structures": 1,
            "challenging_structure": name,
        },
        "errors": "without μS",
        "places": [{"place": "on-site", "stage1_mae_meV": 7.0, "refined_mae_meV": 3.5}],
        "blocks": blocks,
        "basis": {"elements": list(shells), "orbital_types": list(shells.values())},
        "distance": {
            "distance_angstrom": [0.0, 2.0],
            "stage1_mae_meV": [7.0, 3.0],
            "refined_mae_meV": [3.0, 1.0],
            "mean_abs_hamiltonian_meV": [900.0, 90.0],
        },
    }


def worst(name: str = "0001") -> dict:
    return {
        "name": name,
        "geometry": {
            "symbols": ["Mo", "S", "S"],
            "positions": [[0, 0, 0], [0, 1.8, 1.5], [0, 1.8, -1.5]],
            "lattice": [[3.2, 0, 0], [-1.6, 2.77, 0], [0, 0, 20]],
        },
        "bands": {
            "distance": [0.0, 0.5, 1.0],
            "ticks": [[0.0, "Γ"], [1.0, "M"]],
            "window": [-3, 3],
            "energies": {
                "DFT": [[-1.0, 1.0]] * 3,
                "stage 1": [[-1.1, 1.1]] * 3,
                "refined": [[-1.01, 1.0]] * 3,
            },
        },
    }


def test_block_tables_put_each_number_at_its_shells():
    tables = block_tables(evaluation())
    assert set(tables) == {"Mo-Mo", "Mo-S", "S-Mo", "S-S"}
    assert tables["S-S"]["rows"] == ["1s", "1p"]
    assert tables["S-S"]["stage 1"] == [[110.0, 111.0], [112.0, 113.0]]
    assert tables["Mo-S"]["stage 1"] == [[10.0, 11.0]]
    assert tables["S-Mo"]["refined"] == [[50.0], [51.0]]


def test_names_are_escaped_and_nothing_is_loaded():
    text = render(
        NASTY,
        result=evaluation(NASTY),
        worst=worst(NASTY),
        card={NASTY: NASTY},
        provenance={"command": NASTY},
    )
    assert "<img src=x" not in text
    page = re.sub(r"<script\b[^>]*>.*?</script>", "", text, flags=re.S)
    assert not re.search(r"<(link|iframe|object|img)\b|@import|url\(", page)
    assert not re.search(r"<script\b[^>]*\bsrc=", text)


def test_a_ratio_above_one_stands_out():
    page = render("x", result=evaluation())
    assert page.count('<p class="warning">Warning: the refined H is WORSE than stage 1 alone') == 1
    assert "<td class=bad>1.250</td>" in page
    assert "62.5 → 31.5 meV" in page and "<td>62.50</td><td>31.50</td>" in page


def test_the_guard_is_shown_where_it_judged():
    result = evaluation()
    page = render("x", result=result)
    assert "Like the training set?" in page
    assert "<td>0001</td><td>7.250</td><td>-</td><td>odd: 0001</td>" in page
    assert "On-site levels" not in page
    result["structures"][0]["levels_distance"] = 2.5
    levels = render("x", result=result)
    assert "<td>7.250</td><td>-</td><td>2.500</td><td>odd: 0001</td>" in levels
    assert "<th>levels</th>" in levels and "On-site levels: how far" in levels
    for key in ("correction_z", "features_z", "guard_warning"):
        del result["structures"][0][key]
    assert "Like the training set?" not in render("x", result=result)


def test_history_joins_the_rows_of_an_epoch(tmp_path):
    folder = tmp_path / "logs" / "csv"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "epoch,step,train_mae_meV,val_mae_meV\n0,6,,4.5\n0,6,5.5,\n1,13,,3.5\n1,13,4.25,\n"
    )
    assert read_run(tmp_path) == {
        "epoch": [0.0, 1.0],
        "train_mae_meV": [5.5, 4.25],
        "val_mae_meV": [4.5, 3.5],
    }


@pytest.mark.parametrize("text", ["", "[1]", '{"structures": []}', "no json"])
def test_other_files_are_refused_in_one_line(tmp_path, capsys, text):
    source = tmp_path / "x.json"
    source.write_text(text)
    assert main(["report", str(source), "-o", str(tmp_path / "out.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.html").exists()


def test_a_folder_without_history_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "out.html")]) == 2
    assert "no training run" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_a_browser_draws_every_figure_without_an_error(tmp_path):
    source = tmp_path / "evaluation.json"
    source.write_text(json.dumps(evaluation() | {"worst": worst()}))
    page = tmp_path / "report.html"
    assert main(["report", str(source), "-o", str(page)]) == 0
    made = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=8000",
            "--dump-dom",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    dom = made.stdout
    complaints = re.findall(r"CONSOLE.*(?:Uncaught|Error|error).*", made.stderr)
    assert not complaints, complaints
    assert dom.count("plotly-graph-div") >= 6 and dom.count("main-svg") >= 6
    shown = re.findall(r'<div class="maps" id="(map-\d)" style="display: (\w+)', dom)
    assert [s for _, s in shown].count("block") == 1 and len(shown) == 4


def test_read_run_names_a_damaged_history(tmp_path):
    folder = tmp_path / "logs" / "csv"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,val_mae_meV\nx,y\n")
    with pytest.raises(Exception, match="damaged"):
        read_run(pathlib.Path(tmp_path))


def test_a_missing_plotly_is_said_before_the_evaluation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    words = ["--preprocessed", str(tmp_path / "none"), "--stage1", str(tmp_path / "none")]
    assert main(["evaluate", *words, "--report", str(tmp_path / "report.html")]) == 2
    assert "a report needs the library 'plotly'" in capsys.readouterr().err


def test_provenance_travels_with_the_evaluation(tmp_path, make_folder, tiny_stage1):
    """Command, fingerprints and versions, on the page and on one made of the JSON file."""
    bundle = make_bundle(tiny_stage1, tmp_path / "b", trained=True)
    words = ["--preprocessed", str(make_folder().parent), "--stage1", str(tiny_stage1)]
    words += ["--model", str(bundle), "--no-invariance", "--rotations", "0"]
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    table = tmp_path / "e.json"
    assert main(["evaluate", *words, "--json", str(table), "--report", str(pages[0])]) == 0
    assert main(["report", str(table), "-o", str(pages[1])]) == 0
    weights = json.loads((bundle / "bundle.json").read_text())["weights"]
    stage1 = load_stage1(tiny_stage1).fingerprint()
    for page in pages:
        text = page.read_text()
        assert text.count(f"{bundle}, fingerprint {weights}") == 1
        assert f"{tiny_stage1}, fingerprint {stage1}" in text
        assert f"torch {torch.__version__}, e3nn {e3nn.__version__}" in text
