"""The commands that the campaign ends at their file operations."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from deeph_gformer.cli import main
from deeph_gformer.io import legacy

from ..conftest import random_structure, write_tiny_stage1
from ..interop.dft import abacus_files, test_aims
from ..overlap.test_basis import gaussian_basis, orb_text
from ..test_pipeline import make_bundle
from .killing import run_until

__all__ = ["CASES", "Case"]

SMALL = ("width=16", "heads=4", "embed=4", "gaussians=8", "gated_channels=4", "density_channels=4")


@dataclasses.dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        prepare: makes the inputs in a folder.
        words: the command, from the folder of its inputs; its outputs are in ``out``.
        again: what is given after a death instead, from the same folder.
        old: makes what is there before, in ``out``; None: nothing.
        rounding: matrices are equal to rounding after a death, not bit by bit: what is left is
            computed together with others than in one go.
    """

    prepare: Callable[[pathlib.Path], None]
    words: Callable[[pathlib.Path], Sequence[str]]
    again: Callable[[pathlib.Path], Sequence[str]] | None = None
    old: Callable[[pathlib.Path], None] | None = None
    rounding: bool = False


def _data(root: pathlib.Path, count: int = 4, grouped: bool = False) -> None:
    for n in range(count):
        structure, h, s = random_structure(4 + n, 2, False, f"s{n}", grouped)
        legacy.write_structure(root / "data" / f"s{n}", structure)
        legacy.write_blocks(root / "data" / f"s{n}" / "hamiltonians.h5", h)
        legacy.write_blocks(root / "data" / f"s{n}" / "overlaps.h5", s)
    (root / "splits.json").write_text('{"train": ["s0", "s1"], "val": ["s2"], "test": ["s3"]}')


def _models(root: pathlib.Path, grouped: bool = False, count: int = 4) -> None:
    _data(root, count, grouped)
    write_tiny_stage1(root / "stage1")
    make_bundle(root / "stage1", root / "bundle", trained=True)


def _few(root: pathlib.Path) -> None:
    _models(root, count=2)


def _few_grouped(root: pathlib.Path) -> None:
    _models(root, True, 2)


def _refine(form: str, *more: str) -> Callable[[pathlib.Path], Sequence[str]]:
    def words(root: pathlib.Path) -> Sequence[str]:
        model = ["--stage1", str(root / "stage1"), "--model", str(root / "bundle")]
        out = ["--output", str(root / "out"), "--format", form]
        if "--overwrite" in more:  # what is skipped is not told
            out += ["--json", str(root / "out" / "r.json")]
        return ["refine", "--preprocessed", str(root / "data"), *model, *out, *more]

    return words


def _old_predictions(form: str) -> Callable[[pathlib.Path], None]:
    def make(root: pathlib.Path) -> None:
        words = ["refine", "--preprocessed", str(root / "data"), "--stage1", str(root / "stage1")]
        code = main([*words, "--stage1-only", "--output", str(root / "out"), "--format", form])
        assert code == 0

    return make


def _old_structures(root: pathlib.Path) -> None:
    for n in range(2):
        structure, h, _ = random_structure(40 + n, 2, False, f"s{n}", True)
        legacy.write_structure(root / "out" / f"s{n}", structure)
        legacy.write_blocks(root / "out" / f"s{n}" / "hamiltonians.h5", h)


def _convert(to: str, *more: str, source: str = "data") -> Callable[[pathlib.Path], Sequence[str]]:
    def words(root: pathlib.Path) -> Sequence[str]:
        return ["convert", str(root / source), str(root / "out"), "--to", to, *more]

    return words


def _train(
    verb: str, *more: str, stage1: str = "stage1"
) -> Callable[[pathlib.Path], Sequence[str]]:
    section = {"train": "training", "train-stage1": "training", "ablate": "training"}[verb]
    common = ("epochs=3", "warmup_steps=2", "threads=1", "device=cpu", "learning_rate=0.005")
    sets = [f"{section}.{value}" for value in common]
    if verb == "train-stage1":
        sets += ["model.irreps_embed=4x0e", "model.irreps_mid=4x0e+3x1o+2x2e+1x3o"]
        sets += ["model.num_blocks=2", "model.cutoff_radius=5.0"]
    else:
        sets += [f"model.{value}" for value in SMALL]

    def words(root: pathlib.Path) -> Sequence[str]:
        first = [] if verb == "train-stage1" else ["--stage1", str(root / stage1)]
        data = ["--preprocessed", str(root / "data"), "--splits", str(root / "splits.json")]
        every = ["--set"] * len(sets)
        options = [word for pair in zip(every, sets, strict=True) for word in pair]
        return [verb, *data, *first, "--output", str(root / "out"), *options, *more]

    return words


