"""The commands whose inputs :mod:`.mutants` changes."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from deeph_gformer import bands
from deeph_gformer.cli import main
from deeph_gformer.io import legacy

from ..conftest import random_structure
from ..interop.dft import abacus_files, test_aims
from ..overlap.test_basis import ion_xml_text
from . import cases
from .killing import run_until
from .mutant_physics import PHYSICS
from .mutants import Kind

__all__ = ["KINDS"]

_HERE = pathlib.Path(__file__)


def _done(words: Sequence[str]) -> None:
    """Run a command in a fork, so that gradients are for children only."""
    ended = run_until(-1, lambda: main(list(words)))
    assert ended.code == 0, ended.said


def _siesta(form: str, basis: str = "ORB_INDX") -> Callable[[pathlib.Path], None]:
    """A run that sisl wrote, with the basis in .fdf and ORB_INDX, or in .ion.xml."""

    def prepare(root: pathlib.Path) -> None:
        from deeph_gformer.interop.sisl import to_sisl

        structure, h, s = random_structure(1, 2)
        hamiltonian = to_sisl(bands.BlochProblem(structure, h, s))
        (root / "in").mkdir()
        hamiltonian.write(str(root / "in" / f"run.{form}"))
        geometry = hamiltonian.geometry
        names = sorted({atom.symbol for atom in geometry.atoms})
        number = {name: n + 1 for n, name in enumerate(names)}
        rows, orbital = (
            [f" {geometry.no} {geometry.no} 1", "", " io ia is spec iao n l m z p sym"],
            0,
        )
        for n, atom in enumerate(geometry.atoms, start=1):
            for place, o in enumerate(atom, start=1):
                orbital += 1
                rows.append(
                    f"{orbital} {n} {number[atom.symbol]} {atom.symbol} {place} {o.n} {o.l} {o.m} "
                    f"{o.zeta} F s {o.R:.4f} 0 0 0 {orbital}"
                )
        if basis == "ORB_INDX":
            (root / "in" / "run.ORB_INDX").write_text("\n".join(rows) + "\n")
        else:
            for atom in geometry.atoms.atom:
                shells = {(o.n, o.l, o.zeta): (o.n, o.l, o.zeta, 0, 0.9) for o in atom}
                text = ion_xml_text(atom.Z, list(shells.values()))
                (root / "in" / f"{atom.symbol}.ion.xml").write_text(text)
        lattice, places = geometry.cell.tolist(), geometry.xyz.tolist()
        text = "SystemLabel run\nXC.authors PBE\nLatticeConstant 1.0 Ang\n"
        text += f"NumberOfAtoms {len(places)}\nNumberOfSpecies {len(names)}\n"
        text += "%block ChemicalSpeciesLabel\n"
        kinds = {atom.symbol: atom.Z for atom in geometry.atoms}
        text += "".join(f"{number[n]} {kinds[n]} {n}\n" for n in names)
        text += "%endblock ChemicalSpeciesLabel\n%block LatticeVectors\n"
        text += "".join(" ".join(map(repr, row)) + "\n" for row in lattice)
        text += "%endblock LatticeVectors\nAtomicCoordinatesFormat Ang\n"
        text += "%block AtomicCoordinatesAndAtomicSpecies\n"
        for place, atom in zip(places, geometry.atoms, strict=True):
            text += " ".join(map(repr, place)) + f" {number[atom.symbol]}\n"
        text += "%endblock AtomicCoordinatesAndAtomicSpecies\n"
        (root / "in" / "run.fdf").write_text(text)
        (root / "in" / "RUN.out").write_text(
            "Siesta Version  : 4.1.5\nsiesta: Total number of electrons:    12.000000\n"
            "SCF cycle converged after 7 iterations\n"
        )

    return prepare


def _pyscf(root: pathlib.Path) -> None:
    from ..interop.dft.test_pyscf import TIGHT, calculate

    (root / "in").mkdir()
    calculate(False, [4, 4, 4], root / "in" / "a.chk", basis=TIGHT)


def _gpaw(root: pathlib.Path) -> None:
    (root / "in").mkdir()
    program = _HERE.parents[1] / "interop" / "gpaw_run.py"
    subprocess.run([sys.executable, str(program), str(root / "made")], check=True)
    shutil.copy(root / "made" / "chain.gpw", root / "in" / "chain.gpw")
    shutil.rmtree(root / "made")


def _openmx(root: pathlib.Path) -> None:
    shutil.copytree(_HERE.parents[1] / "interop" / "dft", root / "all")
    (root / "in").mkdir()
    for path in (root / "all").glob("h2o_cluster.*"):
        shutil.move(path, root / "in" / path.name)
    shutil.rmtree(root / "all")


def _abacus(root: pathlib.Path) -> None:
    structure, h, s = random_structure(1, 2, grouped=True)
    abacus_files.write_run(root / "in" / "a", structure, h, s)


def _models(*names: str) -> Callable[[pathlib.Path], None]:
    """Two structures and models, of which some may be changed."""

    def prepare(root: pathlib.Path) -> None:
        cases._models(root, count=2)
        (root / "in").mkdir()
        for name in names:
            shutil.move(root / name, root / "in" / name)

    return prepare


def _run(*sets: str, verb: str = "train", epochs: int = 2) -> Callable[[pathlib.Path], None]:
    """A run of some epochs in ``in``."""

    def prepare(root: pathlib.Path) -> None:
        cases._models(root)
        words = cases._train(verb)(root)
        words = [str(root / "in") if word == str(root / "out") else word for word in words]
        more = [word for value in (f"training.epochs={epochs}", *sets) for word in ("--set", value)]
        _done([*words, *more])

    return prepare


def _fold_words(root: pathlib.Path, *more: str) -> list[str]:
    words = cases._train("train-stage1", "--folds", "2", "--set", "training.epochs=1", *more)(root)
    return [str(root / "in") if word == str(root / "out") else word for word in words]


def _folds(root: pathlib.Path) -> None:
    cases._data(root)
    _done(_fold_words(root))


def _part_of_folds(root: pathlib.Path) -> None:
    """The second fold network and the description are still to come."""
    _folds(root)
    (root / "in" / "folds.json").unlink()
    (root / "in" / "folds" / "1" / "record.json").unlink()


def _cross_fit(root: pathlib.Path) -> list[str]:
    words = list(cases._train("train", "--cross-fit", str(root / "in"))(root))
    words[words.index("--stage1") + 1] = str(root / "in" / "model")
    return [*words, "--set", "training.epochs=1"]


def _later_stage1(root: pathlib.Path) -> None:
    """A folder of DeepH-E3's later version, whose output is scaled and shifted."""
    import torch

    from deeph_gformer.stage1.bundle import read_model_folder, write_model_folder
    from deeph_gformer.stage1.embedded.checkpoint import official_state
    from deeph_gformer.stage1.embedded.network import DeepHE3Net

    cases._data(root, 1)
    cases.write_tiny_stage1(root / "plain")
    old = read_model_folder(root / "plain")
    config = dataclasses.replace(old.config, index_to_Z=old.targets.basis.elements)
    torch.set_default_dtype(torch.float64)
    net = DeepHE3Net(config, ">=0.5")
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(3)
    state = official_state(net)
    for name in ("sigma", "mu"):
        state[name] = 1.0 + 0.1 * torch.randn_like(state[name])
    write_model_folder(
        root / "in",
        config,
        old.targets,
        {"state_dict": state, "epoch": 1, "val_loss": 0.5},
        "[a]\n",
    )
    shutil.rmtree(root / "plain")


