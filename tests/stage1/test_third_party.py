"""A stage 1 of a package of its own, installed here, goes through every command."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from deeph_gformer.cli import main
from deeph_gformer.errors import ModelError
from deeph_gformer.gformer.bundle import load_bundle
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.conformance import check_provider
from deeph_gformer.stage1.provider import Stage1Provider

Folder = Callable[..., pathlib.Path]
PACKAGE = pathlib.Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The package, installed by pip into a folder of its own."""
    root = tmp_path_factory.mktemp("site")
    source = root / "source"
    source.mkdir()
    for file in PACKAGE.iterdir():
        if file.is_file():
            (source / file.name).write_text(file.read_text())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(root / "lib"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "No module named pip" in done.stderr:
        pytest.skip("pip is not installed here")
    assert done.returncode == 0, done.stderr
    return root / "lib"


@pytest.fixture
def model(
    site: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, list[float]], pathlib.Path]:
    """Write a model file; the package is importable."""
    monkeypatch.syspath_prepend(str(site))

    def write(name: str, strengths: list[float]) -> pathlib.Path:
        path = tmp_path / name
        path.write_text(
            json.dumps(
                {
                    "elements": [16, 42],
                    "orbital_types": [[0, 1], [0, 1, 2]],
                    "strengths": strengths,
                }
            )
        )
        return path

    return write


Model = Callable[[str, list[float]], pathlib.Path]


def test_it_keeps_the_promises_of_the_interface(model: Model) -> None:
    provider = load_stage1(model("a.json", [0.5, 1.0]), backend="toy")
    findings = {f.name: f for f in check_provider(provider)}
    assert findings["fingerprint"].passed and provider.equivariant
    single = load_stage1(model("b.json", [0.5, 1.0]), backend="toy", dtype=torch.float32)
    other = load_stage1(model("c.json", [0.5, 1.1]), backend="toy")
    assert single.fingerprint() == provider.fingerprint() != other.fingerprint()


def test_it_goes_through_every_command(
    model: Model, make_folder: Folder, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        make_folder(f"s{n}", seed=n, atoms=2)
    mine, other = model("mine.json", [0.5, 1.0]), model("other.json", [0.6, 1.0])
    data = ["--preprocessed", str(tmp_path / "data"), "--backend", "toy"]
    small = [
        f"--set=model.{k}={v}"
        for k, v in {
            "width": 16, "heads": 4, "embed": 4, "gaussians": 8, "gated_channels": 4
        }.items()
    ]  # fmt: skip
    run = tmp_path / "run"
    command = ["train", *data, "--stage1", str(mine), "--epochs", "1", "--output", str(run)]
    assert main([*command, "--set=data.train_ratio=0.4", "--set=data.val_ratio=0.3", *small]) == 0
    bundle = load_bundle(run / "bundle")
    assert bundle.stage1 is not None and bundle.stage1.name == "mine.json"
    both = [*data, "--stage1", str(mine), "--model", str(run / "bundle")]
    assert main(["refine", *both, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "s0" / "hamiltonians_pred.h5").is_file()
    assert main(["evaluate", *both, "--json", str(tmp_path / "e.json")]) == 0
    total = json.loads((tmp_path / "e.json").read_text())["total"]
    assert max(total["stage1_invariance_blocks_meV"].values()) < 1e-6
    capsys.readouterr()
    wrong = [*data, "--stage1", str(other), "--model", str(run / "bundle")]
    assert main(["evaluate", *wrong]) == 2
    assert "is not the stage 1 that" in capsys.readouterr().err


def test_broken_promises_are_named(model: Model) -> None:
    provider = load_stage1(model("a.json", [0.5, 1.0]), backend="toy")

    class Nameless(type(provider)):  # type: ignore[misc]
        def fingerprint(self) -> str:
            return ""

    class Fickle(type(provider)):  # type: ignore[misc]
        count = 0

        def fingerprint(self) -> str:
            self.count += 1
            return str(self.count)

    for kind in (Nameless, Fickle):
        broken = object.__new__(kind)
        broken.__dict__.update(provider.__dict__)
        with pytest.raises(ModelError, match="fingerprint"):
            check_provider(broken)

    class Turned(type(provider)):  # type: ignore[misc]
        def forward(self, graph, features=True):  # type: ignore[no-untyped-def]
            out = super().forward(graph, features)
            return out._replace(direct_sum=out.direct_sum + graph.edge_vector[:, :1].detach())

    tilted = object.__new__(Turned)
    tilted.__dict__.update(provider.__dict__)
    with pytest.raises(ModelError, match="direct sum under rotation 1"):
        check_provider(tilted)
    tilted.equivariant = False  # it says so
    assert not [f for f in check_provider(tilted) if "rotation" in f.name]


def test_a_stage_1_without_fingerprint_cannot_be_made() -> None:
    class Old(Stage1Provider):
        def forward(self, graph, features=True):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    with pytest.raises(TypeError, match="fingerprint"):
        Old()  # type: ignore[abstract]
