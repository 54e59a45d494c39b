"""Every piece of Python in README and documentation runs, in the order of its page.

``docs/extending.md`` has a test of its own. Meshes are made coarse; everything else is as printed.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import deeph_gformer
from deeph_gformer import bands, overlap
from deeph_gformer.cli import main
from deeph_gformer.interop.folders import write_problem
from deeph_gformer.io import read_folder, read_matrix

from .conftest import EXAMPLES, ROOT, SHARED

Dft = Callable[..., tuple[pathlib.Path, Any]]
#: A place where what the page speaks of is made; returns names that the snippets know.
Setting = Callable[[pathlib.Path, Dft], dict[str, Any]]

PAGES = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "_build" not in path.parts and path.name != "extending.md"
)
#: Libraries that are rarely installed; what needs them is skipped where they are not.
RARE = ("gpaw", "wannierberri", "kwant")
COARSE = (
    (r'"\d+x\d+x1"', '"3x3x1"'),
    (r"mesh=\(20, 20\)", "mesh=(4, 4)"),
    (r"np\.arange\(0, 8, 0\.02\)", "np.arange(0, 8, 0.5)"),
    (r"dft\.structure, 0\.2\)", "dft.structure, 0.5)"),
    (r"npoints=90", "npoints=9"),
    (r"npoints=20, points=40", "npoints=5, points=8"),
    (r"radius=0.1, points=15", "radius=0.1, points=4"),
    (r"\[21, 21\]", "[2, 2]"),
    (r"points=81", "points=5"),
)


def snippets(path: pathlib.Path) -> list[tuple[int, str]]:
    """(line, code) of each block of Python."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(?:python|py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: m.start()].count("\n") + 2, m[1]) for m in found]


CODE = {str(path.relative_to(ROOT)): found for path in PAGES if (found := snippets(path))}


def link(place: pathlib.Path, target: pathlib.Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=target.is_dir())