def _unfolded(root: pathlib.Path) -> None:
    """A supercell with H and S, and its primitive cell as a file and as a folder."""
    structure, h, s = random_structure(1, 2)
    legacy.write_structure(root / "data", structure)
    legacy.write_blocks(root / "data" / "hamiltonians.h5", h)
    legacy.write_blocks(root / "data" / "overlaps.h5", s)
    (root / "in").mkdir()
    from ase.io import write

    from deeph_gformer.interop.ase_io import to_atoms

    write(root / "in" / "POSCAR", to_atoms(structure), format="vasp")


def _evaluated(root: pathlib.Path) -> None:
    cases._models(root, count=2)
    shutil.move(root / "data", root / "in")


def _lists(root: pathlib.Path) -> None:
    """Three structures, of which any file may be changed; they are predicted together."""
    cases._models(root, count=3)
    shutil.move(root / "data", root / "in")


def _splits(root: pathlib.Path) -> None:
    cases._models(root)
    (root / "in").mkdir()
    shutil.move(root / "splits.json", root / "in" / "splits.json")


def _split_words(root: pathlib.Path) -> list[str]:
    words = list(cases._train("train", "--set", "training.epochs=1")(root))
    words[words.index("--splits") + 1] = str(root / "in" / "splits.json")
    return words


