"""The modules of ``docs/extending.md``, taken from the page and installed as one package."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer.config import GFormerConfig
from deeph_gformer.errors import ConfigError, GFormerError
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.io import find_structures, read_folder, read_matrix
from deeph_gformer.plugins import installed

from .conftest import ROOT

Folder = Callable[..., pathlib.Path]
Run = Callable[..., str]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", PAGE, re.DOTALL)


def write_package(site: pathlib.Path) -> None:
    """The page's modules and entry points, as pip would lay them out."""
    (site / "my_extensions-1.0.dist-info").mkdir(parents=True)
    for kind, text in BLOCKS:
        named = re.match(r"# (\w+\.py)\n", text)
        if kind == "python" and named:
            (site / named[1]).write_text(text, encoding="utf-8")
    toml = next(text for kind, text in BLOCKS if kind == "toml")
    groups = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", toml.split('"1.0"')[1])
    info = site / "my_extensions-1.0.dist-info"
    (info / "entry_points.txt").write_text(groups.replace('"', ""))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-extensions\nVersion: 1.0\n")


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Run a command, or with ``-c`` some lines, where the package is installed; what it prints."""
    site = tmp_path / "site"
    write_package(site)
    env = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{site}", OMP_NUM_THREADS="1")

    def call(*words: str | pathlib.Path) -> str:
        start = [sys.executable] + ([] if words[0] == "-c" else ["-m", "deeph_gformer"])
        done = subprocess.run([*start, *map(str, words)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_every_extension_point_is_on_the_page() -> None:
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "deeph_gformer").rglob("*.py")]
    groups = {m for s in sources for m in re.findall(r'^ENTRY_POINTS = "(.*)"', s, re.MULTILINE)}
    assert groups == set(re.findall(r'entry-points\."(.*?)"', PAGE)) and len(groups) == 6


def test_a_stage_1(run: Run) -> None:
    check = next(text for _, text in BLOCKS if "check_provider" in text)
    assert len(run("-c", check).splitlines()) >= 6


def test_a_format_and_a_reader(run: Run, make_folder: Folder, tmp_path: pathlib.Path) -> None:
    source = make_folder("x")
    run("convert", source, tmp_path / "plain", "--to", "plain")
    run("convert", tmp_path / "plain", tmp_path / "back", "--to", "legacy")
    for kind in ("hamiltonian", "overlap"):
        one, two = read_matrix(source, kind), read_matrix(tmp_path / "back", kind)
        assert np.array_equal(one.keys, two.keys) and np.array_equal(one.values, two.values)
    assert read_folder(tmp_path / "back").info["fermi_level"] == 0.5
    told = run("convert", source, tmp_path / "h.txt", "--to", "table")
    h = read_matrix(source, "hamiltonian")
    table = np.loadtxt(tmp_path / "h.txt")
    assert f"{len(h.values)} elements" in told and np.array_equal(table[:, -2], h.values)
    assert np.array_equal(np.unique(table[:, :5], axis=0), np.unique(h.keys, axis=0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "chain.toy").write_text("-13.6 -1.5 -7.0\n")
    run("convert", tmp_path / "run", tmp_path / "h")
    (folder,) = find_structures(tmp_path / "h")
    assert read_matrix(folder, "hamiltonian").values.tolist() == [-1.5, -13.6, -1.5]


ATTENTION = """
import sys, torch
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.gformer.spans import Span

layer = load_bundle(sys.argv[1]).model.groups[0].attention.double()
torch.manual_seed(0)
node, edge = torch.randn(3, 8).double(), torch.randn(4, 8).double()
index, f = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 2]]), torch.tensor([1.0, 0.5, 1.0, 1.0]).double()
made = layer.mix(edge, layer.atoms(node), f, index, Span(0, 4, 0, 3))
wanted = torch.zeros(3, 8).double()
for i in range(3):
    e = [n for n in range(4) if index[0, n] == i]
    for h in (0, 1):
        head, terms, values = slice(4 * h, 4 * h + 4), [], []
        for n in e:
            j = index[1, n]
            q = layer.query.node(node[i]) + layer.query.edge(edge[n])
            k = layer.key.node(node[j]) + layer.key.edge(edge[n])
            v = layer.value.node(node[j]) + layer.value.edge(edge[n])
            s = (q + k)[head]
            terms.append(f[n] * torch.exp((layer.a[h] * torch.where(s > 0, s, 0.2 * s)).sum()))
            values.append(v[head])
        wanted[i, head] = sum(t * v for t, v in zip(terms, values)) / sum(terms)