def _graphene(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    """Folders of DFT's graphene, and what ``refine`` wrote of one."""
    for name in ("graphene/0000", "structures/0030", "some/folder"):
        shutil.copytree(EXAMPLES / "structures" / "0030", here / name)
    link(here / "gformer", EXAMPLES / "gformer")
    link(here / "stage1", EXAMPLES / "stage1")
    link(here / "trained_model_dir", EXAMPLES / "stage1")
    return {}


def _compare(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    names = _graphene(here, dft)
    model = deeph_gformer.load(EXAMPLES / "gformer", stage1=EXAMPLES / "stage1")
    deeph_gformer.refine(here / "graphene", model, here / "out")
    return names


def _stage1(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    model = deeph_gformer.load(stage1=EXAMPLES / "stage1")
    item = model.read(EXAMPLES / "structures" / "0030")
    return {**_graphene(here, dft), "graph": item.graph.to("cpu", model.dtype)}


def _atoms(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    from ase.build import graphene

    for name in ("0002", "0003"):
        shutil.copytree(EXAMPLES / "structures" / "0030", here / "set" / name)
    link(here / "carbon.npz", BILAYER / "gformer" / "overlap.npz")
    layer = graphene(a=2.46, vacuum=10)
    layer.pbc = True
    return {"trajectory": [layer]}


def _overlap(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    link(here / "carbon.npz", BILAYER / "gformer" / "overlap.npz")
    return _graphene(here, dft)


def _derivatives(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    models = ROOT / "examples" / "systems" / "models" / "mos2"
    link(here / "structures" / "0030", dft("mos2")[0])
    link(here / "gformer", models / "gformer")
    link(here / "stage1", models / "stage1")
    return {}


def _basis(*elements: str) -> list[pathlib.Path]:
    files = [SHARED / "data" / "basis" / f"{element}.orb" for element in elements]
    if not all(path.is_file() for path in files):
        pytest.skip("basis files: ../shared is not beside the repository")
    return files


def _positions(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    provider = overlap.load(_basis("S", "Mo"))
    source = dft("mos2")[0]
    structure = read_folder(source)
    keys = read_matrix(source, "overlap", structure).keys
    for file in source.iterdir():  # the snippet writes into the folder
        if file.suffix == ".dat" or file.name == "info.json":
            (here / file.name).write_bytes(file.read_bytes())
    return {"provider": provider, "structure": structure, "keys": keys, "folder": here}


def _mos2(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    for name in ("mos2/0000", "mos2_2x2"):
        link(here / name, dft("mos2")[0])
    return {}


def _sheets(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    import ase.io
    from ase.build import mx2

    sheet = mx2(a=3.18, vacuum=8.0)
    sheet.pbc = True
    (here / "structures").mkdir()
    ase.io.write(here / "structures" / "a.vasp", sheet)
    return {}


def _ldos(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    for path in _basis("S", "Mo"):
        link(here / path.name, path)
    return _mos2(here, dft)


def _bi2te3(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    link(here / "bi2te3/0002", dft("bi2te3", "0002")[0])
    return {}


def _bismuthene(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    link(here / "bismuthene_1x1", _dft_run("abacus", "bismuthene_1x1"))
    return {}


BILAYER = ROOT / "examples" / "systems" / "models" / "bilayer_graphene"


def _graphite(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    """A crystal that repeats along the third vector; the model of the bilayer gives an H."""
    from ase.build import graphene

    layer = graphene(a=2.46)
    atoms = layer + layer
    atoms.positions[2:] += (0, 1.42, 3.35)
    atoms.cell[2] = (0, 0, 6.7)
    model = deeph_gformer.load(BILAYER / "gformer", stage1=BILAYER / "stage1")
    table = overlap.load(BILAYER / "gformer" / "overlap.npz")
    structure = overlap.structure_from_atoms(atoms, table.orbital_types, "bulk", False)
    keys = table.edges(structure)
    h = model.predict(structure, keys=keys).hamiltonian
    write_problem(here / "bulk", bands.BlochProblem(structure, h, table.overlap(structure, keys)))
    return {}


def _crystals(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    """A bulk, and the page's bilayer of bismuth, refined as there."""
    text = (ROOT / "docs" / "howto" / "surface.md").read_text(encoding="utf-8")
    poscar = re.search(r"^    Bi bilayer\n(?:    .*\n)+", text, re.MULTILINE)
    assert poscar is not None
    (here / "bilayer.vasp").write_text(textwrap.dedent(poscar[0]), encoding="utf-8")
    model = ROOT / "examples" / "systems" / "models" / "bismuthene"
    words = ["--stage1", model / "stage1", "--model", model / "gformer", "--output", here / "bi"]
    assert main(["refine", "--preprocessed", str(here / "bilayer.vasp"), *map(str, words)]) == 0
    return _graphite(here, dft)


def _dft_run(code: str, name: str) -> pathlib.Path:
    run = SHARED / "dft" / code / name
    if not run.is_dir():
        pytest.skip(f"runs of {code}: ../shared is not beside the repository")
    return run


def _runs(here: pathlib.Path, dft: Dft) -> dict[str, Any]:
    link(here / "runs" / "0001", _dft_run("openmx", "graphene"))
    return {}


SETTINGS: dict[str, Setting] = {
    "README.md": _graphene,
    "docs/howto/ase.md": _atoms,
    "docs/howto/bands.md": _graphene,
    "docs/howto/compare.md": _compare,
    "docs/howto/derivatives.md": _derivatives,
    "docs/howto/dft.md": _runs,
    "docs/howto/fermi.md": _graphene,
    "docs/howto/ldos.md": _ldos,
    "docs/howto/optics.md": _mos2,
    "docs/howto/overlap.md": _overlap,
    "docs/howto/positions.md": _positions,
    "docs/howto/python.md": _sheets,
    "docs/howto/spin_texture.md": _bi2te3,
    "docs/howto/stage1.md": _stage1,
    "docs/howto/surface.md": _crystals,
    "docs/howto/topology.md": _bismuthene,
    "docs/howto/unfold.md": _mos2,
}


@pytest.mark.parametrize("page", sorted(CODE))
def test_snippets_run(
    page: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, dft: Dft
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    link(tmp_path / "examples", ROOT / "examples")
    names = SETTINGS.get(page, lambda here, dft: {})(tmp_path, dft)
    left_out = []
    for line, code in CODE[page]:
        rare = next((lib for lib in RARE if re.search(rf"^from {lib}", code, re.MULTILINE)), None)
        if rare:  # also where it is installed: it needs a DFT run, or what another program wrote
            left_out.append(f"{page}:{line} needs {rare}")
            compile(code, page, "exec")
            continue
        for pattern, small in COARSE:
            code = re.sub(pattern, small, code)
        exec(compile("\n" * (line - 1) + code, str(ROOT / page), "exec"), names)
    if len(left_out) == len(CODE[page]):
        pytest.skip("; ".join(left_out))


def test_which_snippets_are_left_out() -> None:
    """Three of the interfaces to programs that are tested where they are installed."""
    assert len(CODE) >= 18
    found = [
        page
        for page, blocks in CODE.items()
        for _, code in blocks
        if re.search(rf"^from ({'|'.join(RARE)})", code, re.MULTILINE)
    ]
    assert sorted(found) == ["docs/howto/dft.md", *["docs/howto/exports.md"] * 2]
