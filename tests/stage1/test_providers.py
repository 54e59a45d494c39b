"""Loading, merging, conformance, saving, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pathlib
import pickle

import pytest
import torch

from deeph_gformer.algebra.orbitals import TargetBlocks, make_target_blocks
from deeph_gformer.algebra.wigner import Generation
from deeph_gformer.data.features import Stage1Features
from deeph_gformer.errors import ConfigError, GFormerError, ModelError
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.stage1.bundle import read_model_folder, write_model_folder
from deeph_gformer.stage1.conformance import check_provider, probe_graph
from deeph_gformer.stage1.embedded.checkpoint import (
    export_optimizer,
    import_optimizer,
    official_parameters,
    official_state,
)
from deeph_gformer.stage1.embedded.inference import InferenceEngine
from deeph_gformer.stage1.embedded.network import DeepHE3Net
from deeph_gformer.stage1.embedded.provider import EmbeddedStage1
from deeph_gformer.stage1.net_config import NetConfig

from .helpers import (
    GOLDEN,
    MOTE2,
    VARIANTS,
    config_for,
    needs_golden,
    random_graph,
    random_net,
    relative,
)


def save(
    path: pathlib.Path,
    config: NetConfig,
    targets: TargetBlocks,
    generation: Generation = "0.3",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **changes: torch.Tensor | None,
) -> DeepHE3Net:
    """A model folder with random parameters.

    ``changes`` replace or (None) remove entries of the state, dots written as double underscores.
    """
    net = random_net(config, generation, seed, dtype)
    state = official_state(net)
    for name, value in changes.items():
        if value is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = value
    write_model_folder(
        path, config, targets, {"state_dict": state, "epoch": 3, "val_loss": 0.5}, "[basic]\n"
    )
    return net


@pytest.mark.parametrize("generation", ["0.3", "0.4", ">=0.5"])
@pytest.mark.parametrize("variant", ["plain", "spin_orbit", "bessel", "lmax6"])
def test_round_trip_through_a_model_folder(
    variant: str, generation: Generation, tmp_path: pathlib.Path
) -> None:
    """Saved, read, generation detected from the buffers, same prediction."""
    config, targets = VARIANTS[variant]
    net = save(tmp_path, config, targets, generation)
    provider = load_stage1(tmp_path)
    assert provider.generation == generation
    graph = random_graph(targets.basis)
    with torch.no_grad():
        assert torch.equal(provider(graph).direct_sum, InferenceEngine(net)(graph)[0])
    assert f"e3nn generation {generation}" in repr(provider)


@pytest.mark.parametrize(
    "variant",
    [
        "plain",
        "two_elements",
        "spin_orbit",
        "spin_orbit_two_elements",
        "no_parity",
        "bessel",
        "both_parities",
    ],
)
def test_conformance_of_the_engine(variant: str, tmp_path: pathlib.Path) -> None:
    """Rotations, inversion, blocks in legacy order: 1e-10."""
    config, targets = VARIANTS[variant]
    save(tmp_path, config, targets)
    findings = check_provider(EmbeddedStage1(tmp_path), rotations=2)
    assert all(f.passed for f in findings)
    assert any("blocks in legacy order" in f.name for f in findings)
    assert any("inversion" in f.name for f in findings) == config_has_parity(config)


def config_has_parity(config: NetConfig) -> bool:
    """Whether the network knows parity."""
    return not config.no_parity


def test_conformance_finds_what_is_broken(tmp_path: pathlib.Path) -> None:
    """Three broken providers, three different findings."""
    config, targets = VARIANTS["plain"]
    save(tmp_path, config, targets)

    class Tilted(EmbeddedStage1):
        def forward(self, graph, features=True):  # type: ignore[no-untyped-def]
            out = super().forward(graph, features)
            return out._replace(direct_sum=out.direct_sum + 1e-6 * graph.edge_vector[:, :1])

    class Leaking(EmbeddedStage1):
        def forward(self, graph, features=True):  # type: ignore[no-untyped-def]
            out = super().forward(graph, features)
            return Stage1Features(out.node, out.edge, out.direct_sum + 0 * graph.edge_vector.sum())

    class Random(EmbeddedStage1):
        def forward(self, graph, features=True):  # type: ignore[no-untyped-def]
            out = super().forward(graph, features)
            return out._replace(direct_sum=out.direct_sum + torch.rand(()))

    for broken, word in (
        (Tilted, "under rotation"),
        (Leaking, "no gradients"),
        (Random, "determinism"),
    ):
        with pytest.raises(ModelError, match=word):
            check_provider(broken(tmp_path), rotations=1)
        assert any(
            not f.passed for f in check_provider(broken(tmp_path), rotations=1, strict=False)
        )


def _split() -> tuple[TargetBlocks, TargetBlocks, TargetBlocks]:
    whole = make_target_blocks(MOTE2, "all")
    return whole, make_target_blocks(MOTE2, "diag"), make_target_blocks(MOTE2, "off-diag")


def test_models_are_merged(tmp_path: pathlib.Path) -> None:
    """Two models that share the blocks: the union is complete, each block from its model."""
    whole, diag, off = _split()
    save(tmp_path / "a", config_for(diag), diag, seed=1)
    save(tmp_path / "b", config_for(off, blocks=3), off, seed=2)
    merged = load_stage1(tmp_path)
    assert not merged.targets.missing()
    graph = random_graph(MOTE2)
    out = merged(graph)
    a, b = (load_stage1(tmp_path / n, fill_missing=0.0)(graph) for n in "ab")
    assert torch.equal(out.direct_sum, torch.cat([a.direct_sum, b.direct_sum], dim=1))
    assert len(out.node) == 2 and torch.equal(
        out.node[-1], torch.cat([a.node[-1], b.node[-1]], dim=1)
    )
    assert torch.equal(out.edge[0], torch.cat([a.edge[0], b.edge[1]], dim=1))
    assert all(f.passed for f in check_provider(merged, rotations=1))


def test_merged_spin_orbit_order(tmp_path: pathlib.Path) -> None:
    """Real parts of all models come first, then imaginary parts, as one model with all channels
    would give."""
    config, targets = VARIANTS["spin_orbit"]
    first, second = (
        dataclasses.replace(targets, blocks=part)
        for part in (targets.blocks[:2], targets.blocks[2:])
    )
    for name, part in (("a", first), ("b", second)):
        save(
            tmp_path / name,
            config_for(part, sh=3, mid="6x0e+4x1o+3x2e+2x3o", post_node=config.irreps_post_node),
            part,
        )
    merged = load_stage1(tmp_path)
    assert all(f.passed for f in check_provider(merged, rotations=1))
    graph = random_graph(targets.basis)
    blocks = merged.assembly()(merged(graph).direct_sum)
    parts = [load_stage1(tmp_path / n, fill_missing=0.0) for n in "ab"]
    assert (
        relative(
            torch.cat([p.assembly()(p(graph).direct_sum) for p in parts], dim=2).abs(), blocks.abs()
        )
        < 1e-13
    )


def test_unpredicted_blocks_are_listed(tmp_path: pathlib.Path) -> None:
    """An error names them, but only those of element pairs that the structure has.

    Zeros on request.
    """
    _, diag, _ = _split()
    save(tmp_path, config_for(diag), diag)
    graph = random_graph(MOTE2)
    with pytest.raises(ModelError, match=r"not predicted.*42 42: shells 0, 1.*--fill-missing 0"):
        load_stage1(tmp_path)(graph)
    assert load_stage1(tmp_path, fill_missing=0.0)(graph).direct_sum.shape[0] == graph.edges
    pairs = make_target_blocks(MOTE2, "all", ["42 42"])
    save(tmp_path / "pairs", config_for(pairs), pairs)
    only = probe_graph(MOTE2, atoms=2)
    only = only._replace(node_type=torch.zeros_like(only.node_type))
    load_stage1(tmp_path / "pairs")(only)


def test_models_that_do_not_belong_together(tmp_path: pathlib.Path) -> None:
    """Mixed generations, types, blocks predicted twice."""
    _, diag, off = _split()
    save(tmp_path / "x" / "a", config_for(diag), diag, "0.3")
    save(tmp_path / "x" / "b", config_for(off), off, "0.4")
    with pytest.raises(ModelError, match="generations"):
        load_stage1(tmp_path / "x")
    save(tmp_path / "y" / "a", config_for(diag), diag)
    save(tmp_path / "y" / "b", config_for(off), off, dtype=torch.float32)
    with pytest.raises(ModelError, match="floating types"):
        load_stage1(tmp_path / "y")
    assert load_stage1(tmp_path / "y", dtype=torch.float64).dtype == torch.float64
    save(tmp_path / "z" / "a", config_for(diag), diag)
    save(tmp_path / "z" / "b", config_for(diag), diag)
    with pytest.raises(ModelError, match="both predict shells"):
        load_stage1(tmp_path / "z")
    with pytest.raises(ConfigError, match="backend"):
        load_stage1(tmp_path / "y", "nonsense")


def test_bad_checkpoints(tmp_path: pathlib.Path) -> None:
    """Missing, extra, misshapen, NaN: each named."""
    config, targets = VARIANTS["plain"]
    cases = {
        "missing": ({"lin_edge__weight": None}, "'lin_edge.weight'.* is missing"),
        "extra": (
            {"surprise__weight": torch.ones(3, dtype=torch.float64)},
            "'surprise.weight'.*not part of",
        ),
        "shape": (
            {"lin_edge__bias": torch.ones(3, dtype=torch.float64)},
            r"shape \(3,\) instead of",
        ),
        "nan": (
            {"embedding__weight": torch.full((8,), float("nan"), dtype=torch.float64)},
            "embedding.weight.*NaN",
        ),
        "huge": (
            {"embedding__weight": torch.full((8,), 1e300, dtype=torch.float64)},
            r"embedding.weight' reaches 1e\+300",
        ),
        "centres": (
            {"basis__offsets": torch.linspace(0, 5, 16, dtype=torch.float64)},
            "basis.offsets",
        ),
    }
    for name, (changes, message) in cases.items():
        save(tmp_path / name, config, targets, **changes)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=message):
            load_stage1(tmp_path / name)


def test_undecidable_generation_asks(tmp_path: pathlib.Path) -> None:
    """A network of scalars and vectors stores no symbol whose sign ever changed: 0.4 and later look
    alike."""
    targets = make_target_blocks(
        dataclasses.replace(MOTE2, orbital_types=((0, 1), (0, 1))),
        "specify",
        specified=[{"42 42": [0, 0]}],
    )
    config = config_for(targets, mid="4x0e+2x1o", sh=1)
    save(tmp_path, config, targets, "0.4")
    with pytest.raises(ModelError, match="--e3nn-generation"):
        load_stage1(tmp_path)
    assert load_stage1(tmp_path, generation="0.4").generation == "0.4"
    plain, all_targets = VARIANTS["plain"]
    save(tmp_path / "sure", plain, all_targets, "0.4")
    with pytest.raises(ModelError, match="leave the option out"):
        load_stage1(tmp_path / "sure", generation="0.3")


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle was run')",))


def test_code_is_never_run(tmp_path: pathlib.Path) -> None:
    """Neither Python of the model folder nor a pickle."""
    config, targets = VARIANTS["plain"]
    save(tmp_path, config, targets)
    script = tmp_path / "src" / "build_model.py"
    script.write_text("raise SystemExit('the folder was run')\n" + script.read_text())
    load_stage1(tmp_path)
    with open(tmp_path / "best_model.pkl", "wb") as file:
        pickle.dump({"state_dict": {}, "evil": _Evil()}, file)
    with pytest.raises(ModelError):
        load_stage1(tmp_path)
    (tmp_path / "best_model.pkl").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="damaged"):
        load_stage1(tmp_path)


def test_shells_beyond_f_are_refused(tmp_path: pathlib.Path) -> None:
    """The format has no order for l > 3."""
    config, targets = VARIANTS["plain"]
    save(tmp_path, config, targets)
    info = tmp_path / "src" / "dataset_info.json"
    info.write_text(info.read_text().replace("1", "4"))
    with pytest.raises(GFormerError, match="l = 4"):
        read_model_folder(tmp_path)


def test_optimizer_round_trip() -> None:
    """Adam over our joined parameters <-> Adam over the official ones, entry by entry."""
    config, _ = VARIANTS["spin_orbit"]
    net = random_net(config, "0.3")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.8, 0.99))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in net.parameters():
            parameter.grad = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
        optimizer.step()
    state = optimizer.state_dict()
    exported = export_optimizer(net, state)
    table = list(official_parameters(net))
    assert len(exported["param_groups"][0]["params"]) == len(table)
    assert all(
        exported["state"][n]["exp_avg"].shape == shape for n, (_, _, _, shape) in enumerate(table)
    )
    # DeepH-E3 goes on from it: each of its parameters counts its own steps
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.zeros(shape)) for *_, shape in table])
    theirs.load_state_dict(copy.deepcopy(exported))
    for parameter in theirs.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    theirs.step()
    assert {float(entry["step"]) for entry in theirs.state.values()} == {3.0}
    back = import_optimizer(net, exported)
    optimizer.load_state_dict(back)
    for number, entry in state["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            if entry[key].numel():
                assert torch.equal(back["state"][number][key], entry[key])
    assert back["param_groups"][0]["lr"] == 0.01 and tuple(back["param_groups"][0]["betas"]) == (
        0.8,
        0.99,
    )
    with pytest.raises(ModelError, match="optimizer state has"):
        import_optimizer(net, {"state": {}, "param_groups": [{"params": [0, 1]}]})


@needs_golden
def test_golden_optimizer_state_fits() -> None:
    """The stored Adam state of an official training run: one entry per official parameter, same
    shapes."""
    folder = read_model_folder(GOLDEN / "graphene_small_f64" / "model")
    provider = EmbeddedStage1(folder)
    state = folder.checkpoint["optimizer_state_dict"]
    table = list(official_parameters(provider.net))
    assert len(state["param_groups"][0]["params"]) == len(table)
    for n, (_, _, _, shape) in enumerate(table):
        if n in state["state"]:
            assert state["state"][n]["exp_avg"].shape == shape
    torch.optim.Adam(provider.net.parameters()).load_state_dict(
        import_optimizer(provider.net, state)
    )
    again = export_optimizer(provider.net, import_optimizer(provider.net, state))
    assert all(
        torch.equal(again["state"][n]["exp_avg_sq"], entry["exp_avg_sq"])
        for n, entry in state["state"].items()
    )
