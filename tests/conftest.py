"""What all tests share: small structures made here, a tiny stage 1, the data beside the repository,
and the official DeepH-E3."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from deeph_gformer.bands import BlochProblem, MeshSpectrum, mesh_spectrum
from deeph_gformer.io import BlockMatrix, Structure, legacy
from deeph_gformer.io.files import write_json
from deeph_gformer.overlap.neighbours import edge_keys

# the process that hands tests to the others loads this file alone: what is slow to load is for them
if TYPE_CHECKING:
    import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
EXAMPLES = ROOT / "examples" / "graphene"
SHELLS = {16: (0, 1), 42: (0, 1, 2)}
STEP = {"hamiltonians.h5": 2.0**-20, "overlaps.h5": 2.0**-23}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``official`` run where DEEPHE3_ROOT is set."""
    if os.environ.get("DEEPHE3_ROOT"):
        return
    for item in items:
        if "official" in item.keywords:
            item.add_marker(
                pytest.mark.skip(reason="needs the official DeepH-E3: set DEEPHE3_ROOT to a clone")
            )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _coarse_levels() -> Iterator[None]:
    """``refine`` counts electrons on the mesh for dear structures, an eighth of the k-points;
    ``tests/inference/test_level.py`` takes the full one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deeph_gformer.inference.level.MOST_WORK", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _spectra_once() -> Iterator[None]:
    """Bands on which training counts electrons: many tests train on the same made-up crystals."""
    solved: dict[bytes, MeshSpectrum] = {}

    def once(problem: BlochProblem) -> MeshSpectrum:
        parts = (problem.structure.lattice, problem.structure.orbital_counts)
        parts += tuple(x for m in (problem.h, problem.s) for x in (m.keys, m.shapes, m.values))
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).data for x in parts)).digest()
        if digest not in solved:
            solved[digest] = mesh_spectrum(problem)
        return solved[digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deeph_gformer.training.electrons.mesh_spectrum", once)
        yield


def golden(name: str) -> pathlib.Path:
    """A folder of ../shared/golden; skips where it is absent."""
    path = SHARED / "golden" / name
    if not path.is_dir():
        pytest.skip(f"golden reference {name}: ../shared is not beside the repository")
    return path


def random_structure(
    seed: int = 0, atoms: int = 4, spinful: bool = False, name: str = "made", grouped: bool = False
) -> tuple[Structure, BlockMatrix, BlockMatrix]:
    """A made-up MoS2-like crystal with Hermitian H and symmetric positive S.

    H decays with distance; grouped: by element, as DeepH-dock wants it.
    """
    rng = np.random.default_rng(seed)
    lattice = np.array([[4.1, 0.3, 0.0], [-0.2, 4.4, 0.1], [0.1, -0.3, 5.0]])
    numbers = np.array([16, 42] * atoms)[:atoms]
    numbers = np.sort(numbers) if grouped else numbers
    places = np.array([[x, y, z] for x in (0.0, 0.5) for y in (0.0, 0.5) for z in (0.0, 0.5)])[
        :atoms
    ]
    positions = (places + rng.normal(0, 0.04, (atoms, 3))) @ lattice
    structure = Structure(
        lattice,
        positions,
        numbers,
        tuple(SHELLS[z] for z in numbers.tolist()),
        spinful,
        {"isspinful": spinful, "fermi_level": 0.5},
        name,
    )
    reach = {(16, 16): 4.2, (16, 42): 4.2, (42, 42): 4.2}
    return structure, *random_matrices(structure, reach, rng, 2.0, 0.05)


def random_matrices(
    structure: Structure,
    reach: dict[tuple[int, int], float],
    rng: np.random.Generator,
    energy: float,
    overlap: float,
) -> tuple[BlockMatrix, BlockMatrix]:
    """Hermitian H and S that decay with distance; S of an atom with itself is 1.

    Args:
        structure: the atoms.
        reach: of each pair of elements, Å.
        rng: random numbers.
        energy: size of H, eV.
        overlap: size of S.
    """
    keys = edge_keys(structure, reach)
    length = np.linalg.norm(structure.edge_vectors(keys), axis=1)

    def matrix(doubled: int, kind: type, scale: float) -> BlockMatrix:
        shapes = structure.orbital_counts[keys[:, 3:]] * doubled
        values = rng.normal(size=int(shapes.prod(axis=1).sum())).astype(kind)
        if kind is complex:
            values = values + 1j * rng.normal(size=len(values))
        decay = np.repeat(np.exp(-length), shapes.prod(axis=1))
        return BlockMatrix(keys, shapes, values * scale * decay).hermitian()

    s = matrix(1, float, overlap)
    for e in np.flatnonzero(length < 1e-9):
        s.block(int(e))[...] = np.eye(len(s.block(int(e))))
    return (matrix(2, complex, energy) if structure.spinful else matrix(1, float, energy)), s


@pytest.fixture
def make_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Write a made-up structure as a legacy folder: ``make_folder("name", seed=1,
    hamiltonian=True)``."""

    def write(
        name: str = "made",
        *,
        seed: int = 0,
        atoms: int = 4,
        spinful: bool = False,
        hamiltonian: bool = True,
        overlap: bool = True,
        root: pathlib.Path | None = None,
        grouped: bool = False,
    ) -> pathlib.Path:
        structure, h, s = random_structure(seed, atoms, spinful, name, grouped)
        folder = (root or tmp_path / "data") / name
        legacy.write_structure(folder, structure)
        if hamiltonian:
            legacy.write_blocks(folder / "hamiltonians.h5", h)
        if overlap:
            legacy.write_blocks(folder / "overlaps.h5", s)
        return folder

    return write


