"""Mutated output of DFT codes and basis files: exit code 0 or 2, one line, nothing left behind."""

from __future__ import annotations

import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeph_gformer.cli import main
from deeph_gformer.errors import GFormerError
from deeph_gformer.overlap import load

from ..conftest import random_structure
from ..interop.dft import abacus_files, test_aims
from ..overlap.test_basis import HEAVY, gaussian_basis, orb_text
from ..overlap.test_basis_files import ion_text, pao_text
from .bounds import RUN, bounded
from .mutations import mutate

RUNS = pathlib.Path(__file__).parents[1] / "interop" / "dft"


def _openmx(folder: pathlib.Path) -> None:
    folder.mkdir()
    for name in ("h2o_cluster.out", "h2o_cluster.scfout"):
        shutil.copy(RUNS / name, folder / name)
        (folder / name).chmod(0o644)


def _abacus(folder: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 2, grouped=True)
    abacus_files.write_run(folder, structure, h, s)


def _abacus_soc(folder: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 2, True, grouped=True)
    abacus_files.write_run(folder, structure, h, s, nspin=4, layout="new", log="new")


def _aims(folder: pathlib.Path) -> None:
    test_aims.write_run(folder)


CODES: dict[str, tuple[str, Callable[[pathlib.Path], None]]] = {
    "openmx": ("openmx", _openmx),
    "abacus": ("abacus", _abacus),
    "abacus spin-orbit": ("abacus", _abacus_soc),
    "aims": ("aims", _aims),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(CODES))
def test_dft_runs(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    code, write = CODES[name]
    write(tmp_path / "good")
    files = sorted(
        str(p.relative_to(tmp_path / "good")) for p in (tmp_path / "good").rglob("*") if p.is_file()
    )
    words = ["--from", code, "--processes", "1"]
    assert main(["convert", str(tmp_path / "good"), str(tmp_path / "out"), *words]) == 0
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)

        @RUN
        @given(st.sampled_from(files), st.integers(0, 2**48))
        def run(file: str, seed: int) -> None:
            shutil.rmtree(root / "x", ignore_errors=True)
            shutil.copytree(tmp_path / "good", root / "x" / "in")
            done = mutate(root / "x" / "in" / file, random.Random(seed))
            capfd.readouterr()
            with bounded():
                ended = main(["convert", str(root / "x/in"), str(root / "x/out"), *words])
            said = [x for x in capfd.readouterr().err.strip().splitlines() if "note:" not in x]
            left = sorted(p.name for p in (root / "x").iterdir())
            assert ended in (0, 2), (done, said)
            assert left == (["in", "out"] if ended == 0 else ["in"]), (done, left)
            if ended == 2:
                errors = [x for x in said if "error: " in x]
                assert len(errors) == 1 and len(errors[0]) < 1500, (done, said)

        run()


BASES: dict[str, Callable[[], str]] = {
    "Mo.orb": lambda: orb_text(gaussian_basis(42, HEAVY), "Mo"),
    "C6.5.pao": lambda: pao_text(6, rows=120),
    "C.ion": lambda: ion_text(6, ((0, 0.9), (1, 0.8))),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(BASES))
def test_basis_files(name: str) -> None:
    text = BASES[name]()
    shells = {6: (0, 0, 1)} if name.endswith(".pao") else None
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / name

        @RUN
        @given(st.integers(0, 2**48))
        def run(seed: int) -> None:
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_text(text)
            done = mutate(path, random.Random(seed))
            with bounded():
                try:
                    found = load(path, orbital_types=shells)
                    found.cutoffs.items()
                except GFormerError as error:
                    assert str(error), done
                    return
            assert all(np.isfinite(c) and c > 0 for c in found.cutoffs.values()), done

        run()
