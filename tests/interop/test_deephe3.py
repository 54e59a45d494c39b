"""``eval`` against the files that DeepH-E3's own script wrote."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from deeph_gformer.errors import ConfigError, ModelError
from deeph_gformer.inference.refine import refine
from deeph_gformer.interop.deephe3 import evaluate_ini
from deeph_gformer.interop.deephe3_ini import read_eval_ini
from deeph_gformer.pipeline import load
from deeph_gformer.stage1.bundle import read_model_folder
from deeph_gformer.stage1.embedded.network import DeepHE3Net
from deeph_gformer.training.stage1_folder import save_stage1

from ..test_pipeline import make_bundle
from .conftest import golden

INI = """; made from DeepH-E3's default, comments and all
[basic]
device = cpu      ; cpu or cuda
dtype = {dtype}
trained_model_dir = {model}
output_dir = {output}
target = hamiltonian
inference = {inference}
test_only = {test_only}

[data]
# a comment of the other kind
graph_dir =
DFT_data_dir =
processed_data_dir = {processed}
save_graph_dir = {output}/graph
target_data = hamiltonian
dataset_name = anything
get_overlap = True
"""


def _ini(
    path: pathlib.Path, output: pathlib.Path, root: pathlib.Path, **changes: str
) -> pathlib.Path:
    values = {
        "dtype": "double",
        "model": str(root / "model"),
        "output": str(output),
        "inference": "True",
        "test_only": "False",
        "processed": str(root / "structures"),
        **changes,
    }
    path.write_text(INI.format(**values))
    return path


def _same_blocks(mine: pathlib.Path, official: pathlib.Path, tolerance: float) -> int:
    with h5py.File(mine) as a, h5py.File(official) as b:
        assert set(a) == set(b)  # keys bit for bit
        for key in b:
            assert a[key].shape == b[key].shape and a[key].dtype == b[key].dtype
            np.testing.assert_allclose(a[key][()], b[key][()], rtol=0, atol=tolerance)
        return len(b)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("graphene_small_f64", 1e-10), ("bismuthene_soc_f64", 1e-10)]
)
def test_inference_equals_official(name: str, tolerance: float, tmp_path: pathlib.Path) -> None:
    root = golden(name)
    out = tmp_path / "out"
    for folder in (root / "predictions").iterdir():
        (out / folder.name).mkdir(parents=True)
        (out / folder.name / "info.json").write_text('{"isspinful": null, "mine": 3}')
        (out / folder.name / ".info.json.0.tmp").touch()  # of a process that was killed
    result = evaluate_ini(_ini(tmp_path / "eval.ini", out, root))
    assert {r["name"] for r in result["structures"]} == {
        p.name for p in (root / "predictions").iterdir()
    }
    for folder in (root / "predictions").iterdir():
        assert (
            _same_blocks(
                out / folder.name / "hamiltonians_pred.h5",
                folder / "hamiltonians_pred.h5",
                tolerance,
            )
            > 100
        )
        info = json.loads((out / folder.name / "info.json").read_text())
        assert (
            not (out / folder.name / ".info.json.0.tmp").exists()
            and info["mine"] == 3
            and info["isspinful"] == json.loads((folder / "info.json").read_text())["isspinful"]
        )
    assert not (out / "test_result.h5").exists() and result["test_result"] is None


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root, place = golden("graphene_small_f64"), tmp_path_factory.mktemp("test")
    one = place / "in" / "graphene_3x3_0000"
    one.parent.mkdir()
    one.symlink_to((root / "structures" / one.name).resolve())
    evaluate_ini(
        _ini(
            place / "eval.ini",
            place / "out",
            root,
            inference="False",
            test_only="True",
            processed=str(one.parent),
        )
    )
    return place / "out"


def test_test_result_equals_official(tested: pathlib.Path) -> None:
    root = golden("graphene_small_f64") / "test_result"
    with h5py.File(tested / "test_result.h5") as a, h5py.File(root / "test_result.h5") as b:
        assert set(a) == set(b)
        for name in b:
            mine, other = a[name], b[name]
            assert set(mine) == set(other) and set(mine["structure"]) == set(other["structure"])
            order = [np.lexsort(g["edge_key"][()].T) for g in (mine, other)]
            for key in ("edge_key", "edge_attr", "label", "mask", "H_pred"):
                assert mine[key].dtype == other[key].dtype
                x, y = (
                    np.asarray(g[key][()][o], dtype=float) for g, o in zip((mine, other), order)
                )
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-10, err_msg=key)
            x, y = (g["edge_index"][()][:, o] for g, o in zip((mine, other), order))
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(mine["node_attr"][()], other["node_attr"][()])
            for key in ("element", "lat", "sites"):
                np.testing.assert_allclose(
                    mine["structure"][key][()], other["structure"][key][()], rtol=0, atol=1e-12
                )
    for file in ("dataset_info.json", "target_blocks.json"):
        assert json.loads((tested / "src" / file).read_text()) == json.loads(
            (root / "src" / file).read_text()
        )
    assert (tested / "src" / "train.ini").read_text() == (root / "src" / "train.ini").read_text()


def test_test_only_writes_no_prediction(tested: pathlib.Path) -> None:
    assert sorted(p.name for p in tested.iterdir()) == ["src", "test_result.h5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("inference = True", "inferrence = True"),
            ["line 8", "inferrence", "did you mean inference"],
        ),
        (
            ("graph_dir =\n", "graph_dir = /x/HGraph-a-rFromDFT-edge=Aij.pkl\n"),
            ["line 13", "pickle", "processed_data_dir"],
        ),
        (("DFT_data_dir =\n", "DFT_data_dir = /dft\n"), ["line 14", "DeepH-pack", "DeepH-dock"]),
        (
            ("trained_model_dir = M", "trained_model_dir ="),
            ["line 5", "trained_model_dir is empty"],
        ),
        (("processed_data_dir = P\n", ""), ["line 11", "processed_data_dir is missing in [data]"]),
        (("dtype = double", "dtype = half"), ["line 4", "float or double"]),
        (("test_only = False", "test_only = True"), ["line 9", "inference = False"]),
        (("[data]", "[date]"), ["line 11", "[date]", "[data]"]),
        (("test_only = False", "test_only = maybe"), ["line 9", "True or False"]),
        (("get_overlap = True", "device = cpu"), ["line 19", "belongs into [basic]"]),
        (("target = hamiltonian", "target = density_matrix"), ["line 7", "only hamiltonian"]),
        (("device = cpu ", "device cpu "), ["not an ini file"]),
        (("output_dir = O", "output_dir = 100%"), ["line 6", "output_dir holds a %", "%%"]),
        (("output_dir = O", "output_dir = %(nowhere)s/x"), ["line 6", "output_dir holds a %"]),
        (
            ("processed_data_dir = P", "processed_data_dir = %"),
            ["line 15", "processed_data_dir holds a %"],
        ),
        (
            ("test_only = False", "  test_only = False"),
            ["line 8", "inference goes on in the next line"],
        ),
        (("processed_data_dir = P", "processed_data_dir = P\0"), ["NUL bytes"]),
    ],
)
def test_bad_ini_is_named_with_its_line(
    change: tuple[str, str], words: list[str], tmp_path: pathlib.Path
) -> None:
    text = INI.format(
        dtype="double", model="M", output="O", inference="True", test_only="False", processed="P"
    )
    assert change[0] in text
    (tmp_path / "eval.ini").write_text(text.replace(*change))
    with pytest.raises(ConfigError) as error:
        read_eval_ini(tmp_path / "eval.ini")
    assert "eval.ini" in str(error.value) and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_defaults_and_cached_graph_note(tmp_path: pathlib.Path) -> None:
    (tmp_path / "HGraph-a-rFromDFT-edge=Aij.pkl").touch()
    (tmp_path / "eval.ini").write_text(
        f"[basic]\ntrained_model_dir=m\noutput_dir=o\n[data]\nprocessed_data_dir=p\nsave_graph_dir={tmp_path}\n"
    )
    (tmp_path / "eval.ini").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "eval.ini").read_bytes()
    )  # a mark that Windows editors leave
    ini = read_eval_ini(tmp_path / "eval.ini")
    assert (ini.device, ini.dtype, ini.inference, ini.test_only) == ("cpu", "float32", True, False)
    assert "not read" in ini.notes[0]


_ANALYSE = """
import sys, types
sys.path[:0] = sys.argv[1:3]
from deeph_gformer.stage1.official_import import scatter
sys.modules["torch_scatter"] = types.SimpleNamespace(scatter=scatter)
try:
    import pathos.multiprocessing
