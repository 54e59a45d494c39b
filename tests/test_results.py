"""Results: dataclasses whose fields are the keys of ``--json``, declared by their verbs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pathlib
import pkgutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import deeph_gformer
from deeph_gformer import bands, results
from deeph_gformer.cli import main, verbs
from deeph_gformer.commands.options import Verb
from deeph_gformer.commands.shared import JsonOption, write_result
from deeph_gformer.config import field_docs
from deeph_gformer.errors import DataError
from deeph_gformer.results import Comparison, Conversion, Evaluation, FermiResult, TopologyResult

from .conftest import EXAMPLES

KINDS = [getattr(results, name) for name in results.__all__ if name != "Result"]


def leaves(every: list[Verb] | tuple[Verb, ...]) -> Iterator[Verb]:
    for verb in every:
        yield from leaves(verb.actions) if verb.actions else [verb]


def test_every_verb_with_json_declares_what_it_finds() -> None:
    declared = set()
    for verb in leaves(verbs()):
        assert bool(verb.results) == issubclass(verb.options, JsonOption), verb.name
        declared |= set(verb.results)
    assert declared == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_key_is_described(kind: type) -> None:
    docs: dict[str, str] = {}
    for owner in kind.__mro__:
        if dataclasses.is_dataclass(owner):
            docs = {**field_docs(owner), **docs}
    assert {f.name for f in dataclasses.fields(kind)} <= {k for k, v in docs.items() if v}
    assert kind.__doc__ and kind.__doc__.startswith("Of ``")


def test_a_result_is_its_json() -> None:
    table = {"structure": "x", "hamiltonian": "h", "kind": "z2", "z2": 1, "z2_weak": None}
    found = TopologyResult.of(table)
    assert found.to_json() == table == dict(found) and found == table
    assert found.z2 == found["z2"] == 1 and "chern" not in found and found.chern is None
    with pytest.raises(KeyError):
        found["chern"]
    assert TopologyResult.of(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(DataError, match="a TopologyResult has no key 'chernn'; its keys are str"):
        TopologyResult.of(table, {"chernn": 1})
    with pytest.raises(DataError, match="needs the key 'kind'$"):
        TopologyResult.of({"structure": "x", "hamiltonian": "h"})
    plain = TopologyResult.of(table, {"curvature_A2": np.eye(2), "kind": pathlib.Path("a/b")})
    assert plain.to_json()["curvature_A2"] == [[1.0, 0.0], [0.0, 1.0]]
    assert plain.to_json()["kind"] == "a/b"
    # keys of other packages' metrics
    base = {"structure": "x", "reference": "a", "other": "b", "hamiltonian": {}}
    other = Comparison.of(base, {"mine_meV": 1.0})
    assert other["mine_meV"] == 1.0 and other.to_json() == {**base, "mine_meV": 1.0}
    text = repr(Conversion([{"source": "a" * 500}] * 9))
    assert text == "Conversion(structures=<9 entries>)"


def test_what_commands_write_is_read_again(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "x.json", str(EXAMPLES / "structures" / "0030")
    assert main(["fermi", folder, "--mesh", "2x2x1", "--electrons", "72", "--json", str(file)]) == 0
    found = FermiResult.of(json.loads(file.read_text()))
    assert found.electrons == 72 and found.mesh == [2, 2, 1] and len(repr(found)) < 250
    # every verb through one door, which knows what the verb may find
    verb = next(v for v in verbs() if v.name == "gap")
    with pytest.raises(TypeError, match="gap finds a FermiResult"):
        write_result(JsonOption(), verb, found)


def test_to_json_means_the_same_everywhere() -> None:
    """Plain values of everything that tells what it found; files are written by ``write_json``."""
    found = 0
    for module in pkgutil.walk_packages(deeph_gformer.__path__, "deeph_gformer."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if not isinstance(kind, type) or kind.__module__ != module.name:
                continue
            assert not hasattr(kind, "to_dict") and not hasattr(kind, "as_dict"), kind
            if hasattr(kind, "to_json"):
                assert list(inspect.signature(kind.to_json).parameters) == ["self"], kind
                found += 1
    assert found > 40
    problem = bands.load(EXAMPLES / "structures" / "0030")
    level = bands.fermi_level(problem, electrons=72, mesh="2x2x1")
    path = bands.band_structure(problem, "GM", 5, fermi=level)
    dos = bands.density_of_states(problem, "2x2x1")
    for one in (level, path, dos):
        assert json.loads(json.dumps(one.to_json())) == one.to_json()
    assert level.to_json()["fermi_eV"] == level.energy_eV


def test_python_functions_return_them(
    make_folder: Callable[..., pathlib.Path], tiny_stage1: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = deeph_gformer.load(stage1=tiny_stage1)
    made = deeph_gformer.refine(make_folder(), model, tmp_path / "out")
    assert isinstance(made, results.Refinement) and made.structures[0]["name"] == "made"
    assert made["total"]["structures"] == made.to_json()["total"]["structures"] == 1
    from deeph_gformer.analysis.evaluate import evaluate

    judged = evaluate(model, make_folder().parent, rotations=0, invariance=False)
    assert isinstance(judged, Evaluation) and judged.equivariance is None
    assert "equivariance" not in judged and "\n" not in repr(judged) and len(repr(judged)) < 250
