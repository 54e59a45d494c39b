"""Mutated inputs: exit 0 or 2, one line, nothing left behind, no number changed without a word, no
hang, no bloat.

``make fuzz BUDGET=20000`` runs many; ``make test`` a fixed few.
"""

from __future__ import annotations

import itertools
import pathlib
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeph_gformer import bands
from deeph_gformer.cli import main
from deeph_gformer.config import TrainConfig, load_yaml
from deeph_gformer.errors import GFormerError
from deeph_gformer.interop.convert import convert
from deeph_gformer.interop.deephe3_ini import read_eval_ini
from deeph_gformer.interop.wannier90 import read_hr, write_wannier90
from deeph_gformer.io import legacy, read_folder
from deeph_gformer.io.formats import formats

from ..conftest import random_structure
from .bounds import RUN, bounded
from .mutations import mutate


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One good input of each kind."""
    root = tmp_path_factory.mktemp("inputs")
    structure, h, s = random_structure(atoms=2, grouped=True)
    legacy.write_structure(root / "legacy", structure)
    legacy.write_blocks(root / "legacy" / "hamiltonians.h5", h)
    legacy.write_blocks(root / "legacy" / "overlaps.h5", s)
    convert(root / "legacy", root / "dock", "dock")
    (root / "npz").mkdir()
    convert(root / "legacy", root / "npz" / "a.npz", "npz")
    (root / "other").mkdir()
    write_wannier90(root / "other", bands.load(root / "legacy"), "2x2x1", "w")
    (root / "other" / "K_PATH").write_text("5 0 0 0 0.5 0 0 Γ M\n5 0.5 0 0 0.3 0.3 0 M K\n")
    (root / "other" / "band.json").write_text('{"k_data": ["5 0 0 0 0.5 0 0 G M"], "num_band": 3}')
    (root / "other" / "a.yaml").write_text(
        "stage1: m\ndata:\n  preprocessed: d\n  cache: auto\nmodel:\n  width: 8\n  heads: 2\n"
        "training:\n  epochs: 3\n  lr: 1.0e-3\n"
    )
    (root / "other" / "eval.ini").write_text(
        "[basic]\ntrained_model_dir = m\noutput_dir = o\ninference = True\n"
        "[data]\nprocessed_data_dir = p\n"
    )
    return root


def _blocks(path: pathlib.Path) -> dict[tuple[int, ...], np.ndarray]:
    """Sorted values of each block by h5py alone, whatever the format."""
    with h5py.File(path) as f:
        if "entries" in f:
            pairs, bounds, values = (
                f[n][()] for n in ("atom_pairs", "chunk_boundaries", "entries")
            )
            parts = (values[a:b] for a, b in itertools.pairwise(bounds))
            return {tuple(map(int, p)): _sorted(v) for p, v in zip(pairs, parts, strict=True)}
        keys = {n: tuple(int(x) for x in n.strip("[] ").split(",")) for n in f}
        return {(*k[:3], k[3] - 1, k[4] - 1): _sorted(f[n][()]) for n, k in keys.items()}


def _sorted(values: np.ndarray) -> np.ndarray:
    return np.sort_complex(np.asarray(values).astype(np.complex128).reshape(-1))


def _same_numbers(source: pathlib.Path, target: pathlib.Path) -> None:
    """Nothing was lost, made up or rounded between two folders."""
    one, two = ({f.name: f for f in formats().values()}[n] for n in _kinds(source, target))
    for kind in ("hamiltonian", "overlap"):
        a, b = source / one.files[kind], target / two.files[kind]  # type: ignore[index]
        assert a.exists() == b.exists()
        if a.exists():
            mine, theirs = _blocks(a), _blocks(b)
            assert mine.keys() == theirs.keys()
            for key, values in mine.items():
                assert np.array_equal(values, theirs[key]), f"{kind} {key}"
    was, now = read_folder(source), read_folder(target)
    order = np.argsort(was.numbers, kind="stable")
    assert sorted(was.numbers.tolist()) == sorted(now.numbers.tolist())
    near = np.abs(was.positions[order] - now.positions[np.argsort(now.numbers, kind="stable")])
    assert near.max() < 1e-9


def _kinds(*folders: pathlib.Path) -> list[str]:
    return [next(n for n, f in formats().items() if f.is_folder(p)) for p in folders]


CASES = [("legacy", "dock"), ("dock", "legacy"), ("npz", "legacy")]


@pytest.mark.parametrize(("kind", "to"), CASES)
def test_convert_refuses_or_keeps_every_number(
    inputs: pathlib.Path, capfd: pytest.CaptureFixture[str], kind: str, to: str
) -> None:
    names = sorted(p.name for p in (inputs / kind).iterdir())
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)

        @RUN
        @given(st.sampled_from(names), st.integers(0, 2**48))
        def run(name: str, seed: int) -> None:
            shutil.rmtree(root / "x", ignore_errors=True)
            folder = root / "x" / "in"
            shutil.copytree(inputs / kind, folder)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done = mutate(folder / name, random.Random(seed))
            source = folder / name if kind == "npz" else folder
            capfd.readouterr()
            with bounded():
                code = main(["convert", str(source), str(root / "x" / "out"), "--to", to])
            said = capfd.readouterr().err.strip().splitlines()
            left = sorted(p.name for p in (root / "x").iterdir())
            assert code in (0, 2), done
            assert left == (["in", "out"] if code == 0 else ["in"]), done
            if code == 2:
                assert len(said) == 1 and "error: " in said[0] and len(said[0]) < 1500, (done, said)
            elif kind != "npz":
                _same_numbers(folder, root / "x" / "out")

        run()


READERS: dict[str, Callable[[pathlib.Path], object]] = {
    "w_hr.dat": read_hr,
    "a.yaml": lambda p: load_yaml(TrainConfig, p),
    "eval.ini": read_eval_ini,
    "K_PATH": lambda p: bands.kpath.read_path_file(p, random_structure(atoms=2)[0]),
    "band.json": lambda p: bands.kpath.read_path_file(p, random_structure(atoms=2)[0]),
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_readers_raise_their_own_errors_only(inputs: pathlib.Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / name

        @RUN
        @given(st.integers(0, 2**48))
        def run(seed: int) -> None:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            shutil.copy(inputs / "other" / name, path)
            done = mutate(path, random.Random(seed))
            with bounded():
                try:
                    READERS[name](path)
                except GFormerError as error:
                    assert str(error), done

        run()
