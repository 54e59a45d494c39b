"""Are these the data that a training began with? A few numbers of each structure.

They are compared with a tolerance: another processor, another format of the folder, and rounding
to single precision leave them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .dataset import Sample

__all__ = ["Sketches", "changed_data", "sketch", "sketch_level", "sketch_samples"]

#: Some numbers of each part of each structure.
Sketches: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]

#: Of the norm: what single precision and other sums leave of a projection.
TOLERANCE = 2e-7
#: Steps of the phases of the fixed directions; no structure repeats with them.
_STEPS = (1.2345678, 2.7182818)
#: What elements of H are like. A level is a sum of them: it moves with their rounding, not its own.
_SCALE_EV = 20.0


def sketch(values: ArrayLike) -> list[float]:
    """Size, norm and projections of an array on two fixed directions that look random.

    One element that changes by δ moves a projection by about δ: of N elements of size a it is
    noticed from 2e-7 a √N on.

    Args:
        values: of any shape; complex ones count as pairs.
    """
    flat = np.ascontiguousarray(values)
    if np.iscomplexobj(flat):
        flat = flat.view(flat.real.dtype)
    flat = flat.reshape(-1).astype(np.float64)
    count = np.arange(1, len(flat) + 1, dtype=np.float64)
    projections = [float(flat @ np.cos(step * count)) for step in _STEPS]
    return [float(len(flat)), math.sqrt(float(flat @ flat)), *projections]


def sketch_level(level_eV: float) -> list[float]:
    """:func:`sketch` of a level, eV, also of one near zero: it is noticed from 4e-6 eV on."""
    return sketch([level_eV, _SCALE_EV])


def sketch_sample(sample: Sample) -> dict[str, list[float]]:
    """What a training sees of a structure: its atoms, edges and labels.

    Args:
        sample: labelled.
    """
    return {
        "atoms": sketch(sample.graph.node_type.numpy()),
        "edges": sketch(sample.graph.edge_vector.numpy()),
        "H": sketch((sample.label * sample.mask).numpy()),
    }


def sketch_samples(
    samples: Mapping[str, Sequence[Sample]],
    more: Sketches | None = None,
) -> Sketches:
    """:func:`sketch_sample` of every structure, by its name; of its variants their edges.

    Args:
        samples: of each split, and structures with other edges.
        more: further sketches, by structure.
    """
    found: dict[str, dict[str, Sequence[float]]] = {}
    for sample in (s for group in samples.values() for s in group):
        parts: dict[str, list[float]] = sketch_sample(sample)
        if sample.variant:
            parts = {f"edges of variant {sample.variant}": parts["edges"]}
        found.setdefault(sample.name, {}).update(parts)
    return {name: {**parts, **(more or {}).get(name, {})} for name, parts in found.items()}


def changed_data(before: Mapping[str, Any], now: Sketches) -> list[str]:
    """What is no longer as it was, e.g. ``H of s0``; what one of both does not know is left out.

    Args:
        before: sketches of each structure, as a checkpoint holds them.
        now: those of today.

    Raises:
        TypeError, ValueError: ``before`` holds no sketches.
    """
    found = []
    for name, parts in now.items():
        for part, new in parts.items():
            old = before.get(name, {}).get(part)
            if old is not None and not _same([float(value) for value in old], new):
                found.append(f"{part} of {name}")
    return found


def _same(old: Sequence[float], new: Sequence[float]) -> bool:
    if len(old) != len(new) or old[0] != new[0]:
        return False
    room = TOLERANCE * max(old[1], new[1]) + 1e-12
    return all(abs(a - b) <= room for a, b in zip(old[1:], new[1:], strict=True))
