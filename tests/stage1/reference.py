r"""DeepH-E3's network written plainly: flat e3nn vectors, global axes, one einsum per path.

Slow, and the specification of the fast engine.

It works on a ``state_dict`` under the official names, so it shares nothing with the engine but the
Wigner symbols and the path normalisation.

Tensor product of one path (slot in, l2, slot out):

.. math::
    z_{w m_3} = a \sum_{u v m_1 m_2} W^1_{uw} W^2_{vw}\;
        \sqrt{2 l_3 + 1}\; w_{3j}(l_1 l_2 l_3)_{m_1
    m_2 m_3}\; x_{u m_1} y_{v m_2}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor

from deeph_gformer.algebra.rotation import spherical_harmonics
from deeph_gformer.algebra.wigner import Generation, path_weights, wigner_3j
from deeph_gformer.data.graph import Graph
from deeph_gformer.stage1.embedded.radial import bessel_factors, gaussians
from deeph_gformer.stage1.net_config import NetConfig

__all__ = ["reference_forward", "tensor_product", "linear", "self_connection", "layer_norm", "gate"]

State = Mapping[str, Tensor]


def slots(x: Tensor, irreps: Irreps) -> list[Tensor]:
    """Flat (rows, dim) to one (rows, mul, 2l + 1) per slot."""
    return [x[:, s].reshape(-1, mul, ir.dim) for s, (mul, ir) in zip(irreps.slices(), irreps)]


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat([p.flatten(1) for p in parts], dim=1)


def _numbered(state: State, name: str) -> Iterator[Tensor]:
    number = 0
    while f"{name}.{number}" in state:
        yield state[f"{name}.{number}"]
        number += 1


def tensor_product(
    x: Tensor,
    y: Tensor,
    irreps_x: Irreps,
    irreps_y: Irreps,
    irreps_out: Irreps,
    weights1: list[Tensor],
    weights2: list[Tensor],
    generation: Generation,
) -> Tensor:
    """``SeparateWeightTensorProduct``: x (E, irreps_x.dim) times y (E, irreps_y.dim).

    Weights path after path, (mul_x, mul_out) and (mul_y, mul_out).
    """
    xs, ys = slots(x, irreps_x), slots(y, irreps_y)
    out = [x.new_zeros(len(x), mul, ir.dim) for mul, ir in irreps_out]
    paths = [
        (a, b, c)
        for a, (_, ir1) in enumerate(irreps_x)
        for b, (_, ir2) in enumerate(irreps_y)
        for c, (_, ir3) in enumerate(irreps_out)
        if ir3 in ir1 * ir2
    ]
    for number, (a, b, c) in enumerate(paths):
        into = [(i, j) for i, j, k in paths if k == c]
        factor = path_weights([irreps_x[i].mul * irreps_y[j].mul for i, j in into], generation)[
            into.index((a, b))
        ]
        l1, l2, l3 = irreps_x[a].ir.l, irreps_y[b].ir.l, irreps_out[c].ir.l
        symbol = wigner_3j(l1, l2, l3, generation).to(x) * (2 * l3 + 1) ** 0.5
        mixed_x, mixed_y = (
            torch.einsum("eum,uw->ewm", xs[a], weights1[number]),
            torch.einsum("evm,vw->ewm", ys[b], weights2[number]),
        )
        out[c] = out[c] + factor * torch.einsum("ewi,ewj,ijk->ewk", mixed_x, mixed_y, symbol)
    return _join(out)


def _matched(irreps_in: Irreps, irreps_out: Irreps) -> list[tuple[int, int]]:
    return [
        (a, b)
        for a, (_, x) in enumerate(irreps_in)
        for b, (_, y) in enumerate(irreps_out)
        if x == y
    ]


def linear(
    x: Tensor,
    irreps_in: Irreps,
    irreps_out: Irreps,
    weight: Tensor,
    bias: Tensor | None,
    generation: Generation,
) -> Tensor:
    """e3nn's ``Linear``: every slot in to every slot out of the same irrep."""
    xs, out, start = (
        slots(x, irreps_in),
        [x.new_zeros(len(x), mul, ir.dim) for mul, ir in irreps_out],
        0,
    )
    pairs = _matched(irreps_in, irreps_out)
    for a, b in pairs:
        n, m = irreps_in[a].mul, irreps_out[b].mul
        into = [i for i, k in pairs if k == b]
        factor = path_weights([irreps_in[i].mul for i in into], generation)[into.index(a)]
        out[b] = out[b] + factor * torch.einsum(
            "eui,uw->ewi", xs[a], weight[start : start + n * m].reshape(n, m)
        )
        start += n * m
    if bias is not None and bias.numel():
        first = 0
        for b, (mul, ir) in enumerate(irreps_out):
            if ir.l == 0 and ir.p == 1:
                out[b] = out[b] + bias[first : first + mul, None]
                first += mul
    return _join(out)