def tree(root: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def write_tree(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    """What :func:`tree` gave."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_tiny_stage1(
    folder: pathlib.Path,
    *,
    spinful: bool = False,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    irreps: str = "4x0e+3x1o+2x2e+1x3o",
    blocks: int = 2,
    elements: tuple[int, ...] = (16, 42),
) -> pathlib.Path:
    """A DeepH-E3 model folder with random weights for the made-up structures; float64."""
    import torch

    from .tiny import model_files

    shells = tuple(SHELLS[z] for z in elements)
    dtype = torch.float64 if dtype is None else dtype
    files, after = model_files(spinful, seed, dtype, irreps, blocks, elements, shells)
    write_tree(folder, files)
    torch.set_rng_state(after)
    return folder


@pytest.fixture
def tiny_stage1(tmp_path: pathlib.Path) -> pathlib.Path:
    """A spinless float64 model folder."""
    return write_tiny_stage1(tmp_path / "stage1")


__all__ = [
    "golden",
    "random_structure",
    "write_tiny_stage1",
    "write_json",
    "EXAMPLES",
    "ROOT",
    "SHARED",
]


def _unpack(group: h5py.Group, folder: pathlib.Path) -> None:
    """One structure of a packed set as a legacy folder.

    Integers are zigzag-coded multiples of STEP, one of each block and its mirror is stored.
    """
    folder.mkdir(parents=True)
    for name in (
        "element.dat",
        "lat.dat",
        "rlat.dat",
        "orbital_types.dat",
        "site_positions.dat",
        "info.json",
    ):
        if name in group.attrs:
            (folder / name).write_text(group.attrs[name])
    for name, step in STEP.items():
        packed = group[name]
        z = packed["values"][()].astype(np.int64)
        flat = ((z >> 1) ^ -(z & 1)) * step
        if packed.attrs["complex"]:
            flat = flat[0] + 1j * flat[1]
        start = 0
        with h5py.File(folder / name, "w") as out:
            for key, (rows, columns) in zip(
                packed["keys"][()].tolist(), packed["shapes"][()].tolist()
            ):
                block = flat[start : start + rows * columns].reshape(rows, columns)
                start += rows * columns
                mirror = [-key[0], -key[1], -key[2], key[4], key[3]]
                out[str(key)] = block
                if mirror != key:
                    out[str(mirror)] = block.conj().T


@pytest.fixture(scope="session")
def dft(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], tuple[pathlib.Path, dict[str, NDArray[np.float64]]]]:
    """``dft(set, id)`` -> (legacy folder, {'k', 'energy_eV'} of the DFT code).

    Skips where the shared data are not there.
    """
    root, done = tmp_path_factory.mktemp("dft"), {}

    def get(
        name: str, identity: str = "0000"
    ) -> tuple[pathlib.Path, dict[str, NDArray[np.float64]]]:
        path = SHARED / "data" / f"{name}.h5"
        if not path.is_file():
            pytest.skip(f"shared data not found beside the project: {path.name}")
        if (name, identity) not in done:
            with h5py.File(path) as handle:
                _unpack(handle[identity], root / name / identity)
                bands = (
                    {k: v[()] for k, v in handle[identity]["bands"].items()}
                    if "bands" in handle[identity]
                    else {}
                )
            done[name, identity] = root / name / identity, bands
        return done[name, identity]

    return get
