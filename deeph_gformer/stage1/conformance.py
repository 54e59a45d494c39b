"""Does a stage 1 keep what :class:`Stage1Provider` promises? Ships with the package, for third
parties too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..algebra.blocks import BlockAssembly, rotate_blocks
from ..algebra.layout import Layout
from ..algebra.orbitals import Basis
from ..algebra.rotation import random_rotation, rotate_irreps, spherical_harmonics
from ..data.features import Stage1Features
from ..data.graph import Graph, batch_graphs, rotate_graph
from ..data.stream import project
from ..errors import GFormerError, ModelError
from ..io.blocks import BlockMatrix
from ..runtime.plan import ExecutionPlan
from .provider import Stage1Provider

__all__ = ["Finding", "check_provider", "probe_graph"]


class Finding(NamedTuple):
    """One checked promise.

    Attributes:
        name: what was checked.
        passed: whether it holds.
        error: what was measured (relative to the largest value; 0 where there is nothing to
            measure).
        limit: what is allowed.
        detail: the words for a failure.
    """

    name: str
    passed: bool
    error: float
    limit: float
    detail: str = ""

    def __str__(self) -> str:
        detail = f" - {self.detail}" if self.detail else ""
        measured = f"{self.error:.1e} (limit {self.limit:.0e}){detail}"
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {measured}"


def probe_graph(
    basis: Basis, dtype: torch.dtype = torch.float64, atoms: int = 6, seed: int = 0
) -> Graph:
    """A small molecule of all elements of a basis, every pair joined; atoms 1.4 Å or more apart.

    Args:
        basis: elements and shells.
        dtype: of the vectors.
        atoms: at least as many as there are elements.
        seed: of the positions.
    """
    generator = torch.Generator().manual_seed(seed)
    count = max(atoms, len(basis.elements))
    places: list[Tensor] = []
    while len(places) < count:
        trial = torch.rand(3, generator=generator, dtype=torch.float64) * (
            2.2 * count ** (1 / 3) + 1.0
        )
        if all(float((trial - p).norm()) > 1.4 for p in places):
            places.append(trial)
    position = torch.stack(places)
    index = torch.cartesian_prod(torch.arange(count), torch.arange(count)).T
    key = torch.cat([torch.zeros(count * count, 3, dtype=torch.int64), index.T], dim=1)
    kind = torch.arange(count) % len(basis.elements)
    return Graph(
        kind,
        index,
        (position[index[1]] - position[index[0]]).to(dtype),
        key,
        torch.zeros(count, dtype=torch.int64),
    )


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference over largest value; infinite where shapes differ or something is not
    finite."""
    if a.shape != b.shape or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.inf
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if b.numel() else 0.0


def _outputs_gap(a: Stage1Features, b: Stage1Features) -> float:
    pairs = list(
        zip((*a.node, *a.edge, a.direct_sum), (*b.node, *b.edge, b.direct_sum), strict=True)
    )
    return max(_gap(x, y) for x, y in pairs)


def _shapes(provider: Stage1Provider, graph: Graph, out: Stage1Features) -> Finding:
    wrong = []
    if (
        len(out.node) != len(provider.node_irreps)
        or len(out.edge) != len(provider.edge_irreps)
        or not out.node
    ):
        wrong.append(
            f"{len(out.node)} node and {len(out.edge)} edge groups, {len(provider.node_irreps)} "
            f"and {len(provider.edge_irreps)} announced"
        )
    for kind, rows, tensors, irreps in (
        ("node", graph.nodes, out.node, provider.node_irreps),
        ("edge", graph.edges, out.edge, provider.edge_irreps),
    ):
        wrong += [
            f"{kind} irreps of group {p}: {tuple(t.shape)} instead of {(rows, i.dim)}"
            for p, (t, i) in enumerate(zip(tensors, irreps, strict=False))
            if t.shape != (rows, i.dim)
        ]
    width = provider.targets.irreps().dim
    if out.direct_sum.shape != (graph.edges, width):
        wrong.append(f"direct sum: {tuple(out.direct_sum.shape)} instead of {(graph.edges, width)}")
    wrong += [
        f"{t.dtype} instead of {provider.dtype}"
        for t in (*out.node, *out.edge, out.direct_sum)
        if t.dtype != provider.dtype
    ][:1]
    wrong += [
        "values that are not finite"
        for t in (*out.node, *out.edge, out.direct_sum)
        if not bool(torch.isfinite(t).all())
    ][:1]
    return Finding("shapes, dtype, finite values", not wrong, 0.0, 0.0, "; ".join(wrong))


