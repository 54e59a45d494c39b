"""Structures that a stage 1 was trained on: known by its folder, or by its error on them.

A correction that is learned where stage 1 was trained is one of another residual than stage 1
leaves on new structures. How far the two differ is measured: the ratio of the errors.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.equality import match_descriptors
from ..fields import MODEL_NOTES
from ..stage1.provider import Stage1Provider
from ..stage1.trained_on import descriptors_of, listed, read_descriptors, seen_by

__all__ = ["Seen", "recognise", "structures_note", "trained_on"]

Treatment = Literal["weight", "leave-out", "use"]

#: Errors on seen structures up to this factor below those on others mean that nothing is memorised.
LEAST_RATIO = 1.15
#: Without a list: errors this factor below all others, and at least so many of them ...
CLEAR_GAP, CLEAR_MEMBERS = 1.3, 2
#: ... and medians of both groups this factor apart.
CLEAR_RATIO = 2.0


def structures_note(
    splits: Mapping[str, Sequence[pathlib.Path]], earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a model folder remembers of its structures.

    Args:
        splits: folders of ``train`` and ``val``.
        earlier: notes of the model that the training started from.

    Returns:
        ``{"structures": {"train": [...], "val": [...]}}``, each a
        :meth:`~deeph_gformer.data.equality.StructureDescriptor.to_json`. Structures of the earlier
        training come first. Without a list of those, ``"complete": false``.
    """
    before = (earlier or {}).get("structures", {})
    known = read_descriptors(before.get("train", []), pathlib.Path(MODEL_NOTES))
    train = descriptors_of(splits["train"])
    fresh = [
        m for m, old in zip(train, match_descriptors(train, known), strict=True) if old is None
    ]
    complete = earlier is None or bool(before.get("complete", False))
    return {
        "structures": {
            "train": [m.to_json() for m in (*known, *fresh)],
            "val": [m.to_json() for m in descriptors_of(splits["val"])],
            "complete": complete,
        }
    }


