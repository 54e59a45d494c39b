"""The whole chain on golden references and on made-up structures."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

import deeph_gformer
from deeph_gformer.algebra.layout import rotate_flat
from deeph_gformer.algebra.rotation import random_rotation, wigner_blocks
from deeph_gformer.bands import BlochProblem
from deeph_gformer.bands.kmesh import broken_reversal, time_reversal_part
from deeph_gformer.cli import main
from deeph_gformer.config import GFormerConfig
from deeph_gformer.data.graph import rotate_graph
from deeph_gformer.errors import ConfigError, DataError, ModelError
from deeph_gformer.gformer.bundle import Bundle, load_bundle, save_bundle
from deeph_gformer.gformer.model import GFormer
from deeph_gformer.io import BlockMatrix, find_structures, read_folder, read_matrix
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.prediction.identity import identify
from deeph_gformer.prediction.passes import whole_sums
from deeph_gformer.prediction.run import hermitian_products
from deeph_gformer.stage1 import load_stage1

from .conftest import golden, tree, write_tiny_stage1, write_tree

Folder = Callable[..., pathlib.Path]


def make_bundle(
    stage1: pathlib.Path,
    folder: pathlib.Path,
    arch: str = "equivariant",
    trained: bool = False,
    **options: object,
) -> pathlib.Path:
    """A bundle for this stage 1; untrained, or with random weights everywhere.

    Each is made once, and copied where there is nothing yet.
    """
    content = repr(sorted(tree(stage1).items())).encode()
    key = (stage1.name, hashlib.sha256(content).digest(), arch, trained, repr(options))
    if folder.exists():
        _make_bundle(stage1, folder, arch, trained, options)
    elif key in _BUNDLES:
        files, after = _BUNDLES[key]
        write_tree(folder, files)
        torch.set_rng_state(after)  # the same random numbers follow
    else:
        _make_bundle(stage1, folder, arch, trained, options)
        _BUNDLES[key] = tree(folder), torch.get_rng_state()
    return folder


_BUNDLES: dict[tuple[object, ...], tuple[dict[str, bytes], torch.Tensor]] = {}


def _make_bundle(
    stage1: pathlib.Path,
    folder: pathlib.Path,
    arch: str,
    trained: bool,
    options: dict[str, object],
) -> None:
    provider = load_stage1(stage1)
    torch.manual_seed(1)
    model = GFormer(
        GFormerConfig(
            arch=arch, width=16, heads=4, embed=4, gaussians=8, gated_channels=4, **options
        ),
        len(provider.targets.basis.elements),
        provider.targets.irreps(),
        provider.node_irreps,
        provider.edge_irreps,
        provider.cutoff,
    ).to(provider.dtype)
    if trained:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.1)
    save_bundle(
        folder,
        Bundle(
            model, provider.targets, identify(provider), provider.generation, dtype=provider.dtype
        ),
    )


@pytest.mark.parametrize(
    "name",
    ["graphene_small_f64", "graphene_e3nn044_f64", "graphene_e3nn06_f64", "bismuthene_soc_f64"],
)
def test_golden_predictions(name: str) -> None:
    """Made by the official code on its own stack: 1e-10 relative in float64."""
    base = golden(name)
    model = deeph_gformer.load(stage1=base / "model")
    for folder in find_structures(base / "structures"):
        made = model.predict(folder, edges="overlaps", hermitian=False).hamiltonian
        truth = read_matrix(
            base / "predictions" / folder.name,
            "prediction",
            read_folder(folder),
            model.targets.basis.spinful,
        )
        assert np.array_equal(made.keys, truth.keys)
        assert np.abs(made.values - truth.values).max() < 1e-10 * np.abs(truth.values).max()


def test_golden_default_network_in_single_precision() -> None:
    base = golden("graphene_default_f32")
    model = deeph_gformer.load(stage1=base / "model")
    folder = find_structures(base / "structures")[0]
    made = model.predict(folder, edges="overlaps", hermitian=False).hamiltonian
    truth = read_matrix(base / "predictions" / folder.name, "prediction", read_folder(folder))
    assert made.values.dtype == np.float32
    assert np.abs(made.values - truth.values).max() < 2e-5 * np.abs(truth.values).max()


@pytest.mark.parametrize("spinful", [False, True])
def test_correction_is_the_mean_over_what_the_blocks_have(
    make_folder: Folder, tmp_path: pathlib.Path, spinful: bool
) -> None:
    """S has four orbitals and Mo nine: vectors of pairs with S have places that are no elements."""
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=spinful)
    model = deeph_gformer.load(make_bundle(stage1, tmp_path / "b", trained=True), stage1=stage1)
    folder = make_folder(spinful=spinful)
    made = model.predict(folder)
    change = np.abs(made.hamiltonian.values - made.stage1.values)
    assert made.correction == pytest.approx(change.mean(), rel=1e-10)
    assert made.correction > 1e-4
    first, both = hermitian_products(model, model.read(folder).graph)
    assert abs(float((both - first).abs().mean()) / made.correction - 1) > 1e-2


@pytest.mark.parametrize("arch", ["paper", "equivariant"])
def test_untrained_gformer_returns_stage_1_exactly(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, arch: str
) -> None:
    model = deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b", arch), stage1=tiny_stage1)
    made = model.predict(make_folder())
    alone = deeph_gformer.load(stage1=tiny_stage1).predict(make_folder())
    assert (
        np.array_equal(made.hamiltonian.values, alone.hamiltonian.values) and made.correction == 0.0
    )
    assert np.abs(made.hamiltonian.values).max() > 0.01


def test_refined_h_has_time_reversal_where_the_training_data_had_it(
    make_folder: Folder, tmp_path: pathlib.Path
) -> None:
    stage1 = write_tiny_stage1(tmp_path / "s", spinful=True)
    bundle = make_bundle(stage1, tmp_path / "b", trained=True)
    folder = make_folder(spinful=True)
    free = deeph_gformer.load(bundle, stage1=stage1).predict(folder)
    model = deeph_gformer.load(bundle, stage1=stage1)
    assert model.bundle is not None
    model.bundle.training["time_reversal"] = True
    made, raw = model.predict(folder), model.predict(folder, hermitian=False)

    def problem(h: BlockMatrix) -> BlochProblem:
        return BlochProblem(made.structure, h, read_matrix(folder, "overlap", made.structure))

    assert broken_reversal(problem(free.hamiltonian)) > 1e-3  # what the network gives
    assert broken_reversal(problem(made.hamiltonian)) < 1e-12
    wanted = time_reversal_part(problem(free.hamiltonian)).h
    assert np.allclose(made.hamiltonian.values, wanted.values, atol=1e-12)
    levels = np.linalg.eigvalsh(problem(made.hamiltonian).at((0.0, 0.0, 0.0))[0])
    assert np.abs(levels[::2] - levels[1::2]).max() < 1e-9  # Kramers
    assert np.array_equal(made.stage1.values, free.stage1.values)  # stage 1 stays DeepH-E3's
    assert broken_reversal(problem(raw.hamiltonian)) > 1e-3  # hermitian=False: what they give


def test_output_is_hermitian_and_the_raw_one_is_not(
    make_folder: Folder, tiny_stage1: pathlib.Path
) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    h = model.predict(make_folder()).hamiltonian
    raw = model.predict(make_folder(), hermitian=False).hamiltonian
    assert np.abs(h.conjugate_transpose().values - h.values).max() < 1e-14
    assert np.abs(raw.conjugate_transpose().values - raw.values).max() > 1e-6
    assert np.allclose(raw.hermitian().values, h.values, atol=1e-14)


@pytest.mark.parametrize("spinful", [False, True])
def test_refined_hamiltonian_turns_with_the_crystal(
    make_folder: Folder, tmp_path: pathlib.Path, spinful: bool
) -> None:
    """Direct sum under a random rotation, both stages, equivariant arch with random weights."""
    stage1 = write_tiny_stage1(tmp_path / "s1", spinful=spinful)
    model = deeph_gformer.load(make_bundle(stage1, tmp_path / "b", trained=True), stage1=stage1)
    graph = model.read(make_folder(spinful=spinful)).graph
    rotation = random_rotation(torch.Generator().manual_seed(0))
    irreps = model.targets.irreps()
    blocks = wigner_blocks(rotation, max(ir.l for _, ir in irreps))
    for still, moved in zip(
        whole_sums(model, graph), whole_sums(model, rotate_graph(graph, rotation))
    ):
        assert (rotate_flat(still, irreps, blocks) - moved).abs().max() < 1e-10 * still.abs().max()
    first, both = whole_sums(model, graph)
    assert (first - both).abs().max() > 1e-3


def test_frames_reduce_the_equivariance_error(
    make_folder: Folder, tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = deeph_gformer.load(
        make_bundle(tiny_stage1, tmp_path / "b", "paper", trained=True), stage1=tiny_stage1
    )
    graph = model.read(make_folder()).graph
    irreps = model.bundle.model.irreps_out
    rotation = random_rotation(torch.Generator().manual_seed(9))
    blocks = wigner_blocks(rotation, 4)
    errors = []
    for frames in (1, 16):
        still = whole_sums(model, graph, frames)[1]
        moved = whole_sums(model, rotate_graph(graph, rotation), frames, seed=1)[1]
        errors.append(float((rotate_flat(still, irreps, blocks) - moved).abs().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_another_stage_1_is_refused(tiny_stage1: pathlib.Path, tmp_path: pathlib.Path) -> None:
    bundle = make_bundle(tiny_stage1, tmp_path / "b")
    with pytest.raises(ModelError, match="its parameters differ"):
        deeph_gformer.load(bundle, stage1=write_tiny_stage1(tmp_path / "other", seed=7))
    with pytest.raises(ModelError, match="node irreps"):
        deeph_gformer.load(
            bundle, stage1=write_tiny_stage1(tmp_path / "wider", irreps="6x0e+3x1o+2x2e+1x3o")
        )
    with pytest.raises(ModelError, match="needs it; say where that DeepH-E3 model folder is"):
        deeph_gformer.load(bundle)
    with pytest.raises(ConfigError, match="neither a stage 1 nor"):
        deeph_gformer.load()
    assert isinstance(
        deeph_gformer.load(bundle, stage1=tiny_stage1, dtype="float32"), HamiltonianModel
    )


def test_spin_of_the_folder_and_the_model(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    with pytest.raises(DataError, match="isspinful = True, the model predicts spinless"):
        model.predict(make_folder(spinful=True))
    folder = make_folder("bare")
    (folder / "info.json").unlink()
    assert model.predict(folder).structure.spinful is False


def test_a_bundle_that_does_harm_is_said_when_it_is_loaded(
    tiny_stage1: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own validation, in the kind of error that it was judged by; from the shell, too."""
    words = "worse: the refined H is WORSE than stage 1 alone on its own validation structures: 2.0"
    for name, refined in (("worse", 2.0), ("better", 0.5), ("foreign", "2")):
        path = make_bundle(tiny_stage1, tmp_path / name)
        bundle = load_bundle(path)
        errors = {
            "gauge_free_stage1_mae_meV": 1.0,
            "gauge_free_refined_mae_meV": refined,
            "raw_stage1_mae_meV": 10.0,
            "raw_refined_mae_meV": 5.0,
        }
        save_bundle(path, dataclasses.replace(bundle, training={"validation": errors}))
        assert not capsys.readouterr().err
        deeph_gformer.load(path, stage1=tiny_stage1)
        said = capsys.readouterr().err
        assert words in said if name == "worse" else not said
    common = ["--stage1", str(tiny_stage1), "--model", str(tmp_path / "worse")]
    assert main(["refine", "--preprocessed", str(tmp_path / "none"), *common]) == 2
    assert words in capsys.readouterr().err