def _resumed(words: Callable[[pathlib.Path], Sequence[str]]) -> Any:
    def again(root: pathlib.Path) -> Sequence[str]:
        there = any((root / "out").rglob("last.ckpt"))
        return [*words(root), *(["--resume"] if there else [])]

    return again


def _table(root: pathlib.Path) -> None:
    _data(root)
    words = ["overlap", "fit", "--preprocessed", str(root / "data")]
    assert main([*words, "--output", str(root / "table.npz")]) == 0


def _cell(root: pathlib.Path) -> None:
    text = "x\n1.0\n3 0 0\n0 3 0\n0 0 9\nC\n2\nDirect\n0 0 0\n0.3 0.3 0\n"
    (root / "cell.vasp").write_text(text)


def _run(root: pathlib.Path, name: str, words: Sequence[str]) -> None:
    """A finished training in a folder of its own."""
    words = list(words)
    words[words.index("--output") + 1] = str(root / name)
    ended = run_until(-1, lambda: main(words))  # gradients are for children only
    assert ended.code == 0, ended.said


def _run_folder(root: pathlib.Path) -> None:
    _models(root)
    _run(root, "run", _train("train")(root))


def _fold_run(root: pathlib.Path) -> None:
    _data(root)
    _run(root, "folds", _train("train-stage1", "--folds", "2", *_epochs(1))(root))


def _epochs(number: int) -> tuple[str, str]:
    return "--set", f"training.epochs={number}"


def _begun(verb: str) -> Callable[[pathlib.Path], None]:
    """A run of one epoch."""
    return lambda root: _run(root, "out", _train(verb, *_epochs(1))(root))


def _one(words: str) -> Callable[[pathlib.Path], Sequence[str]]:
    """A command in one line, with ROOT for its folder."""
    return lambda root: [word.replace("ROOT", str(root)) for word in words.split()]


def _physics(words: str, prepare: Callable[[pathlib.Path], None] | None = None) -> Case:
    """A verb on one structure."""
    more = "-o ROOT/out/a.png --json ROOT/out/a.json --electrons 4 --mesh 2x2x2"
    return Case(prepare or _single, _one(f"{words} {more}"))


def _single(root: pathlib.Path) -> None:
    _data(root, 1)


def _slab(root: pathlib.Path, spinful: bool = False) -> None:
    structure, h, s = random_structure(1, 2, spinful, "s0")
    legacy.write_structure(root / "data" / "s0", structure)
    legacy.write_blocks(root / "data" / "s0" / "hamiltonians.h5", h)
    legacy.write_blocks(root / "data" / "s0" / "overlaps.h5", s)


def _unfolded(root: pathlib.Path) -> None:
    """A structure, whose primitive cell is itself."""
    from ase.io import write

    from deeph_gformer.interop.ase_io import to_atoms

    _single(root)
    write(root / "POSCAR", to_atoms(random_structure(4, 2, False, "s0", False)[0]), format="vasp")


def _predicted(root: pathlib.Path) -> None:
    _few(root)
    words = ["refine", "--preprocessed", str(root / "data"), "--stage1", str(root / "stage1")]
    assert main([*words, "--stage1-only"]) == 0


def _ini(root: pathlib.Path) -> None:
    _few(root)
    (root / "eval.ini").write_text(
        f"[basic]\ntrained_model_dir = {root}/stage1\noutput_dir = {root}/out\n"
        "device = cpu\ndtype = double\ninference = True\n"
        f"[data]\nprocessed_data_dir = {root}/data\n"
    )


def _fitted(root: pathlib.Path) -> None:
    _models(root, count=4)
    words = ["overlap", "fit", "--preprocessed", str(root / "data")]
    assert main([*words, "--output", str(root / "table.npz")]) == 0
    words = ["overlap", "predict", "--overlap", str(root / "table.npz"), "--extrapolate"]
    assert main([*words, "--input", str(root / "data" / "s0"), "--overwrite"]) == 0


def _orbitals(root: pathlib.Path) -> None:
    _single(root)
    for number, name, shells in (
        (42, "Mo", ((0, 0.8), (1, 0.9), (2, 0.7))),
        (16, "S", ((0, 0.8), (1, 0.9))),
    ):
        basis = gaussian_basis(number, shells, 5.0)
        (root / f"{name}.orb").write_text(orb_text(basis, name))
    words = ["overlap", "predict", "--basis", str(root / "Mo.orb"), str(root / "S.orb")]
    assert main([*words, "--input", str(root / "data" / "s0"), "--overwrite"]) == 0


