"""What ``evaluate``, ``ablate`` and ``compare`` tell of a prediction besides errors of H.

A metric is one module with a :class:`Metric`, and one line: in ``_BUILT_IN`` here, or the entry
point ``deeph_gformer.metrics`` of another package; see ``docs/extending.md``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..bands.bloch import BlochProblem
from ..errors import GFormerError
from ..io.blocks import BlockMatrix
from ..io.structure import Structure
from ..plugins import installed

__all__ = ["ENTRY_POINTS", "Case", "Metric", "Scores", "averages", "measure", "metrics"]

#: Entry point group where another package names the class of its metric.
ENTRY_POINTS = "deeph_gformer.metrics"
_BUILT_IN = {"states": "States"}  # module here: class


class Case(NamedTuple):
    """One structure to judge.

    Attributes:
        structure: the atoms and their shells.
        truth: DFT's H, eV, legacy orbital order.
        problem: DFT's H and S; None where there are no overlaps.
        predictions: H of stage 1 and of both stages, or one alone; where there is S, with DFT's μ,
            so that the zero of energy does not count.
        fermi_eV: DFT's Fermi level, where it is not what info.json says.
    """

    structure: Structure
    truth: BlockMatrix
    problem: BlochProblem | None
    predictions: tuple[BlockMatrix, ...]
    fermi_eV: float | None = None


class Scores(NamedTuple):
    """What a metric says of a case.

    Attributes:
        values: by key, one per prediction, meV; None where it cannot be said.
        notes: sentences about what is left out.
        facts: more to put into the structure's record, by key.
    """

    values: Mapping[str, Sequence[float | None]]
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = {}


@runtime_checkable
class Metric(Protocol):
    """How a metric is asked; a class without arguments.

    Attributes:
        name: short, e.g. for the column of ``ablate``, which shows the first of its values.
        labels: what tables call each of its values, by key; a key ends with the unit, ``_meV``.
    """

    name: str
    labels: Mapping[str, str]

    def __call__(self, case: Case) -> Scores:
        """Judge the predictions of one structure.

        Raises:
            GFormerError: there is nothing to say; the message becomes a note.
        """


@functools.cache
def metrics() -> Mapping[str, Metric]:
    """Every metric by its name; those of this package first.

    Raises:
        GFormerError: another package's entry point is no :class:`Metric`.
    """
    known: dict[str, Metric] = {}
    for name, kind in _BUILT_IN.items():
        known[name] = getattr(importlib.import_module(f".{name}", __package__), kind)()

    def check(found: Callable[[], object]) -> Metric | None:
        metric = found()
        return metric if isinstance(metric, Metric) else None

    return installed(ENTRY_POINTS, known, check, "Metric")


def measure(case: Case, chosen: Iterable[Metric]) -> dict[str, Any]:
    """Plain values of some metrics: ``key``, of stage 1 ``stage1_key``, and ``name_notes``.

    Args:
        case: the structure.
        chosen: the metrics.
    """
    record: dict[str, Any] = {}
    stages = ("stage1_", "")[-len(case.predictions) :]
    for metric in chosen:
        try:
            scores = metric(case)
        except GFormerError as error:
            nothing = [None] * len(stages)
            scores = Scores(dict.fromkeys(metric.labels, nothing), [str(error)])
        for key, values in scores.values.items():
            for stage, value in zip(stages, values, strict=True):
                record[f"{stage}{key}"] = None if value is None else float(value)
        record.update(scores.facts)
        record[f"{metric.name}_notes"] = list(scores.notes)
    return record


def averages(
    records: Sequence[Mapping[str, Any]], chosen: Iterable[Metric]
) -> dict[str, float | None]:
    """Means over the structures that have a value, of both stages.

    Args:
        records: of :func:`measure`, two predictions each.
        chosen: the metrics.
    """
    out: dict[str, float | None] = {}
    for key in (f"{stage}{key}" for m in chosen for key in m.labels for stage in ("", "stage1_")):
        known = [r[key] for r in records if r.get(key) is not None]
        out[key] = float(np.mean(known)) if known else None
    return out