print(float((made - wanted).abs().max()))
"""


def test_a_metric_and_an_attention(
    run: Run, make_folder: Folder, tmp_path: pathlib.Path, tiny_stage1: pathlib.Path
) -> None:
    """Trained with the attention by the command, judged with the metric by all three commands."""
    folders = [make_folder(f"s{n}", seed=n) for n in range(3)]
    splits = {"train": ["s0"], "val": ["s1"], "test": ["s2"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    settings = {
        "model.attention": "gatv2",
        "model.width": 8,
        "model.heads": 2,
        "training.epochs": 1,
        "data.splits": tmp_path / "splits.json",
    }
    words = [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]
    data = ["--preprocessed", tmp_path / "data", "--stage1", tiny_stage1]
    run("train", *data, "--output", tmp_path / "run", *words)
    bundle = tmp_path / "run" / "bundle"
    assert float(run("-c", ATTENTION, bundle)) < 1e-12
    with pytest.raises(GFormerError, match="attention 'gatv2': there are softmax, mean"):
        load_bundle(bundle)  # here the package is not installed

    told = run(
        *("evaluate", *data, "--model", bundle, "--rotations", "0", "--no-invariance"),
        *("--json", tmp_path / "e.json"),
    )
    assert "MAE of orbital energies" in told
    result = json.loads((tmp_path / "e.json").read_text())
    model = deeph_gformer.load(stage1=tiny_stage1)
    values = []
    for folder in folders:  # independently: in atoms' own blocks, without μ
        prediction = model.predict(folder)
        h, s = read_matrix(folder, "hamiltonian"), read_matrix(folder, "overlap")
        change = prediction.stage1.values - h.values
        mu = np.vdot(s.values, change) / np.vdot(s.values, s.values)
        own = [
            np.abs(np.diag(a - b - mu * c))
            for (key, a), (_, b), (_, c) in zip(prediction.stage1, h, s, strict=True)
            if not any(key[:3]) and key[3] == key[4]
        ]
        values.append(np.concatenate(own).mean() * 1e3)
    found = [r["stage1_levels_mae_meV"] for r in result["structures"]]
    assert found == pytest.approx(values, rel=1e-5)
    assert result["total"]["stage1_levels_mae_meV"] == pytest.approx(np.mean(values), rel=1e-5)
    assert result["total"]["levels_mae_meV"] != result["total"]["stage1_levels_mae_meV"]

    run("refine", *data, "--stage1-only")
    told = run("compare", folders[0], "--json", tmp_path / "c.json")
    assert f"MAE of orbital energies: {values[0]:.3f} meV" in told
    columns = run(
        "-c",
        "from deeph_gformer.ablation.tables import columns; print([c[:2] for c in columns('raw')])",
    )
    assert "('levels_mae_meV', 'levels')" in columns


def test_no_such_attention() -> None:
    from deeph_gformer.gformer.model import GFormer

    with pytest.raises(ConfigError, match="attention 'flat': there are softmax, mean"):
        GFormer(GFormerConfig(arch="paper", attention="flat"), 2, "1x0e")


def test_packages_that_do_not_fit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names them, whatever they do."""
    info = tmp_path / "bad-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[g.gone]\na = no_such_module:x\n[g.other]\na = json:x\n"
        "[g.taken]\nold = json:dumps\n[g.wrong]\na = json:dumps\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for group in ("g.gone", "g.other"):
        with pytest.raises(GFormerError, match=rf"entry point {group}: .* cannot be loaded"):
            installed(group, {}, lambda x: x, "Thing")
    with pytest.raises(GFormerError, match="json:dumps' is no Thing with a name of its own"):
        installed("g.taken", {"old": 1}, lambda x: x, "Thing")
    with pytest.raises(GFormerError, match="is no Thing"):
        installed("g.wrong", {}, lambda x: None, "Thing")
    assert installed("g.none", {"a": 1}, lambda x: x, "Thing") == {"a": 1}