def test_what_is_no_bundle_names_the_one_inside(
    tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = make_bundle(tiny_stage1, tmp_path / "run" / "bundle")
    with pytest.raises(ModelError, match=f"run/bundle.json: file not found.*; {path} has them"):
        deeph_gformer.load(tmp_path / "run", stage1=tiny_stage1)
    with pytest.raises(ModelError, match="none/bundle.json: file not found; .*safetensors$"):
        deeph_gformer.load(tmp_path / "none", stage1=tiny_stage1)


def test_refine_of_what_is_in_memory_says_what_to_use(tiny_stage1: pathlib.Path) -> None:
    from ase.build import bulk

    atoms, model = bulk("C"), deeph_gformer.load(stage1=tiny_stage1)
    for words in ((atoms,), (atoms, model), ([atoms], model), (model, atoms)):
        with pytest.raises(ConfigError, match=r"use model.predict\(atoms\)"):
            deeph_gformer.refine(*words)
    with pytest.raises(ConfigError, match=r"takes a model, not NoneType: deeph_gformer.load\("):
        deeph_gformer.refine("folder")


def test_predict_from_structure_and_keys(make_folder: Folder, tiny_stage1: pathlib.Path) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    folder = make_folder()
    structure, keys = read_folder(folder), read_matrix(folder, "overlap").keys
    assert np.array_equal(
        model.predict(structure, keys=keys).hamiltonian.values,
        model.predict(folder).hamiltonian.values,
    )
    with pytest.raises(ConfigError, match="comes without S"):
        model.predict(structure)


def test_objects_print_themselves(tiny_stage1: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = repr(deeph_gformer.load(make_bundle(tiny_stage1, tmp_path / "b"), stage1=tiny_stage1))
    assert (
        "EmbeddedStage1" in text
        and "GFormer arch equivariant" in text
        and "e3nn generation >=0.5" in text
    )


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_bad_device(tiny_stage1: pathlib.Path, device: str) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ConfigError, match="device"):
        deeph_gformer.load(stage1=tiny_stage1, device=device)