def _table(root: pathlib.Path) -> None:
    cases._table(root)
    (root / "in").mkdir()
    shutil.move(root / "table.npz", root / "in" / "table.npz")


def _basis(kind: str) -> Callable[[pathlib.Path], None]:
    def prepare(root: pathlib.Path) -> None:
        from ..overlap.test_basis_files import ion_text, pao_text

        (root / "in").mkdir()
        if kind == "orb":
            cases._orbitals(root)
            for name in ("Mo.orb", "S.orb"):
                shutil.move(root / name, root / "in" / name)
            return
        (root / "cell.vasp").write_text(
            "x\n1.0\n2.46 0 0\n-1.23 2.1304225 0\n0 0 16\nC\n2\nDirect\n"
            "0.333333333333 0.666666666667 0.5\n0.666666666667 0.333333333333 0.5\n"
        )
        if kind == "pao":
            (root / "in" / "C6.0.pao").write_text(pao_text(6, rows=120))
        elif kind == "ion.xml":
            shells = ((2, 0, 1, 0, 0.9), (2, 1, 1, 0, 0.8))
            (root / "in" / "C.ion.xml").write_text(ion_xml_text(6, shells))
        else:
            (root / "in" / "C.ion").write_text(ion_text(6, ((0, 0.9), (1, 0.8))))

    return prepare


def _one(words: str) -> Callable[[pathlib.Path], list[str]]:
    return lambda root: [word.replace("ROOT", str(root)) for word in words.split()]


def _imports(*names: str) -> Callable[[], None]:
    def ready() -> None:
        for name in names:
            importlib.import_module(name)

    return ready


RESUME = "train --resume --output ROOT/in --set training.epochs=3"
AGAIN = cases._train("train", "--resume", "--set", "training.epochs=3")
RUN = ("*.json", "*.txt", "checkpoints/*", "checkpoints/*", "logs/csv/*", "cache/*", "bundle/*")
KEPT = ("in/bundle/*.safetensors", "in/logs/csv/metrics.csv", "in/checkpoints/last.ckpt")
#: Files of the structures, seen from ``in``.
DATA = "../data/*/*"
STATES = ("training.states_weight=0.3", "training.states_spacing=0.9", "data.cache=disk")
CONVERT = "convert ROOT/in ROOT/out --processes 1 --from"
REFINE = "refine --preprocessed ROOT/data --output ROOT/out --format legacy"
PREDICT = "overlap predict --output ROOT/out"
READY = (
    *("deeph_gformer.inference.refine", "deeph_gformer.training.stage2"),
    "torch.utils.tensorboard",
)


def _same_run(root: pathlib.Path) -> list[str]:
    return [str(root / "in") if w == str(root / "out") else w for w in AGAIN(root)]


#: Values of the settings of states and of their spacing, one of which is not as it should be.
OPTIONS = [
    f"training.{name}={value}"
    for name in (
        "states_weight",
        "states_spacing",
        "states_window",
        "states_shift",
        "states_memory",
    )
    + ("states_every", "states_kpoints", "states_block_weight", "states_coupling_weight", "monitor")
    for value in ("-1", "0", "nan", "1e-9", "1e300", "[]", "[0,0]", "null", "true", "x", "9" * 40)
]

EVALUATE = f"evaluate --preprocessed ROOT/in {cases.MODEL} --no-invariance --json ROOT/out/e.json"
FINISHED = ("in/folds.json", "in/model/*.pkl", "in/folds/*/model/*.pkl")
ONE_FOLD = ("folds/*/*.json", "folds/*/checkpoints/*", "folds/*/model/**/*")