def _fingerprint(provider: Stage1Provider) -> Finding:
    found, again = provider.fingerprint(), provider.fingerprint()
    good = isinstance(found, str) and found.strip() != "" and found == again
    return Finding("fingerprint", good, 0.0, 0.0, "" if good else f"{found!r}, then {again!r}")


def _gradients(provider: Stage1Provider, graph: Graph) -> Finding:
    vector = graph.edge_vector.clone().requires_grad_(True)
    with torch.enable_grad():
        out = provider(graph._replace(edge_vector=vector))
    leaking = [t for t in (*out.node, *out.edge, out.direct_sum) if t.requires_grad]
    return Finding(
        "no gradients",
        not leaking,
        float(len(leaking)),
        0.0,
        f"{len(leaking)} outputs ask for gradients" if leaking else "",
    )


def _matrix(provider: Stage1Provider, graph: Graph, direct_sum: Tensor) -> BlockMatrix:
    product = provider.assembly().to(direct_sum.device)(direct_sum).cpu().numpy()
    return BlockAssembly(provider.targets).to_matrix(
        product, graph.node_type.cpu().numpy(), graph.edge_key.cpu().numpy(), missing=0.0
    )


def _equivariance(
    provider: Stage1Provider,
    graph: Graph,
    out: Stage1Features,
    rotation: Tensor,
    name: str,
    limit: float,
) -> list[Finding]:
    turned = provider(rotate_graph(graph, rotation))
    features = max(
        (
            _gap(t, rotate_irreps(o, i, rotation))
            for t, o, i in zip(
                (*turned.node, *turned.edge),
                (*out.node, *out.edge),
                (*provider.node_irreps, *provider.edge_irreps),
                strict=True,
            )
        ),
        default=math.inf,
    )
    sums = _gap(
        turned.direct_sum,
        rotate_irreps(out.direct_sum, provider.targets.irreps(provider.parity), rotation),
    )
    expected = rotate_blocks(
        _matrix(provider, graph, out.direct_sum),
        provider.targets.basis,
        graph.node_type.cpu().numpy(),
        rotation,
    )
    got = _matrix(provider, graph, turned.direct_sum)
    blocks = float(
        np.abs(got.values - expected.values).max()
        / max(float(np.abs(expected.values).max()), 1e-30)
    )
    return [
        Finding(f"{what} under {name}", error <= limit, error, limit)
        for what, error in (
            ("irreps", features),
            ("direct sum", sums),
            ("blocks in legacy order", blocks),
        )
    ]


def _batch_gap(
    provider: Stage1Provider, graph: Graph, out: Stage1Features, rotation: Tensor
) -> float:
    """The graph behind another one in a batch gives what it gives alone."""
    both = provider(batch_graphs([rotate_graph(graph, rotation), graph]))
    pairs = zip(
        (*both.node, *both.edge, both.direct_sum),
        (*out.node, *out.edge, out.direct_sum),
        strict=True,
    )
    return max(_gap(t[-len(o) :], o) for t, o in pairs)


def _stream_gap(provider: Stage1Provider, graph: Graph, out: Stage1Features) -> float:
    """What the provider hands out in chunks is its output as a whole; projections on the edges are
    those of irreps in global axes."""
    stream = provider.stream(graph, ExecutionPlan(2 * graph.nodes))
    if stream is None:
        return 0.0
    edge, direct_sum, gaps = (
        [torch.full_like(e, math.nan) for e in out.edge],
        torch.full_like(out.direct_sum, math.nan),
        [],
    )
    lmax = max(
        ir.l for irreps in (*provider.node_irreps, *provider.edge_irreps) for _, ir in irreps
    )
    harmonics = list(
        spherical_harmonics(graph.edge_vector, lmax).split(
            [2 * l + 1 for l in range(lmax + 1)], dim=1
        )
    )
    for chunk in stream.groups(True):
        edge[chunk.group][chunk.rows] = chunk.flat()
        of_nodes, of_edges = (
            Layout(provider.node_irreps[chunk.group]),
            Layout(provider.edge_irreps[chunk.group]),
        )
        own = [y[chunk.rows] for y in harmonics]
        for found, layout, value in (
            (chunk.axis_edge, of_edges, out.edge[chunk.group][chunk.rows]),
            (chunk.axis_i, of_nodes, out.node[chunk.group][graph.edge_index[0, chunk.rows]]),
            (chunk.axis_j, of_nodes, out.node[chunk.group][graph.edge_index[1, chunk.rows]]),
        ):
            scale = max(1.0, float(value.abs().max()))
            wanted = project(layout.split(value), own)
            gaps += [float((found[key] - w).abs().max()) / scale for key, w in wanted.items()]
    for final in stream.final(True):
        direct_sum[final.rows] = final.direct_sum()
    streamed = Stage1Features(tuple(stream.nodes), tuple(edge), direct_sum)
    stream.close()
    return max([_outputs_gap(streamed, out), *gaps])


