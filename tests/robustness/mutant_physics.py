"""Commands of the physics of a Hamiltonian, whose inputs :mod:`.mutants` changes."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

from deeph_gformer.io import legacy

from ..conftest import random_structure
from . import cases
from .mutants import Kind

__all__ = ["PHYSICS"]

MESH = "--electrons 4 --mesh 2x2x1"
MODEL = "--stage1 ROOT/stage1 --model ROOT/bundle --overlap ROOT/table.npz"


def _moved(prepare: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    """What is in ``data`` afterwards is changed."""

    def moved(root: pathlib.Path) -> None:
        prepare(root)
        shutil.move(root / "data", root / "in")

    return moved


def _spinful(root: pathlib.Path) -> None:
    structure, h, s = random_structure(3, 2, True, "s0")
    legacy.write_structure(root / "data" / "s0", structure)
    legacy.write_blocks(root / "data" / "s0" / "hamiltonians.h5", h)
    legacy.write_blocks(root / "data" / "s0" / "overlaps.h5", s)


def _pair(root: pathlib.Path) -> None:
    cases._data(root, 1)
    structure, h, s = random_structure(4, 2, False, "s1")
    values = h.values * 1.001
    legacy.write_structure(root / "data" / "s1", structure)
    legacy.write_blocks(root / "data" / "s1" / "hamiltonians.h5", type(h)(h.keys, h.shapes, values))
    legacy.write_blocks(root / "data" / "s1" / "overlaps.h5", s)


def _one(root: pathlib.Path) -> None:
    cases._data(root, 1)


def _kind(prepare: Callable[[pathlib.Path], None], words: str, results: str = "out/a.json") -> Kind:
    line = f"{words} --json ROOT/out/a.json"
    return Kind(
        _moved(prepare),
        lambda root: [word.replace("ROOT", str(root)) for word in line.split()],
        results=(results,),
    )


PHYSICS: dict[str, Kind] = {
    "gap": _kind(_one, f"gap ROOT/in/s0 {MESH}"),
    "optics": _kind(_one, f"optics ROOT/in/s0 --photon 0 2 0.5 {MESH} -o ROOT/out/a.png"),
    "surface": _kind(
        _one, f"surface ROOT/in/s0 --points 3 --energies 3 --path GX {MESH} -o ROOT/out/a.png"
    ),
    "spin-texture": _kind(
        _spinful, f"spin-texture ROOT/in/s0 --points 3 --band 2 {MESH} -o ROOT/out/a.png"
    ),
    "compare": _kind(_pair, f"compare ROOT/in/s0 ROOT/in/s1 {MESH}"),
    "ldos": _kind(
        cases._orbitals,
        f"ldos ROOT/in/s0 --window -1 1 --spacing 0.8 {MESH} -o ROOT/out/L "
        "--basis ROOT/Mo.orb ROOT/S.orb",
    ),
    "derivative": Kind(
        _moved(cases._fitted),
        cases._one(f"derivative ROOT/in/s0 --atom 1 {MODEL} -o ROOT/out/d"),
        ("s0/*",),
    ),
}
