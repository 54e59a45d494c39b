"""The labelled structures of a training, and how a line tells them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch

from ..algebra.orbitals import TargetBlocks
from ..config import DataConfig
from ..data.dataset import Sample, load_samples
from ..data.edge_variants import load_variants
from ..data.edges import EdgeMode, training_edges
from ..data.energies import odd_energy
from ..logs import LOGGER
from ..stage1.trained_on import listed

__all__ = ["TrainingSamples", "count_samples", "learned_from", "own_images", "training_samples"]

#: ``train`` and ``val``: each structure once; ``varied``: those of ``train`` with other edges.
#: What a model remembers of its data is of the first two.
TrainingSamples: TypeAlias = Mapping[str, Sequence[Sample]]


def training_samples(
    data: DataConfig,
    splits: Mapping[str, Sequence[pathlib.Path]],
    targets: TargetBlocks,
    dtype: torch.dtype,
    gauge: str,
    seed: int,
) -> tuple[TrainingSamples, EdgeMode]:
    """Read the structures of a training.

    Args:
        data: which edges they have, and how often these are varied.
        splits: folders of ``train`` and ``val``.
        targets: the model's channels.
        dtype: real type of vectors and labels.
        gauge: ``standard`` takes μS out of H.
        seed: of the training; with the name of a structure it decides on its other edges.

    Returns:
        The structures, and where their edges come from.

    Raises:
        DataError, ModelError: see :func:`.dataset.load_sample`.
    """
    edges = training_edges(data.edges, [*splits["train"], *splits["val"]])
    samples: dict[str, Sequence[Sample]] = {
        name: load_samples(splits[name], targets, edges, dtype, gauge) for name in ("train", "val")
    }
    known = [s.energies for s in (*samples["train"], *samples["val"]) if s.energies is not None]
    if odd := odd_energy(known):
        LOGGER.warning("%s", odd)
    samples["varied"] = [
        sample
        for folder in (splits["train"] if data.edge_variants else ())
        for sample in load_variants(folder, targets, edges, dtype, gauge, data.edge_variants, seed)
    ]
    return samples, edges


def learned_from(samples: TrainingSamples) -> list[Sample]:
    """What an epoch is of: the training structures, then the same ones with other edges."""
    return [*samples["train"], *samples.get("varied", ())]


def count_samples(samples: TrainingSamples) -> str:
    """The beginning of a line: how many structures there are."""
    train, varied = samples["train"], samples.get("varied", ())
    rest = f"{len(samples['val'])} validation structures"
    if not varied:
        return f"{len(train)} training and {rest}"
    own = {s.key: s.graph.edges for s in train}
    more = [s.graph.edges - own[dataclasses.replace(s, variant=0).key] for s in varied]
    span = f"{least:+d}" if (least := min(more)) == max(more) else f"{least:+d} to {max(more):+d}"
    same = list(dict.fromkeys(s.name for s, n in zip(varied, more, strict=True) if not n))
    few = f"; {listed(same)}: too few edges to vary" if same else ""
    return (
        f"{len(train)} training structures, {len(varied) // len(train) + 1} edge sets each "
        f"({span} edges{few}), and {rest}"
    )


def own_images(samples: TrainingSamples) -> str:
    """A sentence, where atoms of every training structure have blocks with their own images.

    What moves there moves with its images, and the network learns that it does. In wider cells
    surroundings are more various than it knows (docs/howto/one_model.md). Empty where one
    structure is wider, or has no periodic direction.
    """
    nearest = []
    for sample in samples["train"]:
        graph = sample.graph
        own = (graph.edge_index[0] == graph.edge_index[1]) & (graph.edge_length > 0)
        if not own.any():
            return ""
        nearest.append(float(graph.edge_length[own].min()))
    return (
        "atoms of every training structure have blocks with their own images (from "
        f"{min(nearest):.3g} Å on); wider cells among them would make errors in wider cells smaller"
    )
