"""DeepH-E3's network from settings or from a model folder, ready to be trained."""

from __future__ import annotations

import dataclasses

import torch
from e3nn.o3 import Irreps

from ..algebra.orbitals import Basis, TargetBlocks, make_target_blocks
from ..algebra.wigner import Generation
from ..config import Stage1Config, TrainStage1Config
from ..errors import ConfigError, ModelError
from ..stage1.bundle import ModelFolder, read_model_folder
from ..stage1.embedded.checkpoint import load_network
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.net_config import NetConfig

__all__ = ["net_config", "stage1_config", "contradictions", "start_network"]


def net_config(config: Stage1Config, targets: TargetBlocks) -> NetConfig:
    """Arguments of the network, with the irreps that DeepH-E3 derives from the targets.

    Raises:
        ConfigError: irreps do not parse, or cannot produce the output.
    """
    parity = not config.ignore_parity
    try:
        mid, embed = Irreps(config.irreps_mid), Irreps(config.irreps_embed)
        sh = (
            Irreps(config.spherical_basis_irreps)
            if config.spherical_basis_irreps
            else Irreps(
                [
                    (1, (l, (-1) ** l if parity else 1))
                    for l in range(config.spherical_harmonics_lmax + 1)
                ]
            )
        )
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"irreps of the stage-1 network do not parse: {error}; write them as in 64x0e+32x1o "
            "(model.irreps_mid, irreps_embed, spherical_basis_irreps)"
        ) from None
    if any(ir.l or ir.p != 1 for _, ir in embed):
        raise ConfigError(f"irreps_embed = {config.irreps_embed}: only 0e is possible")
    out = targets.irreps(parity)
    post_edge = out.sort().irreps.simplify()
    post_node = _last_node_irreps(mid, sh, post_edge)
    return NetConfig(
        len(targets.basis.elements),
        str(embed),
        str(embed),
        str(sh),
        str(mid),
        str(post_node),
        "1x0e",
        str(mid),
        str(post_edge),
        str(out),
        config.num_blocks,
        config.cutoff_radius,
        no_parity=config.ignore_parity,
        use_sbf=bool(config.spherical_basis_irreps),
        index_to_Z=targets.basis.elements if config.scale_shift else None,
        norm=config.norm,
    )


def _products(irreps: Irreps, sh: Irreps) -> set[tuple[int, int]]:
    """(l, p) of all irreps in the tensor product of features and harmonics."""
    return {
        (l, p1 * p2)
        for _, (l1, p1) in irreps
        for _, (l2, p2) in sh
        for l in range(abs(l1 - l2), l1 + l2 + 1)
    }


def _last_node_irreps(mid: Irreps, sh: Irreps, post_edge: Irreps) -> Irreps:
    """Node irreps after the last block: those before, and what else the output needs of them.

    Unnatural parities (spin-orbit coupling) may need a node irrep that ``irreps_mid`` lacks.

    Args:
        mid: node irreps after the other blocks.
        sh: harmonics.
        post_edge: edge irreps after the last block, which are made of nodes and harmonics.

    Raises:
        ConfigError: one of them cannot be made.
    """
    post_node, reach = mid, _products(mid, sh)
    for _, ir in post_edge:
        if (ir.l, ir.p) in _products(post_node, sh):
            continue
        helpers = reach & _products(Irreps([(1, ir)]), sh)
        if not helpers:
            raise ConfigError(
                f"irreps_mid = {mid} with these harmonics cannot produce {ir}, which the orbitals "
                "need; raise their l"
            )
        l, p = min(helpers)
        same = [mul for mul, other in mid if other.l == l]
        post_node = post_node + Irreps([(same[0] if same else mid[-1].mul, (l, p))])
    return post_node


def stage1_config(net: NetConfig) -> Stage1Config:
    """The settings that :func:`net_config` makes a network of, without the blocks it predicts."""
    return Stage1Config(
        irreps_embed=net.irreps_embed_node,
        irreps_mid=net.irreps_mid_node,
        num_blocks=net.num_block,
        cutoff_radius=net.r_max,
        spherical_harmonics_lmax=Irreps(net.irreps_sh).lmax,
        spherical_basis_irreps=net.irreps_sh if net.use_sbf else "",
        ignore_parity=net.no_parity,
        scale_shift=net.index_to_Z is not None,
        norm=net.norm,
    )


def contradictions(config: Stage1Config, old: ModelFolder) -> list[str]:
    """Settings that are not left at their default and are not those of a model folder."""
    theirs, default = stage1_config(old.config), Stage1Config()
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        if field.name in ("target_blocks_type", "selected_element_pairs", "target_blocks"):
            kind = config.target_blocks_type
            same = (
                make_target_blocks(
                    old.targets.basis,
                    kind,
                    config.selected_element_pairs or None,
                    config.target_blocks or None,
                )
                == old.targets
            )
        else:
            same = net_config(
                dataclasses.replace(theirs, **{field.name: value}), old.targets
            ) == net_config(theirs, old.targets)
        if not same:
            found.append(field.name)
    return found


def start_network(
    config: TrainStage1Config, basis: Basis, continue_from: str | None, generation: Generation
) -> tuple[DeepHE3Net, NetConfig, TargetBlocks, ModelFolder | None]:
    """The network that a training begins with.

    Args:
        config: of the training.
        basis: of the data.
        continue_from: a model folder to go on with; None: random weights.
        generation: e3nn generation of a new network.

    Returns:
        The network, its arguments, what it predicts, and the folder it comes from, if any.

    Raises:
        ConfigError: settings contradict the folder's network.
        ModelError: the folder is damaged, or of another basis.
    """
    dtype = {"float32": torch.float32, "float64": torch.float64}[config.dtype]
    if continue_from:
        old = read_model_folder(continue_from)
        if old.targets.basis != basis:
            raise ModelError(
                f"{continue_from}: elements, shells or spin differ from those of the data: "
                f"{old.targets.basis} and {basis}; use data of the same basis, or leave the folder "
                "away to train a new network"
            )
        wrong = contradictions(config.model, old)
        if wrong:
            raise ConfigError(
                f"{continue_from}: is another network than model.{', model.'.join(wrong)} say; "
                "leave these out to go on with the folder's network, or train a new one without "
                "--resume MODEL_DIR"
            )
        return load_network(old, old.require_generation()).to(dtype), old.config, old.targets, old
    m = config.model
    targets = make_target_blocks(
        basis, m.target_blocks_type, m.selected_element_pairs or None, m.target_blocks or None
    )
    arguments = net_config(m, targets)
    torch.set_default_dtype(dtype)
    try:
        net = DeepHE3Net(arguments, generation)
    finally:
        torch.set_default_dtype(torch.float32)
    return net, arguments, targets, None
