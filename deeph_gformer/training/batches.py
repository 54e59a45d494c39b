"""Batches of labelled structures for both stages, and the cache of stage 1's features."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..algebra.blocks import DirectSumToProduct
from ..algebra.layout import rotate_flat
from ..algebra.rotation import random_rotation, wigner_blocks
from ..data.dataset import Sample
from ..data.features import Stage1Features
from ..data.fingerprint import fingerprint
from ..data.graph import Graph, batch_graphs, rotate_graph
from ..errors import DataError, ModelError
from ..stage1.provider import Stage1Provider
from .checkpoint import read_tensors, write_tensors

__all__ = [
    "Batch",
    "FeatureCache",
    "cache_path",
    "collate",
    "joiner",
    "rotate_batch",
    "feature_bytes",
]


class Batch(NamedTuple):
    """Several labelled structures as one graph.

    Attributes:
        graph: of all structures.
        label: (E, K) or (E, 4, K), eV.
        mask: where labels count, of the same shape.
        partner: (E,), edge (-R, j, i).
        features: stage 1's irreps, None where none are read.
        direct_sum: (E, D) of stage 1, None without stage 1.
        edges: number of edges of each structure.
        keys: :attr:`.Sample.key` of each structure.
    """

    graph: Graph
    label: Tensor
    mask: Tensor
    partner: Tensor
    features: Stage1Features | None
    direct_sum: Tensor | None
    edges: tuple[int, ...]
    keys: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""

        def move(value: Any) -> Any:
            """A value on the device, where it lives on one."""
            if isinstance(value, (Tensor, Graph, Stage1Features)):
                return value.to(device)
            return value

        return Batch(*map(move, self))


def feature_bytes(samples: Sequence[Sample], stage1: Stage1Provider) -> int:
    """Memory of all cached features, bytes."""
    node = sum(i.dim for i in stage1.node_irreps)
    edge = sum(i.dim for i in stage1.edge_irreps) + stage1.targets.irreps(stage1.parity).dim
    return sum(s.graph.nodes * node + s.graph.edges * edge for s in samples) * stage1.dtype.itemsize


def cache_path(folder: pathlib.Path, sample: Sample, use: str = "") -> pathlib.Path:
    """File of what is kept of a sample; those with other edges have a folder of their own.

    Args:
        folder: of everything that is kept.
        sample: whose file.
        use: what its name begins with.
    """
    place = folder / f"variant-{sample.variant}" if sample.variant else folder
    return place / f"{use}{sample.name}.pt"


class FeatureCache:
    """Stage 1 of every sample, run once: kept in memory, in files, or not at all."""

    def __init__(
        self,
        stage1: Stage1Provider | None,
        mode: str,
        folder: pathlib.Path | None = None,
        features: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            stage1: None gives empty entries.
            mode: ``ram``, ``disk`` or ``off``.
            folder: for ``disk``.
            features: whether irreps are kept.
            device: where stage 1 runs; it is moved there.
        """
        self.stage1 = None if stage1 is None else stage1.to(device)
        self.mode, self.folder, self.features = mode, folder, features
        self.device = torch.device(device)
        self._whole: set[pathlib.Path] = set()
        self._marks: dict[int, str] = {}
        self._kept: dict[str, tuple[Stage1Features | None, Tensor | None]] = {}

    def run(self, sample: Sample) -> Stage1Features:
        """Stage 1 of a sample, on its device."""
        if self.stage1 is None:
            raise ModelError("no stage 1 to run")
        return self.stage1(sample.graph.to(self.device), features=self.features)

    def get(self, sample: Sample) -> tuple[Stage1Features | None, Tensor | None]:
        """(irreps, direct sum) of a sample, on the CPU."""
        if self.stage1 is None:
            return None, None
        if sample.key in self._kept:
            return self._kept[sample.key]
        path = cache_path(self.folder, sample) if self.mode == "disk" and self.folder else None
        stored = None if path is None else self._stored(path, sample)
        if stored is not None:
            return stored if self.features else None, stored.direct_sum
        out = self.run(sample).to("cpu")
        entry = out if self.features else None, out.direct_sum
        if self.mode == "ram":
            self._kept[sample.key] = entry
        elif path is not None:
            parts = list(out.node), list(out.edge), out.direct_sum
            write_tensors(path, [self._mark(sample), *parts, _content(*parts)])
            self._whole.add(path)
        return entry

    def record(self) -> dict[str, Any] | None:
        """What checkpoints say of stage 1; None without one."""
        if self.stage1 is None:
            return None
        return {
            "fingerprint": self.stage1.fingerprint(),
            "generation": str(self.stage1.generation),
            "fill_missing": self.stage1.fill_missing,
        }

    def networks_of(self, sample: Sample) -> tuple[Stage1Provider, ...]:
        """What :meth:`run` asks for a sample."""
        return () if self.stage1 is None else (self.stage1,)

    def _stored(self, path: pathlib.Path, sample: Sample) -> Stage1Features | None:
        """What a file of an earlier run, or of another process, holds; None where it is damaged, or
        of another network or structure: then it is made again.
        """
        if not path.is_file():
            return None
        try:
            if path in self._whole:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                content = read_tensors(path, mmap=True)
            mark, node, edge, direct_sum, numbers = content
            if path not in self._whole:
                if mark != self._mark(sample) or numbers != _content(node, edge, direct_sum):
                    return None
                self._whole.add(path)
            return Stage1Features(tuple(node), tuple(edge), direct_sum)
        except (AttributeError, DataError, LookupError, TypeError, ValueError):
            return None

    def _mark(self, sample: Sample) -> str:
        """What a stored entry is of: networks, their conventions, and the structure."""
        words = ["features" if self.features else "sums"]
        for network in self.networks_of(sample):
            if id(network) not in self._marks:
                self._marks[id(network)] = network.fingerprint()
            words += [self._marks[id(network)], str(network.generation), str(network.dtype)]
            words.append(f"{network.cutoff} {network.fill_missing}")
        graph = sample.graph
        parts = {"z": graph.node_type, "key": graph.edge_key, "vector": graph.edge_vector}
        return " ".join([*words, fingerprint(parts)])


