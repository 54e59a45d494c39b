"""Mutated run folders: ``info`` and ``report`` refuse with a sentence, or tell."""

from __future__ import annotations

import pathlib
import random
import shutil
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeph_gformer.cli import main

from .bounds import RUN, bounded
from .cases import CASES
from .mutations import mutate

#: Files of a run that a command reads.
READ = ("bundle/bundle.json", "bundle/bundle.json", "config.json", "splits.json", "record.json")
READ += ("logs/csv/metrics.csv", "logs/csv/metrics.csv", "checkpoints/last.ckpt")
READ += ("bundle/overlap.npz", "bundle/gformer.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of three epochs in ``run``."""
    root = tmp_path_factory.mktemp("trained")
    CASES["info"].prepare(root)
    return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("verb", ["info", "report"])
def test_run_folders(trained: pathlib.Path, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    names = [name for name in READ if (trained / "run" / name).is_file()]
    assert len(set(names)) >= 7
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        words = {
            "info": ["info", str(root / "run"), "--json", str(root / "out.json")],
            "report": ["report", str(root / "run"), "-o", str(root / "out.html")],
        }[verb]

        @RUN
        @given(st.sampled_from(names), st.integers(0, 2**48))
        def run(name: str, seed: int) -> None:
            for path in root.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(trained / "run", root / "run")
            done = mutate(root / "run" / name, random.Random(seed))
            capfd.readouterr()
            with bounded():
                code = main(words)
            said = capfd.readouterr().err.strip().splitlines()
            told = [x for x in said if not x.startswith(("note:", "warning:"))]
            assert code in (0, 2), (done, said)
            left = sorted(p.name for p in root.rglob(".*") if p.name.endswith(".tmp"))
            assert not left, (done, left)
            if code == 2:
                assert len(told) == 1 and "error: " in told[0] and len(told[0]) < 1500, (done, said)

        run()