except ImportError:
    sys.modules["pathos"] = types.ModuleType("pathos")
    sys.modules["pathos.multiprocessing"] = types.SimpleNamespace(ProcessingPool=None)
from deephe3 import testResultAnalyzer
for folder in sys.argv[3:5]:
    analyser = testResultAnalyzer(folder, sys.argv[5])
    analyser.view_structures()
    analyser.error_analysis()
    assert analyser.get_hamiltonian("graphene_3x3_0000") == 0
"""


@pytest.mark.official
def test_official_analyser_reads_it(tested: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = os.environ.get("DEEPHE3_ROOT")
    if not root:
        pytest.skip("DEEPHE3_ROOT names no clone of DeepH-E3")
    folders = [str(tested), str(golden("graphene_small_f64") / "test_result")]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _ANALYSE,
            str(pathlib.Path(__file__).resolve().parents[2]),
            root,
            *folders,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = [
        line.split()[-1]
        for line in done.stdout.splitlines()
        if line.startswith(("MSE is", "MAE is"))
    ]
    assert len(said) == 4
    assert [float(v) for v in said[:2]] == pytest.approx([float(v) for v in said[2:]], rel=1e-12)


def test_with_a_bundle_it_is_refine(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path
) -> None:
    """eval --model writes what refine writes; --no-hermitian keeps the raw output.

    Without --model it is stage 1 alone.
    """
    source = make_folder("made", hamiltonian=False)
    bundle = make_bundle(tiny_stage1, tmp_path / "bundle", trained=True)
    refine(
        source.parent,
        load(bundle, tiny_stage1, dtype="float64"),
        tmp_path / "refined",
        edges="overlaps",
    )
    found = {}
    for name, options in {
        "both": {"bundle": bundle},
        "raw": {"bundle": bundle, "hermitian": False},
        "one": {},
    }.items():
        evaluate_ini(
            _ini(
                tmp_path / f"{name}.ini",
                tmp_path / name,
                tmp_path,
                model=str(tiny_stage1),
                processed=str(source.parent),
            ),
            **options,
        )
        with h5py.File(tmp_path / name / "made" / "hamiltonians_pred.h5") as f:
            found[name] = {key: f[key][()] for key in f}
        assert json.loads((tmp_path / name / "made" / "info.json").read_text())["deeph_gformer"][
            "gformer"
        ] == ("bundle" if options else None)
    assert (
        _same_blocks(
            tmp_path / "both" / "made" / "hamiltonians_pred.h5",
            tmp_path / "refined" / "made" / "hamiltonians_pred.h5",
            1e-14,
        )
        > 10
    )
    home = "[0, 0, 0, 1, 1]"
    assert (
        np.abs(found["both"][home] - found["both"][home].T).max()
        < 1e-14
        < np.abs(found["raw"][home] - found["raw"][home].T).max()
    )
    np.testing.assert_allclose(
        found["both"][home], (found["raw"][home] + found["raw"][home].T) / 2, atol=1e-14
    )
    assert np.abs(found["raw"][home] - found["one"][home]).max() > 1e-6


def test_several_models_are_merged(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path
) -> None:
    """Two models of half the blocks each: every element comes from the model that predicts it, and
    the test result joins their channels."""
    import torch

    whole = read_model_folder(tiny_stage1)
    half = len(whole.targets.blocks) // 2
    torch.manual_seed(0)
    for name, part in (("a", slice(None, half)), ("b", slice(half, None))):
        targets = dataclasses.replace(whole.targets, blocks=whole.targets.blocks[part])
        out = targets.irreps()
        config = dataclasses.replace(
            whole.config,
            irreps_post_edge=str(out.sort().irreps.simplify()),
            irreps_out_edge=str(out),
        )
        save_stage1(
            tmp_path / "models" / name,
            DeepHE3Net(config, ">=0.5").double(),
            config,
            targets,
            whole.train_ini,
            0,
            1.0,
            None,
        )
    source = make_folder("made")
    results, blocks = {}, {}
    for name, folder in (("both", "models"), ("a", "models/a"), ("b", "models/b")):
        ini = _ini(
            tmp_path / f"{name}.ini",
            tmp_path / name,
            tmp_path,
            inference="False",
            processed=str(source.parent),
            model=str(tmp_path / folder),
        )
        evaluate_ini(ini, fill_missing=None if name == "both" else 0.0)
        with h5py.File(tmp_path / name / "test_result.h5") as f:
            results[name] = f["made"]["H_pred"][()]
        with h5py.File(tmp_path / name / "made" / "hamiltonians_pred.h5") as f:
            blocks[name] = {key: f[key][()] for key in f}
    np.testing.assert_allclose(
        results["both"], np.concatenate([results["a"], results["b"]], axis=1), atol=1e-12
    )
    assert (
        json.loads((tmp_path / "both" / "src" / "target_blocks.json").read_text())
        == whole.targets.to_json()
    )
    assert len(blocks["both"]) > 10
    for key, block in blocks["both"].items():
        np.testing.assert_allclose(block, blocks["a"][key] + blocks["b"][key], atol=1e-12)
    with pytest.raises(ModelError, match="not predicted"):
        evaluate_ini(
            _ini(
                tmp_path / "c.ini",
                tmp_path / "c",
                tmp_path,
                processed=str(source.parent),
                model=str(tmp_path / "models" / "a"),
            )
        )


def test_options_and_folders_that_have_no_effect_are_named(
    tmp_path: pathlib.Path, make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path
) -> None:
    make_folder("whole", hamiltonian=False)
    make_folder("bare", hamiltonian=False, overlap=False)
    ini = _ini(
        tmp_path / "e.ini",
        tmp_path / "out",
        tmp_path,
        model=str(tiny_stage1),
        processed=str(tmp_path / "data"),
    )
    said: list[str] = []
    result = evaluate_ini(ini, echo=said.append)
    assert result["skipped"] == ["bare"] and [r["name"] for r in result["structures"]] == ["whole"]
    assert "1 skipped: bare (no overlaps.h5)" in said
    for frames in (0, 3):
        with pytest.raises(ConfigError, match=f"--frames {frames}: .*--model BUNDLE"):
            evaluate_ini(ini, frames=frames)
    ini.write_text(ini.read_text().replace("device = cpu", "device = tpu9"))
    with pytest.raises(ConfigError, match="e.ini, line 3: device 'tpu9' is unknown; choose cpu"):
        evaluate_ini(ini)