def self_connection(
    x: Tensor,
    kind: Tensor,
    kinds: int,
    irreps_in: Irreps,
    irreps_out: Irreps,
    weight: Tensor,
    generation: Generation,
) -> Tensor:
    """``FullyConnectedTensorProduct`` with the one-hot type ``kind`` (rows,)."""
    xs, out, start = (
        slots(x, irreps_in),
        [x.new_zeros(len(x), mul, ir.dim) for mul, ir in irreps_out],
        0,
    )
    one_hot = torch.nn.functional.one_hot(kind, kinds).to(x)
    pairs = _matched(irreps_in, irreps_out)
    for a, b in pairs:
        n, m = irreps_in[a].mul, irreps_out[b].mul
        into = [i for i, k in pairs if k == b]
        factor = path_weights([irreps_in[i].mul * kinds for i in into], generation)[into.index(a)]
        out[b] = out[b] + factor * torch.einsum(
            "eui,et,utw->ewi",
            xs[a],
            one_hot,
            weight[start : start + n * kinds * m].reshape(n, kinds, m),
        )
        start += n * kinds * m
    return _join(out)


def layer_norm(
    x: Tensor, irreps: Irreps, batch: Tensor, structures: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """``e3LayerNorm``: per structure and slot, minus the mean over rows and channels.

    Scalars over their root mean square.
    """

    def mean(value: Tensor) -> Tensor:
        total = value.new_zeros(structures, *value.shape[1:]).index_add(0, batch, value)
        return (
            total
            / torch.bincount(batch, minlength=structures).clamp(min=1).to(value)[:, None, None]
        )

    out, first, first_bias = [], 0, 0
    for field, (mul, ir) in zip(slots(x, irreps), irreps):
        field = field - mean(field).mean(dim=1, keepdim=True)[batch]
        if ir.l == 0:
            field = field / (mean(field**2).mean(dim=(1, 2), keepdim=True).sqrt()[batch] + 1e-5)
        field = field * weight[first : first + mul, None]
        first += mul
        if ir.l == 0 and ir.p == 1:
            field = field + bias[first_bias : first_bias + mul, None]
            first_bias += mul
        out.append(field)
    return _join(out)


def _gate_plan(irreps_x: Irreps, irreps_y: Irreps, wanted: Irreps) -> tuple[Irreps, Irreps, Irreps]:
    """Scalars, gates and gated irreps of DeepH-E3's gate: what of ``wanted`` x times y can give."""

    def reachable(ir: object) -> bool:
        return any(ir in a * b for _, a in irreps_x for _, b in irreps_y)

    scalars = Irreps([(mul, ir) for mul, ir in wanted if ir.l == 0 and reachable(ir)]).simplify()
    gated = Irreps([(mul, ir) for mul, ir in wanted if ir.l > 0 and reachable(ir)]).simplify()
    parity = 1 if reachable(Irreps("0e")[0].ir) else -1
    return scalars, Irreps([(mul, (0, parity)) for mul, _ in gated]).simplify(), gated


def gate(x: Tensor, scalars: Irreps, gates: Irreps, gated: Irreps) -> Tensor:
    """e3nn's ``Gate``; x has the irreps ``(scalars + gates + gated).sort().irreps.simplify()``."""
    silu, tanh, sigmoid = (
        normalize2mom(f) for f in (torch.nn.functional.silu, torch.tanh, torch.sigmoid)
    )
    parts = scalars + gates + gated
    order = parts.sort()
    pieces: list[Tensor] = [x.new_zeros(0)] * len(parts)
    for piece, old in zip(slots(x, order.irreps), order.inv):
        pieces[old] = piece
    first, second = len(scalars), len(scalars) + len(gates)
    out = [(silu if ir.p == 1 else tanh)(piece) for piece, (_, ir) in zip(pieces[:first], scalars)]
    factors = [
        (sigmoid if ir.p == 1 else tanh)(piece)
        for piece, (_, ir) in zip(pieces[first:second], gates)
    ]
    if factors:
        factor, start = torch.cat(factors, dim=1), 0
        for piece in pieces[second:]:
            out.append(piece * factor[:, start : start + piece.shape[1]])
            start += piece.shape[1]
    return _join(out)


def _convolution(
    state: State,
    name: str,
    x: Tensor,
    y: Tensor,
    distance: Tensor,
    irreps_x: Irreps,
    irreps_y: Irreps,
    wanted: Irreps,
    generation: Generation,
) -> tuple[Tensor, Irreps]:
    scalars, gates, gated = _gate_plan(irreps_x, irreps_y, wanted)
    between = (scalars + gates + gated).sort().irreps.simplify()
    weights1, weights2 = (list(_numbered(state, f"{name}.tp.weights{n}")) for n in (1, 2))
    z = tensor_product(x, y, irreps_x, irreps_y, between, weights1, weights2, generation)
    irreps = scalars + gated
    z = gate(z, scalars, gates, gated)
    hidden = distance
    for layer in (0, 2, 4):
        hidden = torch.nn.functional.linear(
            hidden, state[f"{name}.fc.{layer}.weight"], state[f"{name}.fc.{layer}.bias"]
        )
        hidden = torch.nn.functional.silu(hidden) if layer < 4 else hidden
    factors = torch.cat(
        [
            part.repeat_interleave(ir.dim, dim=1)
            for part, (_, ir) in zip(hidden.split([mul for mul, _ in irreps], dim=1), irreps)
        ],
        dim=1,
    )
    return z * factors, irreps


def _edge_harmonics(config: NetConfig, graph: Graph) -> tuple[Tensor, Irreps]:
    """Y_l of the edges, times Bessel functions of the distance where the network has them: (E, dim)
    and its irreps."""
    harmonics = Irreps(config.irreps_sh)
    length, loops = graph.edge_length, graph.self_loop
    table = spherical_harmonics(graph.edge_vector, harmonics.lmax)
    each = [table[:, ir.l**2 : (ir.l + 1) ** 2] for mul, ir in harmonics for _ in range(mul)]
    if config.use_sbf:
        order = torch.argsort(loops.int(), stable=True)
        radial = torch.empty(len(length), sum(mul for mul, _ in harmonics), dtype=length.dtype)
        radial[order] = bessel_factors(length[order], harmonics, config.r_max, int((~loops).sum()))
        each = [y * radial[:, n, None] for n, y in enumerate(each)]
    y = torch.cat(each, dim=1)
    if config.no_parity:
        harmonics = Irreps([(mul, (ir.l, 1)) for mul, ir in harmonics])
    return y, harmonics


def reference_forward(
    config: NetConfig, generation: Generation, state: State, graph: Graph
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What :meth:`DeepHE3Net.forward` gives with ``features=True``.

    Args:
        config: network.
        generation: of e3nn.
        state: official parameters.
        graph: vectors in the parameters' dtype.
    """
    y, harmonics = _edge_harmonics(config, graph)
    length = graph.edge_length
    i, j = graph.edge_index
    types = config.num_species
    node_irreps, edge_irreps = Irreps(config.irreps_embed_node), Irreps(config.irreps_edge_init)
    one_hot = torch.nn.functional.one_hot(graph.node_type, types).to(length)
    node = linear(
        one_hot, Irreps(f"{types}x0e"), node_irreps, state["embedding.weight"], None, generation
    )
    edge = gaussians(length, 6.0, edge_irreps.dim)
    distance = gaussians(length, config.r_max, config.num_basis)
    nodes, edges = [], []

    def update(
        name: str,
        wanted: str,
        x: Tensor,
        irreps_x: Irreps,
        kind: Tensor,
        kinds: int,
        batch: Tensor,
        messages: Callable[[Tensor], Tensor],
        gather: bool,
    ) -> tuple[Tensor, Irreps]:
        """One node (``gather``) or edge update; ``messages`` joins what the convolution reads."""
        pre = linear(
            x,
            irreps_x,
            irreps_x,
            state[f"{name}.lin_pre.weight"],
            state[f"{name}.lin_pre.bias"],
            generation,
        )
        z, out = _convolution(
            state,
            f"{name}.conv",
            messages(pre),
            y,
            distance,
            node_irreps + node_irreps + edge_irreps,
            harmonics,
            Irreps(wanted),
            generation,
        )
        if gather:
            z = z.new_zeros(len(x), z.shape[1]).index_add(0, i, z)
        z = linear(
            z,
            out,
            out,
            state[f"{name}.lin_post.weight"],
            state[f"{name}.lin_post.bias"],
            generation,
        )
        z = z + self_connection(
            x, kind, kinds, irreps_x, out, state[f"{name}.sc.weight"], generation
        )
        z = layer_norm(
            z,
            out,
            batch,
            graph.structures,
            state[f"{name}.norm.weight"],
            state[f"{name}.norm.bias"],
        )
        old = (
            x
            if irreps_x == out
            else linear(x, irreps_x, out, state[f"{name}.skip_connect.sc.weight"], None, generation)
        )
        return old + z, out

    for p in range(config.num_block):
        last = p == config.num_block - 1
        node, node_irreps = update(
            f"node_update_blocks.{p}",
            config.irreps_post_node if last else config.irreps_mid_node,
            node,
            node_irreps,
            graph.node_type,
            types,
            graph.node_batch,
            lambda pre, edge=edge: torch.cat([pre[i], pre[j], edge], dim=1),
            True,
        )  # type: ignore[misc]
        nodes.append(node)
        edge, edge_irreps = update(
            f"edge_update_blocks.{p}",
            config.irreps_post_edge if last else config.irreps_mid_edge,
            edge,
            edge_irreps,
            graph.node_type[i] * types + graph.node_type[j],
            types**2,
            graph.node_batch[i],
            lambda pre, node=node: torch.cat([node[i], node[j], pre], dim=1),
            False,
        )  # type: ignore[misc]
        edges.append(edge)
    out = linear(
        edge,
        edge_irreps,
        Irreps(config.irreps_out_edge),
        state["lin_edge.weight"],
        state["lin_edge.bias"],
        generation,
    )
    return out, tuple(nodes), tuple(edges)
