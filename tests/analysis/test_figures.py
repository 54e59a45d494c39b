"""Every number that ``evaluate`` writes or draws, recomputed from the HDF5 files with h5py and
numpy alone."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

import deeph_gformer
from deeph_gformer.analysis import plots
from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.gformer.bundle import load_bundle, save_bundle

from ..conftest import write_tiny_stage1
from ..test_pipeline import make_bundle

Folder = Callable[..., pathlib.Path]
SYMBOL = {16: "S", 42: "Mo"}


class Element(NamedTuple):
    """One matrix element: which structure, edge, atoms and shells it belongs to."""

    structure: str
    pair: tuple[int, int]  # atomic numbers
    shells: tuple[int, int]
    length: float  # Å
    place: str
    block: tuple[str, str]
    dft: complex
    stage1: complex
    refined: complex


def read_h5(path: pathlib.Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as handle:
        return {key: handle[key][()] for key in handle}


def without_mu(
    predicted: dict[str, np.ndarray],
    dft: dict[str, np.ndarray],
    s: dict[str, np.ndarray],
    spins: int,
) -> dict[str, np.ndarray]:
    """prediction - μ S with μ = <prediction - DFT, S> / <S, S>."""
    doubled = {k: np.kron(np.eye(spins), v) for k, v in s.items()}
    mu = sum(np.vdot(v, (predicted[k] - dft[k])).real for k, v in doubled.items())
    mu /= sum(np.vdot(v, v) for v in doubled.values())
    return {k: predicted[k] - (mu * doubled[k] if k in doubled else 0) for k in predicted}


def connected(numbers: np.ndarray, place: np.ndarray, lattice: np.ndarray) -> Callable[..., bool]:
    """Whether atom i of cell 0 and atom j of cell R hang together by bonds, in a cluster of 7 x 7 x
    7 cells."""
    radius = np.array([{16: 1.05, 42: 1.54}[z] for z in numbers])  # Cordero et al. 2008
    cells = np.indices((7, 7, 7)).reshape(3, -1).T - 3
    where = (cells[:, None] @ lattice + place).reshape(-1, 3)
    size = np.tile(radius, len(cells))
    distance = np.linalg.norm(where[:, None] - where, axis=2)
    bonds = distance < 1.2 * (size[:, None] + size)
    part = connected_components(bonds, directed=False)[1].reshape(7, 7, 7, len(numbers))
    return lambda r, i, j: part[3, 3, 3, i] == part[(*(np.array(r) + 3), j)]


def elements(folder: pathlib.Path, root: pathlib.Path, gauge: str, spins: int) -> Iterator[Element]:
    """All matrix elements of a structure."""
    numbers = np.loadtxt(folder / "element.dat", dtype=int, ndmin=1)
    shells = [[int(v) for v in l.split()] for l in (folder / "orbital_types.dat").open()]
    lattice = np.loadtxt(folder / "lat.dat").T
    place = np.loadtxt(folder / "site_positions.dat", ndmin=2).T
    dft, s = read_h5(folder / "hamiltonians.h5"), read_h5(folder / "overlaps.h5")
    first, both = (
        read_h5(root / kind / folder.name / "hamiltonians_pred.h5") for kind in ("one", "both")
    )
    together = connected(numbers, place, lattice)
    if gauge == "standard":
        first, both = (without_mu(h, dft, s, spins) for h in (first, both))
    for key in dft:
        x, y, z, i, j = json.loads(key)
        vector = place[j - 1] + np.array([x, y, z]) @ lattice - place[i - 1]
        length = 0.0 if (x, y, z) == (0, 0, 0) and i == j else float(np.linalg.norm(vector))
        within = together((x, y, z), i - 1, j - 1)
        where = "on-site" if length == 0 else "within a layer" if within else "between layers"
        row = np.tile(
            np.repeat(np.arange(len(shells[i - 1])), [2 * l + 1 for l in shells[i - 1]]), spins
        )
        column = np.tile(
            np.repeat(np.arange(len(shells[j - 1])), [2 * l + 1 for l in shells[j - 1]]), spins
        )
        for a, b in np.ndindex(dft[key].shape):
            yield Element(
                folder.name,
                (int(numbers[i - 1]), int(numbers[j - 1])),
                (int(row[a]), int(column[b])),
                length,
                where,
                (folder.name, key),
                complex(dft[key][a, b]),
                complex(first[key][a, b]),
                complex(both[key][a, b]),
            )


def mae(found: list[Element], stage: str) -> float:
    return float(np.mean([abs(getattr(e, stage) - e.dft) for e in found]) * 1e3)


class Case(NamedTuple):
    result: dict[str, Any]
    found: list[Element]
    folder: pathlib.Path
    figures: dict[str, Any]
    gauge: str


@pytest.fixture(scope="module", params=["raw", "standard", "spinful"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    from deeph_gformer.inference.refine import refine
    from deeph_gformer.io import legacy

    from ..conftest import random_structure

    root = tmp_path_factory.mktemp(request.param)
    spinful, gauge = request.param == "spinful", "raw" if request.param == "raw" else "standard"
    for n, atoms in enumerate((4, 3, 2)):
        structure, h, s = random_structure(n, atoms, spinful, f"s{n}")
        folder = root / "data" / f"s{n}"
        legacy.write_structure(folder, structure)
        legacy.write_blocks(folder / "hamiltonians.h5", h)
        legacy.write_blocks(folder / "overlaps.h5", s)
    stage1 = write_tiny_stage1(root / "stage1", spinful=spinful)
    bundle = load_bundle(make_bundle(stage1, root / "raw", trained=True))
    object.__setattr__(bundle, "gauge", gauge)
    save_bundle(root / "bundle", bundle)
    model = deeph_gformer.load(root / "bundle", stage1=stage1)
    refine(root / "data", deeph_gformer.load(stage1=stage1), root / "one")
    refine(root / "data", model, root / "both")
    figures: dict[str, Any] = {}
    keep = plots._save

    def save(figure: Any, path: pathlib.Path, data: dict[str, Any]) -> list[pathlib.Path]:
        figures[path.stem] = figure
        return keep(figure, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_save", save)
        result = evaluate(
            model, root / "data", rotations=0, invariance=False, gauge=gauge, plots=root / "plots"
        )
    found = [
        e
        for n in range(3)
        for e in elements(root / "data" / f"s{n}", root, gauge, 2 if spinful else 1)
    ]
    return Case(json.loads(json.dumps(result.to_json())), found, root / "plots", figures, gauge)


def test_structures_and_totals(case: Case) -> None:
    total, names = case.result["total"], ["s0", "s1", "s2"]
    means = {
        stage: [mae([e for e in case.found if e.structure == n], stage) for n in names]
        for stage in ("stage1", "refined")
    }
    assert case.result["errors"] == ("raw" if case.gauge == "raw" else "without μS")
    kind = "raw" if case.gauge == "raw" else "gauge_free"
    for n, record in enumerate(case.result["structures"]):
        a, b = means["stage1"][n], means["refined"][n]
        assert record["stage1_mae_meV"] == pytest.approx(a, rel=1e-9)
        assert record["refined_mae_meV"] == pytest.approx(b, rel=1e-9)
        assert record["ratio"] == pytest.approx(b / a, rel=1e-9)
        assert record[f"{kind}_stage1_mae_meV"] == record["stage1_mae_meV"]
        assert record[f"{kind}_refined_mae_meV"] == record["refined_mae_meV"]
        assert record["edges"] == len({e.block for e in case.found if e.structure == names[n]})
    worst = int(np.argmax(means["stage1"]))
    for stage in ("stage1", "refined"):
        assert total[stage]["mae_all_meV"] == pytest.approx(np.mean(means[stage]), rel=1e-9)
        assert total[stage]["mae_elements_meV"] == pytest.approx(mae(case.found, stage), rel=1e-9)
        assert total[stage]["mae_challenging_structure_meV"] == pytest.approx(
            means[stage][worst], rel=1e-9
        )
        assert total[f"{kind}_{stage}_mae_meV"] == pytest.approx(np.mean(means[stage]), rel=1e-9)
    assert total["challenging_structure"] == names[worst]
    ratio = np.mean(means["refined"]) / np.mean(means["stage1"])
    assert total["ratio_mae_all"] == pytest.approx(ratio, rel=1e-9)
    better = sum(b < a for a, b in zip(means["stage1"], means["refined"]))
    assert total["better_structures"] == better


def test_blocks_and_the_challenging_one(case: Case) -> None:
    values = []
    for block in case.result["blocks"]:
        own = [
            e
            for e in case.found
            if block["target"].get(f"{e.pair[0]} {e.pair[1]}") == list(e.shells)
        ]
        values.append({stage: mae(own, stage) for stage in ("stage1", "refined")})
        for stage in ("stage1", "refined"):
            assert block[f"{stage}_mae_meV"] == pytest.approx(values[-1][stage], rel=1e-9)
        assert set(block["pairs"]) == set(block["target"])
        for pair, numbers in block["pairs"].items():
            part = [e for e in own if f"{e.pair[0]} {e.pair[1]}" == pair]
            for stage in ("stage1", "refined"):
                assert numbers[f"{stage}_mae_meV"] == pytest.approx(mae(part, stage), rel=1e-9)
    worst = max(values, key=lambda v: v["stage1"])
    for stage in ("stage1", "refined"):
        got = case.result["total"][stage]["mae_challenging_block_meV"]
        assert got == pytest.approx(worst[stage], rel=1e-9)


def test_places(case: Case) -> None:
    places = {p["place"]: p for p in case.result["places"]}
    for name in ("on-site", "within a layer", "between layers"):
        own = [e for e in case.found if e.place == name]
        place = places.pop(name)
        assert place["share_of_elements"] == pytest.approx(len(own) / len(case.found))
        size = np.mean([abs(e.dft) for e in own]) * 1e3
        assert place["mean_abs_hamiltonian_meV"] == pytest.approx(size, rel=1e-9)
        for stage in ("stage1", "refined"):
            assert place[f"{stage}_mae_meV"] == pytest.approx(mae(own, stage), rel=1e-9)
    assert not places


@pytest.mark.parametrize("pair", [(16, 16), (16, 42), (42, 16), (42, 42)])
def test_block_maps(case: Case, pair: tuple[int, int]) -> None:
    name = f"mae_block_{SYMBOL[pair[0]]}_{SYMBOL[pair[1]]}"
    data = json.loads((case.folder / f"{name}.json").read_text())
    for panel, stage in enumerate(("stage1", "refined")):
        values = np.array(data[f"{stage}_mae_meV"], dtype=float)
        for a, b in np.ndindex(values.shape):
            own = [e for e in case.found if e.pair == pair and e.shells == (a, b)]
            assert values[a, b] == pytest.approx(mae(own, stage), rel=1e-9)
        axis = case.figures[name].axes[panel]
        texts = {t.get_position(): t.get_text() for t in axis.texts}
        assert texts == {(b, a): f"{v:.2f}" for (a, b), v in np.ndenumerate(values)}
        assert np.allclose(axis.images[0].get_array(), values)
        assert f"{SYMBOL[pair[0]]}-{SYMBOL[pair[1]]}" in axis.get_title()


def test_maps_of_pairs_differ(case: Case) -> None:
    first = [
        json.loads((case.folder / f"mae_block_{p}.json").read_text())["stage1_mae_meV"][0][0]
        for p in ("S_S", "S_Mo", "Mo_Mo")
    ]
    assert len({round(v, 6) for v in first}) == 3


def test_error_against_distance(case: Case) -> None:
    data = json.loads((case.folder / "error_distance.json").read_text())
    blocks: dict[Any, list[Element]] = {}
    for e in case.found:
        blocks.setdefault(e.block, []).append(e)
    length = np.array([b[0].length for b in blocks.values()])
    ends = np.linspace(length[length > 0].min() - 1e-6, length.max() + 1e-6, 25)
    for key, of in (
        ("stage1_mae_meV", lambda b: mae(b, "stage1")),
        ("refined_mae_meV", lambda b: mae(b, "refined")),
        ("mean_abs_hamiltonian_meV", lambda b: np.mean([abs(e.dft) for e in b]) * 1e3),
    ):
        values, expected, centres = np.array([of(b) for b in blocks.values()]), [], []
        for low, high in [(0.0, 0.0), *zip(ends, ends[1:])]:
            inside = (length >= low) & (length < high) if high else length == 0
            if inside.any():
                expected.append(values[inside].mean())
                centres.append((low + high) / 2)
        assert data[key] == pytest.approx(expected, rel=1e-9)
        assert data["distance_angstrom"] == pytest.approx(centres)
    drawn = {
        line.get_label(): line.get_ydata() for line in case.figures["error_distance"].axes[0].lines
    }
    assert drawn["stage 1"] == pytest.approx(data["stage1_mae_meV"])
    assert drawn["refined"] == pytest.approx(data["refined_mae_meV"])
    assert drawn["mean |H|"] == pytest.approx(data["mean_abs_hamiltonian_meV"])


def test_parity(case: Case) -> None:
    data = json.loads((case.folder / "parity.json").read_text())
    assert data["elements"] == len(case.found)
    known = {
        (round(e.dft.real, 9), round(e.stage1.real, 9), round(e.refined.real, 9))
        for e in case.found
    }
    shown = list(zip(data["dft_eV"], data["stage1_eV"], data["refined_eV"]))
    assert len(shown) == min(20000, len(case.found))
    assert all(tuple(round(v, 9) for v in point) in known for point in shown)
    for panel, stage in enumerate(("stage1", "refined")):
        axis = case.figures["parity"].axes[panel]
        rms = np.sqrt(np.mean([abs(getattr(e, stage) - e.dft) ** 2 for e in case.found])) * 1e3
        assert axis.get_title().endswith(f"rms {rms:.2f} meV")
        x, y = axis.lines[0].get_data()
        assert x == pytest.approx(data["dft_eV"])
        assert y == pytest.approx((np.array(data[f"{stage}_eV"]) - data["dft_eV"]) * 1e3, abs=1e-9)


def test_every_figure_says_which_errors_it_shows(case: Case) -> None:
    kind = case.result["errors"]
    for name, figure in case.figures.items():
        assert json.loads((case.folder / f"{name}.json").read_text())["errors"] == kind
        assert any(f"({kind})" in axis.get_ylabel() for axis in figure.axes)
    assert len(case.figures) == 7


def test_bars(case: Case) -> None:
    data = json.loads((case.folder / "structures.json").read_text())
    names = ["s0", "s1", "s2"]
    assert data["names"] == names
    axis = case.figures["structures"].axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == names
    for bars, stage in zip(axis.containers, ("stage1", "refined")):
        expected = [mae([e for e in case.found if e.structure == n], stage) for n in names]
        assert data[f"{stage}_mae_meV"] == pytest.approx(expected, rel=1e-9)
        assert [b.get_height() for b in bars] == pytest.approx(expected, rel=1e-9)