def _aims(root: pathlib.Path) -> None:
    test_aims.write_run(root / "run")


def _abacus(root: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 2, grouped=True)
    for name in ("a", "b"):
        abacus_files.write_run(root / "runs" / name, structure, h, s)


def _hexagonal(root: pathlib.Path) -> None:
    (root / "cell.vasp").write_text(
        "x\n1.0\n2.46 0 0\n-1.23 2.1304225 0\n0 0 16\nC\n2\nDirect\n"
        "0.333333333333 0.666666666667 0.5\n0.666666666667 0.333333333333 0.5\n"
    )


def _evaluated(root: pathlib.Path) -> None:
    _few(root)
    words = ["evaluate", "--preprocessed", str(root / "data"), "--stage1", str(root / "stage1")]
    words += ["--model", str(root / "bundle"), "--no-invariance"]
    assert main([*words, "--json", str(root / "e.json")]) == 0


TRAIN, TRAIN1 = _train("train"), _train("train-stage1")
ABLATE = _train("ablate", "--settings", "e3,e3+gformer")
CROSS = _train("train", "--cross-fit", *_epochs(2), stage1="folds/model")
DISK = _train("train", "--set", "data.cache=disk")
FOLDS = _train("train-stage1", "--folds", "2", *_epochs(2))
VARIANTS = _train("train", "--set", "data.edge_variants=2", *_epochs(2))
ABLATE_VARIANTS = _train(
    "ablate",
    "--settings",
    "e3+gformer,e3+gformer-cas",
    "--set",
    "data.edge_variants=1",
    *_epochs(2),
)
MODEL = "--stage1 ROOT/stage1 --model ROOT/bundle"
EVALUATE = f"evaluate --preprocessed ROOT/data {MODEL} --no-invariance"
TWIST = "build twist --cell ROOT/cell.vasp --distance 3.35 --mn"
REPEAT = "build supercell --cell ROOT/cell.vasp --size 2,1,1"
PREDICT = "overlap predict --overlap ROOT/table.npz --extrapolate --overwrite --output ROOT/out"
DERIVATIVE = f"derivative ROOT/data/s0 --atom 1 {MODEL} --overlap ROOT/table.npz -o ROOT/out"
CASES: dict[str, Case] = {
    "refine": Case(_few, _refine("legacy"), _refine("legacy", "--skip-existing")),
    "refine skip": Case(_few, _refine("legacy", "--skip-existing")),
    "refine dock": Case(_few_grouped, _refine("dock", "--skip-existing")),
    "refine batches": Case(
        _few, _refine("legacy", "--batch-edges", "5000", "--skip-existing"), rounding=True
    ),
    "refine batches dock": Case(
        _few_grouped, _refine("dock", "--batch-edges", "5000", "--skip-existing"), rounding=True
    ),
    "refine over": Case(_few, _refine("legacy", "--overwrite"), old=_old_predictions("legacy")),
    "refine over dock": Case(
        _few_grouped, _refine("dock", "--overwrite"), old=_old_predictions("dock")
    ),
    "refine in place": Case(
        _few,
        _one(f"refine --preprocessed ROOT/out {MODEL} --skip-existing"),
        old=lambda r: shutil.copytree(r / "data", r / "out", dirs_exist_ok=True) and None,
    ),
    "refine frames": Case(_few, _refine("legacy", "--frames", "2", "--skip-existing")),
    "eval": Case(_ini, _one("eval ROOT/eval.ini --model ROOT/bundle --json ROOT/out/e.json")),
    "convert dock": Case(lambda r: _data(r, 2, True), _convert("dock", "--skip-existing")),
    "convert dock over": Case(
        lambda r: _data(r, 2, True), _convert("dock", "--overwrite"), old=_old_structures
    ),
    "convert aims": Case(
        _aims, _one("convert ROOT/run ROOT/out/a --from aims --processes 1 --overwrite")
    ),
    "convert abacus": Case(
        _abacus,
        _one("convert ROOT/runs ROOT/out --from abacus --processes 1 --skip-existing"),
    ),
    **{
        f"convert {form}": Case(
            _single, _one(f"convert ROOT/data/s0 ROOT/out/{name} --to {form} --overwrite {more}")
        )
        for form, name, more in (
            ("wannier90", "w", ""),
            ("wannierberri", "w", ""),
            ("pyatb", "p", ""),
            ("kwant", "k", ""),
            ("npz", "a.npz", ""),
            ("poscar", "POSCAR", ""),
            ("sisl", "a.TSHS", ""),
        )
    },
    "train": Case(_models, TRAIN, _resumed(TRAIN)),
    "train disk": Case(_models, DISK, _resumed(DISK)),
    "train-stage1": Case(_data, TRAIN1, _resumed(TRAIN1)),
    "train-stage1 folds": Case(_data, FOLDS, _resumed(FOLDS)),
    "train variants": Case(_models, VARIANTS, _resumed(VARIANTS)),
    "train resume": Case(_models, lambda root: [*TRAIN(root), "--resume"], old=_begun("train")),
    "train from": Case(
        _run_folder,
        lambda root: [*TRAIN(root), "--from", str(root / "run" / "bundle")],
        lambda root: [*_resumed(TRAIN)(root), "--from", str(root / "run" / "bundle")],
    ),
    "train cross-fit": Case(_fold_run, CROSS, _resumed(CROSS)),
    "train-stage1 resume": Case(
        _data, lambda root: [*TRAIN1(root), "--resume"], old=_begun("train-stage1")
    ),
    "ablate": Case(_models, ABLATE),
    "ablate variants": Case(_models, ABLATE_VARIANTS),
    "overlap fit": Case(
        _data,
        _one("overlap fit --preprocessed ROOT/data -o ROOT/out/t.npz --json ROOT/out/t.json"),
    ),
    "overlap predict": Case(_table, _one(f"{PREDICT} --input ROOT/data/s0 ROOT/data/s1")),
    "overlap predict dock": Case(_table, _one(f"{PREDICT} --input ROOT/data/s0 --format dock")),
    "derivative": Case(_fitted, _one(DERIVATIVE), _one(f"{DERIVATIVE} --overwrite")),
    "build supercell": Case(
        _cell,
        _one(f"{REPEAT} -o ROOT/out/s.vasp"),
        _one(f"{REPEAT} -o ROOT/out/s.vasp --overwrite"),
    ),
    "build twist": Case(
        _hexagonal,
        _one(f"{TWIST} 1,2 2,3 -o ROOT/out/t --json ROOT/out/t.json"),
        _one(f"{TWIST} 1,2 2,3 -o ROOT/out/t --json ROOT/out/t.json --overwrite"),
    ),
    "build twist one": Case(
        _hexagonal,
        _one(f"{TWIST} 1,2 -o ROOT/out/t.cif"),
        _one(f"{TWIST} 1,2 -o ROOT/out/t.cif --overwrite"),
    ),
    "evaluate": Case(_models, _one(f"{EVALUATE} --plots ROOT/out/plots --json ROOT/out/e.json")),
    "evaluate report": Case(_models, _one(f"{EVALUATE} --report ROOT/out/e.html")),
    "report": Case(_run_folder, _one("report ROOT/run --output ROOT/out/run.html")),
    "report evaluation": Case(_evaluated, _one("report ROOT/e.json --output ROOT/out/e.html")),
    "compare": Case(
        _predicted, _one("compare ROOT/data/s0 --electrons 4 --mesh 2x2x2 --json ROOT/out/c.json")
    ),
    "info": Case(_run_folder, _one("info ROOT/run --json ROOT/out/i.json")),
    "bands": _physics("bands ROOT/data/s0 --path GX --npoints 5"),
    "bands unfold": _physics(
        "bands ROOT/data/s0 --unfold ROOT/POSCAR --path GX --npoints 3", _unfolded
    ),
    "gap": Case(
        _single, _one("gap ROOT/data/s0 --electrons 4 --mesh 2x2x2 --json ROOT/out/g.json")
    ),
    "dos": _physics("dos ROOT/data/s0"),
    "optics": _physics("optics ROOT/data/s0 --photon 0 2 0.5"),
    "ldos": Case(
        _orbitals,
        _one(
            "ldos ROOT/data/s0 --window -1 1 --spacing 0.8 --electrons 4 --mesh 2x2x1 "
            "-o ROOT/out/L --json ROOT/out/l.json --basis ROOT/Mo.orb ROOT/S.orb"
        ),
    ),
    "topology": _physics("topology ROOT/data/s0 --kind ahc"),
    "surface": _physics("surface ROOT/data/s0 --points 3 --energies 3 --path GX"),
    "spin-texture": _physics(
        "spin-texture ROOT/data/s0 --points 3 --band 2", lambda r: _slab(r, True)
    ),
}