def trained_on(
    splits: Mapping[str, Sequence[pathlib.Path]], earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a bundle remembers of its structures: ``{"trained_on": ...}``, see
    :func:`structures_note`.

    Args:
        splits: folders of ``train`` and ``val``.
        earlier: record of the bundle that the training started from.
    """
    before = None if earlier is None else {"structures": earlier.get("trained_on", {})}
    return {"trained_on": structures_note(splits, before)["structures"]}


@dataclasses.dataclass(frozen=True)
class Seen:
    """Which training structures of a GFormer its stage 1 was trained on.

    Attributes:
        flags: (n,), of the training structures in their order.
        names: those that were seen.
        source: how that is known.
        seen_meV: median error of stage 1 on them; NaN without any.
        unseen_meV: median error on the others, training and validation; NaN without any.
        weights: (n,), share of the epochs in which each takes part.
        text: one sentence for the log; empty where there is nothing to say.
        warning: whether the sentence is a warning.
    """

    flags: NDArray[np.bool_]
    names: tuple[str, ...]
    source: str
    seen_meV: float
    unseen_meV: float
    weights: NDArray[np.float64]
    text: str
    warning: bool

    @property
    def ratio(self) -> float:
        """Error on the others over that on seen ones; NaN where one of them is missing."""
        return self.unseen_meV / self.seen_meV if self.seen_meV > 0 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain values for records."""
        known = bool(np.isfinite(self.ratio))
        return {
            "stage1_seen": {
                "structures": list(self.names),
                "source": self.source,
                "error_ratio": round(self.ratio, 4) if known else None,
                "weight": float(self.weights[self.flags].mean()) if self.flags.any() else None,
            }
        }


def recognise(
    stage1: Stage1Provider,
    train: Sequence[pathlib.Path],
    val: Sequence[pathlib.Path],
    errors: tuple[Sequence[float], Sequence[float]],
    treatment: Treatment,
    varied: bool = False,
) -> Seen:
    """Which training structures stage 1 has seen, how far it has memorised them, and what follows.

    Args:
        stage1: frozen.
        train: folders of the training structures.
        val: folders of the validation structures.
        errors: of stage 1 on each of both, meV.
        treatment: ``data.memorised``.
        varied: they are learned with other edges, too, so there is no need of a warning.

    Raises:
        ModelError: the list of a model folder is damaged.
    """
    own, other = (np.asarray(e, dtype=float) for e in errors)
    flags, kept = seen_by(stage1, [*train, *val])
    source = "its model folder lists them"
    if flags is None:
        every = np.array([folder.resolve().name for folder in (*train, *val)])
        flags = _far_below(np.concatenate([own, other])) & ~np.isin(every, kept)
        source = "by its error, far below that on the others"
    mine, seen_val = flags[: len(own)], flags[len(own) :]
    rest = np.concatenate([own[~mine], other[~seen_val]])
    seen_meV = float(np.median(own[mine])) if mine.any() else float("nan")
    unseen_meV = float(np.median(rest)) if len(rest) else float("nan")
    ratio = unseen_meV / seen_meV if seen_meV > 0 else float("nan")
    weights = np.where(mine, share(ratio, treatment), 1.0)
    names = tuple(folder.resolve().name for folder, flag in zip(train, mine, strict=True) if flag)
    text, warning = "", False
    if mine.any():
        text = f"stage 1 was trained on {len(names)} of the {len(own)} training structures"
        if len(names) < len(own):
            text += f" ({source}: {listed(names)})"
        if np.isfinite(ratio):
            text += (
                f"; its error is {seen_meV:.4f} meV on them and {unseen_meV:.4f} meV on others, "
                f"{ratio:.2f} times: "
            )
            text += "memorised" if ratio > LEAST_RATIO else "hardly memorised"
        if mine.all():
            weights = np.ones(len(own))
            if ratio > LEAST_RATIO and not varied:
                warning = True
                text += (
                    ". The correction learns another residual than stage 1 leaves on new "
                    "structures: train it on structures that stage 1 never saw, with other edges "
                    "of these (data.edge_variants=2), or with --cross-fit (networks of "
                    "'train-stage1 --folds')"
                )
        elif weights.min() < 1:
            text += f"; {_treated(float(weights.min()))} (data.memorised={treatment})"
    return Seen(mine, names, source, seen_meV, unseen_meV, weights, text, warning)


def share(ratio: float, treatment: Treatment) -> float:
    """Share of the epochs in which structures that stage 1 has seen take part.

    Args:
        ratio: error of stage 1 on others over that on them; NaN: not known.
        treatment: ``data.memorised``; ``weight``: 1 where nothing is memorised, ratio^-4 beyond,
            a quarter at 1.41.
    """
    if treatment == "use":
        return 1.0
    if treatment == "leave-out":
        return 0.0
    return 1.0 if not ratio > LEAST_RATIO else float(ratio**-4)


def _treated(weight: float) -> str:
    if weight == 0:
        return "they are left out"
    return f"they take part in {100 * weight:.0f} % of the epochs"


def _far_below(errors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether an error belongs to a group clearly below all others.

    Args:
        errors: (n,), positive.
    """
    order = np.argsort(errors)
    values = errors[order]
    flags = np.zeros(len(errors), dtype=bool)
    if len(values) < 2 * CLEAR_MEMBERS or values[0] <= 0:
        return flags
    gaps = values[1:] / values[:-1]
    inside = slice(CLEAR_MEMBERS - 1, len(gaps) - (CLEAR_MEMBERS - 1))  # both groups have members
    cut = CLEAR_MEMBERS + int(gaps[inside].argmax())
    apart = float(np.median(values[cut:]) / np.median(values[:cut]))
    if gaps[cut - 1] >= CLEAR_GAP and apart >= CLEAR_RATIO:
        flags[order[:cut]] = True
    return flags