def _content(node: Sequence[Tensor], edge: Sequence[Tensor], direct_sum: Tensor) -> str:
    """What an entry's tensors are: their number, types and values.

    Raises:
        ValueError: one is sparse, quantised or the like.
    """
    parts = [*node, *edge, direct_sum]
    if not all(p.layout is torch.strided and p.is_floating_point() and p.is_cpu for p in parts):
        raise ValueError("no plain numbers")
    types = " ".join(str(part.dtype) for part in parts)
    return f"{len(node)} {types} {fingerprint({str(n): p for n, p in enumerate(parts)})}"


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows; those of a single structure as they are."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def collate(
    samples: Sequence[Sample],
    entries: Sequence[tuple[Stage1Features | None, Tensor | None]],
) -> Batch:
    """Join samples and their stage-1 entries; indices are shifted."""
    sizes = [s.graph.edges for s in samples]
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].tolist()
    direct = [e[1] for e in entries if e[1] is not None]
    sums = _joined(direct) if direct else None
    parts = [e[0] for e in entries if e[0] is not None]
    features = None
    if parts and sums is not None:
        features = Stage1Features(
            tuple(_joined(group) for group in zip(*(part.node for part in parts), strict=True)),
            tuple(_joined(group) for group in zip(*(part.edge for part in parts), strict=True)),
            sums,
        )
    return Batch(
        batch_graphs([s.graph for s in samples]),
        _joined([s.label for s in samples]),
        _joined([s.mask for s in samples]),
        _joined([s.partner + n if n else s.partner for s, n in zip(samples, starts, strict=True)]),
        features,
        sums,
        tuple(sizes),
        tuple(s.key for s in samples),
    )


def joiner(cache: FeatureCache) -> Callable[[list[Sample]], Batch]:
    """What makes batches of samples: :func:`collate` with what stage 1 gives."""
    return lambda chosen: collate(chosen, [cache.get(s) for s in chosen])


def rotate_batch(
    batch: Batch,
    to_product: DirectSumToProduct,
    node_irreps: Sequence[Any],
    edge_irreps: Sequence[Any],
    irreps_out: Any,
    seed: tuple[int, ...],
) -> Batch:
    """The batch in random axes: irreps and labels turned by Wigner-D, stage 1 is not run again.

    Args:
        batch: its mask must cover whole shells (it does).
        to_product: DStoDP, for the labels.
        node_irreps: of each group of ``batch.features.node``.
        edge_irreps: of each group of ``batch.features.edge``.
        irreps_out: of the direct sums.
        seed: of the rotation.
    """
    generator = torch.Generator().manual_seed(
        int(np.random.SeedSequence(seed).generate_state(1)[0])
    )
    rotation = random_rotation(generator)
    lmax = max(ir.l for irreps in (*node_irreps, *edge_irreps, irreps_out) for _, ir in irreps)
    blocks = [b.to(batch.label.device) for b in wigner_blocks(rotation, lmax)]
    turned = rotate_flat(to_product.inverse(batch.label), irreps_out, blocks)
    features = batch.features
    sums = None if batch.direct_sum is None else rotate_flat(batch.direct_sum, irreps_out, blocks)
    if features is not None and sums is not None:
        features = Stage1Features(
            tuple(
                rotate_flat(v, i, blocks) for v, i in zip(features.node, node_irreps, strict=True)
            ),
            tuple(
                rotate_flat(v, i, blocks) for v, i in zip(features.edge, edge_irreps, strict=True)
            ),
            sums,
        )
    return batch._replace(
        graph=rotate_graph(batch.graph, rotation),
        label=to_product(turned),
        features=features,
        direct_sum=sums,
    )
