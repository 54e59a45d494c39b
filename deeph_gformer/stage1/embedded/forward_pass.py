"""One forward pass without gradients: in place, edges in chunks.

Per block: messages of all edges summed over atoms (chunk by chunk), node update; then new edge
features before their norm (chunk by chunk) with the sums that ``e3LayerNorm`` takes over the whole
structure; then norm and skip connection. What stays per edge: its features before and after an
update, its Wigner-D blocks and, unless memory is short, its distance basis and the rotated features
of its two atoms; everything else lives as long as a chunk. With several ranks each has the edges of
its own atoms; sums over atoms are gathered once per update and the norm's sums are added up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...algebra.layout import Features, rotate
from ...runtime.plan import ExecutionPlan
from .convolution_plan import ConvolutionPlan
from .local import Local, LocalLayout, chunk
from .network import DeepHE3Net
from .norm import NormPlan
from .plan import EdgePlan, InferencePlan
from .radial import INITIAL_RADIUS, gaussians
from .updates import NodeUpdate, Prepared, add_features

__all__ = ["Span", "ForwardPass"]


Span = tuple[int, int, bool]


def _atom_rows(node: Features, layout: LocalLayout) -> dict[tuple[int, int], Tensor]:
    """Features (l > 0) of the atoms, each atom's in one row (N, C (2l+1)): gathered once per
    update, not once per chunk."""
    return {
        key: node[key].transpose(1, 2).reshape(len(node[key]), -1)
        for keys in layout.keys
        for key in keys
    }


def _rotate_pair(
    rows: dict[tuple[int, int], Tensor],
    layout: LocalLayout,
    ends: Tensor,
    frames: list[Tensor],
    out: Local,
) -> None:
    """Features (l > 0) of the two atoms of some edges, in the frame of each edge.

    Args:
        rows: see :func:`_atom_rows`.
        layout: of ``out``.
        ends: (E, 2), atoms i and j.
        frames: of these edges.
        out: filled.
    """
    for f in (0, 1):
        for key in layout.keys[f]:
            l, columns = key[0], layout.columns(f, key)
            both = (
                rows[key].index_select(0, ends.reshape(-1)).view(len(ends), -1, 2 * l + 1)
            )  # (E, 2C, 2l+1)
            turned = torch.bmm(frames[l].transpose(1, 2), both.transpose(1, 2))  # (E, 2l+1, 2C)
            out[f][0][:, columns] = turned[:, l]
            for m in range(1, l + 1):
                out[f][m].view(len(ends), 2, -1)[:, :, columns] = turned[
                    :, l - m : l + m + 1 : 2 * m
                ]


def _spans(start: int, stop: int, size: int, loops: bool) -> list[Span]:
    """Equal pieces of at most ``size`` edges."""
    pieces = -(-(stop - start) // size)
    marks = [start + (stop - start) * n // pieces for n in range(pieces + 1)] if pieces else []
    return [(a, b, loops) for a, b in itertools.pairwise(marks)]


class ForwardPass:
    """One forward pass; what it keeps of an edge is described above.

    Attributes:
        node: after encoder group p.
        edge, old: edge features after and before it.
        layouts: of ``old`` and ``edge``.
        spans: the chunks.
    """

    def __init__(
        self, net: DeepHE3Net, plan: InferencePlan, p: Prepared, execution: ExecutionPlan
    ) -> None:
        """
        Args:
            net: the network and its plan.
            plan: the network and its plan.
            p: see :meth:`DeepHE3Net.prepare`; with several processes of this one's edges.
            execution: chunk, storage, communicator.
        """
        self.net, self.plan, self.p, self.execution, self.storage = (
            net,
            plan,
            p,
            execution,
            execution.storage,
        )
        self.edges, self.like = len(p.order), p.length
        self.spans: list[Span] = _spans(0, p.regular, execution.chunk, False) + _spans(
            p.regular, self.edges, execution.chunk, True
        )
        self.kinds = self._kinds()
        sizes = execution.comm.sum(p.edge_segments.sizes.clone())
        self.segments = p.edge_segments._replace(sizes=sizes)
        one_hot = nn.functional.one_hot(p.node_type, net.config.num_species).to(p.length.dtype)
        self.node: Features = net.embedding({(0, 1): one_hot[:, None, :]})
        self.edge: Local = plan.edge_init.empty(self.edges, self.like, self.storage)
        for a, b, _ in self.spans:
            self.edge[0][0][a:b] = gaussians(
                p.length[a:b], INITIAL_RADIUS, plan.edge_init.width(0, 0)
            )
        self.old: Local = [[], []]
        self.layouts = [plan.edge_init, plan.edge_init]
        self._basis: Tensor | None = None
        if execution.keep_pairs:
            self._basis = self.storage.empty(self.edges, net.config.num_basis, self.like)
            for a, b, _ in self.spans:
                self._basis[a:b] = gaussians(p.length[a:b], net.config.r_max, net.config.num_basis)
        self._pair: Local | None = [[], []]
        self._rows: dict[tuple[int, int], Tensor] = {}

    def _kinds(self) -> list[list[tuple[int, Tensor]]]:
        """Per chunk: the pairs of elements that occur, and the edges of each; a GPU is waited for
        just once."""
        p, species = self.p, self.net.config.num_species
        if species == 1:
            return [[] for _ in self.spans]
        kind = p.node_type[p.source] * species + p.node_type[p.destination]
        orders = [torch.argsort(kind[a:b], stable=True) for a, b, _ in self.spans]
        counts = [torch.bincount(kind[a:b], minlength=species**2) for a, b, _ in self.spans]
        return [
            [(t, part) for t, part in enumerate(order.split(count)) if len(part)]
            for order, count in zip(orders, torch.stack(counts).tolist(), strict=True)
        ]

    def groups(self) -> Iterator[int]:
        """ForwardPass; gives the number of every encoder group when it is done."""
        blocks = zip(self.net.updates, self.plan.node_plans, self.plan.edge_plans, strict=True)
        for group, ((node_update, _), conv, (edge_conv, edge_plan)) in enumerate(blocks):
            self.node = self.update_nodes(node_update, conv)
            self.update_edges(edge_conv, edge_plan)
            yield group
            if group + 1 < len(self.plan.node_plans):
                self.release(self.old)
        if self._basis is not None:
            self.storage.release(self._basis)
            self._basis = None

    def release(self, local: Local | None) -> None:
        """Give storage back."""
        self.storage.release(*(t for family in local or [] for t in family))

    def frames(self, a: int, b: int) -> list[Tensor]:
        return [frame[a:b] for frame in self.p.frames]

    def ends(self, a: int, b: int) -> Tensor:
        """(b - a, 2), atoms i and j."""
        return torch.stack([self.p.source[a:b], self.p.destination[a:b]], dim=1)

    def pair(self, layout: LocalLayout, a: int, b: int) -> Local:
        """The atoms' features (l > 0) in the frames of edges a..b: kept ones, or made anew."""
        if self._pair is not None:
            return chunk(self._pair, a, b)
        out = layout.empty(b - a, self.like)
        _rotate_pair(self._rows, layout, self.ends(a, b), self.frames(a, b), out)
        return out

    def message(
        self,
        conv: ConvolutionPlan,
        span: Span,
        pair: Local,
        edge: Local,
        parts: tuple[dict[int, tuple[Tensor, Tensor]], ...],
    ) -> Local:
        """The convolution of one chunk."""
        a, b, loops = span
        p, config = self.p, self.net.config
        return conv(
            conv.loops if loops else conv.regular,
            pair,
            chunk(edge, a, b),
            parts[loops],
            p.source[a:b],
            p.destination[a:b],
            gaussians(p.length[a:b], config.r_max, config.num_basis)
            if self._basis is None
            else self._basis[a:b],
            None if p.radial is None else p.radial[a:b],
        )

    def update_nodes(self, update: NodeUpdate, conv: ConvolutionPlan) -> Features:
        """Eq. 1, first line."""
        nodes, node = len(self.p.node_type), self.node
        total = {
            key: self.like.new_zeros(nodes, 2 * key[0] + 1, channels)
            for key, channels in conv.out.layout.channels.items()
        }
        parts = (conv.node_part(conv.regular, node), conv.node_part(conv.loops, node))
        for span in self.spans:
            a, b, _ = span
            self.gather(
                total,
                conv.out.features(
                    self.message(conv, span, self.pair(conv.pair, a, b), self.edge, parts)
                ),
                a,
                b,
            )
            self.execution.tick("stage 1", b - a)
        for value in total.values():
            self.execution.comm.gather_rows(value)
        new = add_features(update.lin_post(total), update.sc(node, self.p.node_kind))
        return update.skip_connect(node, update.norm(new, self.p.node_segments))

    def gather(self, total: Features, message: Features, a: int, b: int) -> None:
        """Turn the messages of edges a..b to global axes and add them to their atoms: on a CPU in
        one product per atom, D^T (deg m, k) times x (deg m, c)."""
        source, frames = self.p.source[a:b], self.frames(a, b)
        atoms, stops = _runs(source) if source.device.type == "cpu" else ([], [])
        if not atoms or 4 * len(atoms) > b - a:
            for key, value in rotate(message, frames, to_local=False).items():
                total[key].index_add_(0, source, value)
            return
        for key, value in message.items():
            d = 2 * key[0] + 1
            # D of one edge after the other, (k, deg m) for the edges of an atom, times their (deg
            # m, c)
            turn, rows = frames[key[0]].transpose(1, 2).reshape(-1, d).T, value.flatten(0, 1)
            start = 0
            for atom, stop in zip(atoms, stops, strict=True):
                total[key][atom].addmm_(turn[:, start * d : stop * d], rows[start * d : stop * d])
                start = stop

    def update_edges(self, conv: ConvolutionPlan, plan: EdgePlan) -> None:
        """Eq. 1, second line: new edge features, and the rotated node features that the next node
        update reads again."""
        self.release(self._pair)
        self._pair = (
            conv.pair.empty(self.edges, self.like, self.storage)
            if self.execution.keep_pairs
            else None
        )
        self._rows = _atom_rows(self.node, conv.pair)
        new, edge = plan.layout.empty(self.edges, self.like, self.storage), self.edge
        parts = (conv.node_part(conv.regular, self.node), conv.node_part(conv.loops, self.node))
        sums: dict[tuple[int, int], Tensor] = {}
        for span, kinds in zip(self.spans, self.kinds, strict=True):
            a, b, _ = span
            pair = self.pair(conv.pair, a, b)
            if self._pair is not None:
                _rotate_pair(self._rows, conv.pair, self.ends(a, b), self.frames(a, b), pair)
            part = chunk(new, a, b)
            message = self.message(conv, span, pair, edge, parts)
            plan.before_norm(part, message, chunk(edge, a, b), kinds)
            if plan.norm.graph:
                plan.norm.sums(part, self.frames(a, b), self.segments.part(a, b), sums)
            self.execution.tick("stage 1", b - a)
        for value in _sorted(sums):
            self.execution.comm.sum(value)
        self.normalise(plan, new, edge, sums)
        self.old, self.edge, self.layouts = edge, new, [self.layouts[1], plan.layout]

    def normalise(
        self, plan: EdgePlan, new: Local, old: Local, sums: dict[tuple[int, int], Tensor]
    ) -> None:
        """Norm and skip connection, in place.

        Args:
            plan: of this update.
            new: features before the norm.
            old: features before the update.
            sums: see :meth:`NormPlan.sums`, of all edges of all processes.
        """
        norm = plan.norm
        centre, inverse = self.moments(norm, new, sums)
        for a, b, _ in self.spans:
            part = chunk(new, a, b)
            if norm.graph:
                norm.apply(part, centre, inverse, self.frames(a, b), self.segments.part(a, b))
            else:
                norm.scale(part)
            plan.after_norm(part, chunk(old, a, b))
            self.execution.tick("stage 1", b - a)

    def moments(
        self, norm: NormPlan, new: Local, sums: dict[tuple[int, int], Tensor]
    ) -> tuple[dict[tuple[int, int], Tensor], dict[int, Tensor]]:
        """Means over all edges of each structure, and 1 / rms of scalars about them.

        Args:
            norm: of this update.
            new: features before the norm.
            sums: see :meth:`NormPlan.sums`; empty where the norm needs no means.

        Returns:
            ``(centre, inverse)`` of :meth:`NormPlan.apply`.
        """
        sizes = self.segments.sizes
        centre = {key: value / sizes[:, None, None] for key, value in sums.items()}
        squares: dict[int, Tensor] = {}
        for a, b, _ in self.spans if sums else ():
            norm.squares(chunk(new, a, b), centre, self.segments.part(a, b), squares)
        for f in sorted(squares):
            self.execution.comm.sum(squares[f])
        inverse = {f: 1 / ((s / sizes[:, None]).sqrt() + norm.eps) for f, s in squares.items()}
        return centre, inverse

    def flat(self, layout: LocalLayout, edge: Local, output: bool = False) -> Tensor:
        """Edge features, or with ``output`` the direct sum made of them: (E, dim), in global axes,
        e3nn's layout and the graph's order."""
        target = self.net.lin_edge.layout_out if output else layout.layout
        out = self.like.new_empty(self.edges, target.irreps.dim)
        for a, b, _ in self.spans:
            value = layout.features(chunk(edge, a, b))
            if output:
                value = self.net.output(value, self.output_type(a, b))
            out[self.p.order[a:b]] = target.flat_global(value, self.frames(a, b))
        return out

    def output_type(self, a: int, b: int) -> Tensor | None:
        """:attr:`Prepared.output_type` of edges a..b."""
        return None if self.p.output_type is None else self.p.output_type[a:b]


def _runs(source: Tensor) -> tuple[list[int], list[int]]:
    """Runs of equal atoms: the atoms, and the row after the last of each."""
    atoms, counts = torch.unique_consecutive(source, return_counts=True)
    return atoms.tolist(), torch.cumsum(counts, 0).tolist()


def _sorted(table: dict[tuple[int, int], Tensor]) -> list[Tensor]:
    """In an order that is the same on every rank."""
    return [table[key] for key in sorted(table)]
