"""Mutated models: refused with a sentence, or the same numbers; never others in silence."""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deeph_gformer
from deeph_gformer.errors import GFormerError
from deeph_gformer.gformer.bundle import load_bundle, save_bundle
from deeph_gformer.io import legacy
from deeph_gformer.overlap.fit import fit_table
from deeph_gformer.overlap.table import load_table, save_table
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.stage1 import load_stage1

from ..conftest import random_structure, write_tiny_stage1
from ..test_pipeline import make_bundle
from .bounds import RUN, bounded
from .mutations import mutate


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A stage 1, a bundle with a guard, a structure and an overlap table."""
    root = tmp_path_factory.mktemp("models")
    write_tiny_stage1(root / "stage1")
    make_bundle(root / "stage1", root / "bundle", trained=True)
    for n in range(3):
        structure, h, s = random_structure(n, 2, name=f"s{n}")
        legacy.write_structure(root / "data" / f"s{n}", structure)
        legacy.write_blocks(root / "data" / f"s{n}" / "hamiltonians.h5", h)
        legacy.write_blocks(root / "data" / f"s{n}" / "overlaps.h5", s)
    bundle = load_bundle(root / "bundle")
    bundle.training.update(guard={"mean": 1.0}, electrons=[], periodicity=[3], note="free")
    save_table(root / "bundle" / "overlap.npz", fit_table(sorted((root / "data").iterdir())))
    save_bundle(root / "bundle", bundle)
    return root


FILES = {
    "stage1": ("src/build_model.py", "src/dataset_info.json", "src/target_blocks.json")
    + ("src/train.ini", "best_model.pkl", "best_model.pkl"),
    "bundle": ("bundle.json", "bundle.json", "bundle.json", "gformer.safetensors", "overlap.npz"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(FILES))
def test_models_are_refused_or_predict_the_same(models: pathlib.Path, kind: str) -> None:
    structure, good = models / "data" / "s0", load_stage1(models / "stage1")
    both = deeph_gformer.load(models / "bundle", stage1=models / "stage1")
    wanted = both.predict(structure).hamiltonian.values
    trained = json.loads((models / "bundle" / "bundle.json").read_text())["training"]["guard"]
    used: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)

        @RUN
        @given(st.sampled_from(FILES[kind]), st.integers(0, 2**48))
        def run(name: str, seed: int) -> None:
            shutil.rmtree(root / kind, ignore_errors=True)
            shutil.copytree(models / kind, root / kind)
            done = mutate(root / kind / name, random.Random(seed))
            bundle = root / kind if kind == "bundle" else models / "bundle"
            with bounded():
                try:
                    if kind == "bundle":  # stage 1 is read once
                        model = HamiltonianModel(good, load_bundle(bundle))
                    else:
                        model = deeph_gformer.load(bundle, stage1=root / kind)
                    found = model.predict(structure).hamiltonian.values
                except GFormerError as error:
                    assert str(error) and len(str(error)) < 2000, done
                    return
            used.append(done)
            # weights are fingerprinted in single precision
            near = np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()
            assert found.dtype == wanted.dtype and near, done
            table = json.loads((bundle / "bundle.json").read_text())
            assert table["training"].get("guard") == trained, done

        run()
    assert used or RUN.max_examples < 60, "not one mutant was harmless: is everything refused?"


@pytest.mark.filterwarnings("ignore")
def test_overlap_tables(models: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "a.npz"

        @RUN
        @given(st.integers(0, 2**48))
        def run(seed: int) -> None:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            shutil.copy(models / "bundle" / "overlap.npz", path)
            rng = random.Random(seed)
            done = mutate(path, rng)
            with bounded():
                try:
                    load_table(path)
                except GFormerError as error:
                    assert str(error), done

        run()


SETS: tuple[Any, ...] = (
    *("training.epochs", "training", "data", "model.width", "", ".", "..", "training..epochs", "a"),
    *("training.betas", "model.arch", "data.cache", "output", "stage1", "model.attention", "é"),
)


def test_set_options(capsys: pytest.CaptureFixture[str]) -> None:
    """``--set`` of anything: exit code 2 and one line, or the list of settings."""
    from deeph_gformer.cli import main

    from .mutations import VALUES, WORDS

    @RUN
    @given(st.sampled_from(SETS), st.sampled_from((*WORDS, *VALUES)), st.booleans())
    def run(key: str, value: Any, equals: bool) -> None:
        text = f"{key}{'=' if equals else ' '}{value}"
        with bounded():
            code = main(["train", "--preprocessed", "/nowhere", "--set", text])
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 2 and len(said) == 1 and len(said[0]) < 1500, (text[:100], said)

    run()