class _Findings(list[Finding]):
    """What the checks found, in their order."""

    def attempt(self, name: str, check: Callable[[], Finding | list[Finding]]) -> None:
        """Note what a check finds; whatever it raises that is no message for the user is a finding
        of its own."""
        try:
            found = check()
            self.extend(found if isinstance(found, list) else [found])
        except GFormerError:
            raise
        except Exception as error:  # noqa: BLE001  (third-party code may raise anything)
            self.append(Finding(name, False, math.inf, 0.0, f"{type(error).__name__}: {error}"))

    def bound(self, name: str, other: Callable[[], float], most: float) -> None:
        """A check whose error may not exceed a bound."""

        def check() -> Finding:
            error = other()
            return Finding(name, error <= most, error, most)

        self.attempt(name, check)


def check_provider(
    provider: Stage1Provider,
    graph: Graph | None = None,
    rotations: int = 3,
    seed: int = 0,
    strict: bool = True,
) -> list[Finding]:
    """Check every promise of the interface.

    Args:
        provider: the stage 1.
        graph: where to try it; by default :func:`probe_graph`.
        rotations: how many random ones, inversion besides.
        seed: of the rotations.
        strict: raise where a promise is broken.

    Returns:
        The findings, in the order of the checks.

    Raises:
        ModelError: ``strict`` and something failed; every failure is listed.
    """
    graph = probe_graph(provider.targets.basis, provider.dtype) if graph is None else graph
    graph = graph.to(dtype=provider.dtype)
    limit = 1e-10 if provider.dtype == torch.float64 else 1e-4
    exact = 1e-13 if provider.dtype == torch.float64 else 1e-5
    found = _Findings()
    default = torch.get_default_dtype()
    out = provider(graph)
    found.attempt("shapes, dtype, finite values", lambda: _shapes(provider, graph, out))
    if not found[-1].passed:
        return _finish(provider, found, strict)
    found.bound("determinism", lambda: _outputs_gap(provider(graph), out), exact)
    found.bound(
        "same output without features",
        lambda: _gap(provider(graph, features=False).direct_sum, out.direct_sum),
        exact,
    )
    found.bound("the same in chunks", lambda: _stream_gap(provider, graph, out), limit)
    found.attempt("no gradients", lambda: _gradients(provider, graph))
    found.attempt("fingerprint", lambda: _fingerprint(provider))
    generator = torch.Generator().manual_seed(seed)
    for number in range(rotations if provider.equivariant else 0):
        rotation = random_rotation(generator)
        found.attempt(
            "equivariance",
            functools.partial(
                _equivariance, provider, graph, out, rotation, f"rotation {number + 1}", limit
            ),
        )
    if provider.parity and provider.equivariant:
        found.attempt(
            "equivariance",
            lambda: _equivariance(
                provider, graph, out, -torch.eye(3, dtype=torch.float64), "inversion", limit
            ),
        )
    found.bound(
        "structures in one batch",
        lambda: _batch_gap(provider, graph, out, random_rotation(generator)),
        limit,
    )
    found.append(Finding("default dtype untouched", torch.get_default_dtype() == default, 0.0, 0.0))
    return _finish(provider, found, strict)


def _finish(provider: Stage1Provider, findings: list[Finding], strict: bool) -> list[Finding]:
    failed = [f for f in findings if not f.passed]
    if strict and failed:
        raise ModelError(
            f"{provider.name}: this stage 1 breaks the interface: "
            + "; ".join(str(f).removeprefix("FAIL ") for f in failed)
        )
    return list(findings)
