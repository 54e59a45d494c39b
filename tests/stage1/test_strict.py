"""Model folders: settings and tensors that would be taken with other numbers are refused by
name."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deeph_gformer.errors import ModelError
from deeph_gformer.stage1 import load_stage1

from ..conftest import write_tiny_stage1

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_tiny_stage1(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def folder(good: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(good, tmp_path / "m")
    return tmp_path / "m"


def edit(folder: pathlib.Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "best_model.pkl"
    table = torch.load(path, weights_only=True)
    change(table["state_dict"])
    torch.save(table, path)


def convert(value: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "sparse":
        return value.to_sparse()
    if kind == "csr":
        return value.reshape(1, -1).to_sparse_csr()
    if kind == "meta":
        return value.to("meta")
    if kind == "quantised":
        return torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)
    if kind == "expanded":
        return torch.zeros(1, dtype=value.dtype).expand(value.shape)
    return value.to(getattr(torch, kind))


KINDS = {
    "bool": "of type bool",
    "int64": "of type int64",
    "int8": "of type int8",
    "float16": "of type float16",
    "bfloat16": "of type bfloat16",
    "complex64": "of type complex64",
    "float8_e4m3fn": "of type float8_e4m3fn",
    "float8_e5m2": "of type float8_e5m2",
    "sparse": "of layout sparse_coo",
    "csr": "of layout sparse_csr",
    "meta": "on the meta device",
    "quantised": "quantised",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tensors_of_another_kind_are_named(folder: pathlib.Path, kind: str) -> None:
    edit(folder, lambda t: t.update({"lin_edge.weight": convert(t["lin_edge.weight"], kind)}))
    # some of these torch itself refuses to load without running code
    words = f"'lin_edge.weight' is {KINDS[kind]}|damaged|no tensors to be unpickled"
    with pytest.raises(ModelError, match=words) as caught:
        load_stage1(folder)
    assert "best_model.pkl" in str(caught.value)


def test_a_tensor_larger_than_its_storage(folder: pathlib.Path) -> None:
    edit(folder, lambda t: t.update({"x": torch.zeros(1).expand(10**6, 10**6)}))
    with pytest.raises(ModelError, match="'x' is of shape .*with fewer values"):
        load_stage1(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("use_sbf=False", "use_sbf=True", "use_sbf"),
        ("r_max=5.0", "r_max=5.5", "basis.offsets"),
        ("r_max=5.0", "r_max=True", "r_max is True"),
        ("r_max=5.0", "r_max='5'", "r_max is '5'"),
        ("r_max=5.0", "r_max=-5.0", "allowed is a length"),
        ("num_block=2", "num_block=1000000000", "allowed is an integer from 1 to 100"),
        ("num_block=2", "num_block=2.0", "num_block is 2.0"),
        ("num_block=2", "num_block=3", "does not fit src/build_model.py"),
        ("num_block=2", "num_block=1", "does not fit src/build_model.py"),
        ("no_parity=False", "no_parity=True", "odd irreps|differ"),
        ("no_parity=False", "no_parity=0", "no_parity is 0"),
        ("use_sc=True", "use_sc=False", "use_sc = False is not supported"),
        ("use_sc=True", "use_sc=1", "use_sc is 1"),
        ("use_sc=True", "use_sc={[]: 1}", "no literal"),
        ("use_sc=True", "use_sc=1+'a'", "no literal"),
        ("use_sc=True", "use_sc=__import__('os').system('true')", "no literal"),
        ("use_sc=True", "use_sc=True, num_basis=64", "basis.offsets|does not fit"),
        ("use_sc=True", "use_sc=True, num_basis=10**9", "no literal"),
        ("irreps_embed_node='4x0e'", "irreps_embed_node='4000000x0e'", "allowed is irreps"),
        ("irreps_embed_node='4x0e'", "irreps_embed_node='8x0e'", "does not fit"),
        ("irreps_embed_node='4x0e'", "irreps_embed_node=['4x0e']", "allowed is irreps"),
        ("irreps_embed_node='4x0e'", "irreps_embed_node='4x0o'", "must be of 0e only"),
        ("1x0e+1x1o+1x2e", "1x0e+1x2e+1x1o", "buffer|does not fit"),
        ("4x0e+3x1o+2x2e+1x3o", "4x0e+3x1o+2x3o+1x2e", "buffer|does not fit"),
    ],
)
def test_settings_that_contradict_the_weights(
    folder: pathlib.Path, old: str, new: str, words: str
) -> None:
    path = folder / "src" / "build_model.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=words):
        load_stage1(folder)


BUFFERS = (
    "basis.offsets",
    "basis.width",
    "distance_expansion.offsets",
    "output_mask",
    "_w3j_1_1_2",
)


@pytest.mark.parametrize("name", BUFFERS)
def test_changed_buffers_are_named(folder: pathlib.Path, name: str) -> None:
    def change(tensors: Tensors) -> None:
        full = next(n for n in tensors if n.endswith(name) and tensors[n].numel())
        tensors[full] = tensors[full] * 0.99

    edit(folder, change)
    with pytest.raises(ModelError, match=f"buffer '.*{re.escape(name)}' is not that|e3nn"):
        load_stage1(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spinful", "false"),
        ("spinful", 0),
        ("index_to_Z", [16.0, 42]),
        ("index_to_Z", [16, 16]),
        ("index_to_Z", [True, 42]),
        ("index_to_Z", "16"),
        ("orbital_types", [[0, 1]]),
        ("orbital_types", [[0, 1], ["0"]]),
        ("orbital_types", [[0, 1], [-1]]),
        ("orbital_types", {}),
    ],
)
def test_types_of_the_data_set_are_checked(folder: pathlib.Path, key: str, value: Any) -> None:
    path = folder / "src" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=f"dataset_info.json: {key} is "):
        load_stage1(folder)


@pytest.mark.parametrize("key", ["epoch", "val_loss"])
@pytest.mark.parametrize("value", ["x", [1], None, {}])
def test_records_are_numbers(folder: pathlib.Path, key: str, value: Any) -> None:
    table = torch.load(folder / "best_model.pkl", weights_only=True)
    torch.save(table | {key: value}, folder / "best_model.pkl")
    with pytest.raises(ModelError, match=f"{key} is .*, no number"):
        load_stage1(folder)


def test_a_zip_bomb_is_not_unpacked(folder: pathlib.Path) -> None:
    with zipfile.ZipFile(folder / "best_model.pkl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**28))
    assert os.path.getsize(folder / "best_model.pkl") < 2**20
    with pytest.raises(ModelError, match="announces 256 MiB"):
        load_stage1(folder)


def test_a_pipe_is_no_checkpoint(folder: pathlib.Path) -> None:
    (folder / "best_model.pkl").unlink()
    os.mkfifo(folder / "best_model.pkl")
    with pytest.raises(ModelError, match="is a device, pipe or socket"):
        load_stage1(folder)


def test_a_flipped_bit_is_no_other_weight(folder: pathlib.Path) -> None:
    """torch.load does not look at the checksums that it writes."""
    path = folder / "best_model.pkl"
    weights = torch.load(path, weights_only=True)["state_dict"]
    value = next(v for n, v in weights.items() if n.endswith("weight") and v.numel() > 10)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(value.numpy().tobytes()) + 7] ^= 1
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(ModelError, match="best_model.pkl: damaged .*does not fit its checksum"):
        load_stage1(folder)


def test_a_part_that_is_there_twice(folder: pathlib.Path) -> None:
    path = folder / "best_model.pkl"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        name = next(n for n in archive.namelist() if n.endswith("data/0"))
        archive.writestr(name, archive.read(name)[::-1])
    with pytest.raises(ModelError, match="data/0' is there twice"):
        load_stage1(folder)