KINDS: dict[str, Kind] = {
    **PHYSICS,
    "siesta tshs": Kind(_siesta("TSHS"), _one(f"{CONVERT} siesta"), ready=_imports("sisl")),
    "siesta hsx": Kind(_siesta("HSX"), _one(f"{CONVERT} siesta"), ready=_imports("sisl")),
    "pyscf": Kind(_pyscf, _one(f"{CONVERT} pyscf"), ready=_imports("pyscf.pbc.scf")),
    "siesta ion.xml": Kind(
        _siesta("HSX", "ion.xml"), _one(f"{CONVERT} siesta"), ready=_imports("sisl")
    ),
    "openmx": Kind(_openmx, _one(f"{CONVERT} openmx")),
    "aims": Kind(lambda root: test_aims.write_run(root / "in"), _one(f"{CONVERT} aims")),
    "abacus": Kind(_abacus, _one(f"{CONVERT} abacus")),
    "bundle": Kind(
        _models("bundle"),
        _one(f"{REFINE} --stage1 ROOT/stage1 --model ROOT/in/bundle"),
        ready=_imports(*READY),
    ),
    "stage 1": Kind(
        _models("stage1"),
        _one(f"{REFINE} --stage1 ROOT/in/stage1 --model ROOT/bundle"),
        ready=_imports(*READY),
    ),
    "gpaw": Kind(_gpaw, _one(f"{CONVERT} gpaw"), ready=_imports("gpaw")),
    "resume": Kind(_run(), _one(RESUME), RUN, KEPT, ready=_imports(*READY)),
    "resume same": Kind(_run(), _same_run, RUN, KEPT, ready=_imports(*READY)),
    "resume states": Kind(_run(*STATES), _one(RESUME), RUN, KEPT, ready=_imports(*READY)),
    "state bank": Kind(
        _run(*STATES), _one(RESUME), ("cache/states*", DATA), KEPT, ready=_imports(*READY)
    ),
    "resume data": Kind(_run(), _one(RESUME), (DATA,), KEPT, ready=_imports(*READY)),
    "resume folds": Kind(
        _part_of_folds,
        lambda root: _fold_words(root, "--resume"),
        ("*.json", *ONE_FOLD, DATA),
        FINISHED,
        ready=_imports(*READY),
    ),
    "evaluate states": Kind(
        _evaluated,
        _one(EVALUATE),
        results=("out/e.json",),
        ready=_imports("deeph_gformer.analysis.evaluate"),
    ),
    "resume stage1": Kind(
        _run(verb="train-stage1"),
        _one(RESUME.replace("train ", "train-stage1 ", 1)),
        (*RUN[:-1], "model/**/*"),
        (*KEPT[1:], "in/model/*.pkl"),
        ready=_imports(*READY),
    ),
    "folds": Kind(
        _folds,
        _cross_fit,
        ("folds.json", "folds.json", "model/deeph_gformer.json", "folds/*/model/**/*"),
        ("out/bundle/*.safetensors", "out/logs/csv/metrics.csv"),
        ready=_imports(*READY),
    ),
    "states options": Kind(
        cases._models,
        cases._train("train", "--set", "training.epochs=1", "--set", "training.epochs=1"),
        ("none",),
        ("out/bundle/*.safetensors",),
        options=OPTIONS,
        ready=_imports(*READY),
    ),
    "later stage 1": Kind(
        _later_stage1,
        _one("refine --preprocessed ROOT/data --stage1 ROOT/in --stage1-only --output ROOT/out"),
        ready=_imports(*READY),
    ),
    "unfold": Kind(
        _unfolded,
        _one(
            "bands ROOT/data --unfold ROOT/in/POSCAR --path GX --npoints 3 --electrons 4 "
            "--mesh 2x2x2 -o ROOT/out/a.png --json ROOT/out/a.json"
        ),
        results=("out/a.json",),
    ),
    "lists": Kind(
        _lists,
        _one(
            f"refine --preprocessed ROOT/in {cases.MODEL} --batch-edges 5000 --output ROOT/out "
            "--format legacy"
        ),
        partial=True,
        ready=_imports(*READY),
    ),
    "splits": Kind(
        _splits,
        _split_words,
        results=("out/bundle/*.safetensors", "out/splits.json"),
        ready=_imports(*READY),
    ),
    "overlap table": Kind(
        _table,
        _one(
            f"{PREDICT} --overlap ROOT/in/table.npz --extrapolate --input ROOT/data/s0 --overwrite"
        ),
    ),
    "basis orb": Kind(
        _basis("orb"),
        _one(f"{PREDICT} --basis ROOT/in/Mo.orb ROOT/in/S.orb --input ROOT/data/s0 --overwrite"),
    ),
    "basis pao": Kind(
        _basis("pao"), _one(f"{PREDICT} --basis ROOT/in/C6.0-s2p1 --input ROOT/cell.vasp")
    ),
    "basis ion.xml": Kind(
        _basis("ion.xml"),
        _one(f"{PREDICT} --basis ROOT/in/C.ion.xml --input ROOT/cell.vasp"),
        ready=_imports("sisl"),
    ),
    "basis ion": Kind(
        _basis("ion"), _one(f"{PREDICT} --basis ROOT/in/C.ion --input ROOT/cell.vasp")
    ),
}
