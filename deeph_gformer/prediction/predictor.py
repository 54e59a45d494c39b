"""What a model is asked: one structure or several, from folders, files or atoms."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ..algebra.orbitals import TargetBlocks
from ..data.edges import EdgeMode, LearnedEdges
from ..errors import ConfigError
from ..gformer.bundle import Bundle
from ..runtime.communicator import Communicator
from ..runtime.plan import ExecutionPlan
from .reading import Item, OverlapSource, Source, open_overlap, read_item
from .seen import warn_of

if TYPE_CHECKING:
    from .run import Prediction

__all__ = ["BATCH_EDGES", "Predictor"]

#: Small structures run together up to about so many edges.
BATCH_EDGES = 20_000


class Predictor(abc.ABC):
    """The questions of :class:`.HamiltonianModel`, which answers with :meth:`predict_graphs`.

    Attributes:
        bundle: stage 2, None for stage 1 alone.
        targets: the blocks that are predicted.
        learned_edges: what it was trained on where structures have both H and S.
    """

    bundle: Bundle | None
    targets: TargetBlocks
    learned_edges: LearnedEdges

    @abc.abstractmethod
    def predict_graphs(
        self,
        items: Sequence[Item],
        execution: ExecutionPlan | None = None,
        hermitian: bool = True,
        frames: int = 1,
    ) -> Iterator[Prediction]:
        """What :meth:`read` gave, in one pass."""

    def read(
        self,
        source: Source,
        edges: EdgeMode = "auto",
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapSource | None = None,
        comm: Communicator | None = None,
    ) -> Item:
        """The graph of a structure for this model; see :func:`.prediction.reading.read_item`."""
        return read_item(self, source, edges, keys, open_overlap(overlap, self), comm)

    @overload
    def predict(
        self,
        source: Source,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapSource | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        source: list[Source] | list[str] | tuple[Source, ...],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: None = None,
        overlap: OverlapSource | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        source: Any,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapSource | None = None,
    ) -> Prediction | list[Prediction]:
        """Predict the Hamiltonian of one structure, or of each in a list.

        Args:
            source: a structure folder, a file that ASE reads, ``ase.Atoms``, a pymatgen
                ``Structure`` or a :class:`.Structure`; or a list of them. A folder has its own
                edges; the others take theirs from ``overlap``.
            edges: which blocks are edges (folders only); ``auto``: as the model was trained.
            hermitian: make it ½(H + H†).
            frames: rotated frames to average (not for ``arch: equivariant``).
            keys: (E, 5), the edges of one :class:`.Structure`.
            overlap: edges and S of sources that have none (see
                :func:`deeph_gformer.overlap.load`); default: the table in the model's bundle.

        Raises:
            DataError: a source cannot be read or is unlike every training structure.
            ModelError: unknown elements or other shells.
            ConfigError: no source of edges.
        """
        if isinstance(source, (list, tuple)):
            if keys is not None:
                raise ConfigError("keys are of one structure; predict them one by one")
            return self.predict_many(source, edges, hermitian, frames, overlap)
        item = self.read(source, edges, keys, overlap)
        warn_of(self, item)
        return next(self.predict_graphs([item], None, hermitian, frames))

    def predict_many(
        self,
        sources: Sequence[Source],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        overlap: OverlapSource | None = None,
    ) -> list[Prediction]:
        """:meth:`predict` of a list, small ones together; to rounding the same numbers."""
        if not isinstance(sources, Sequence) or isinstance(sources, str):
            raise ConfigError(
                f"a list of structures is wanted, not {type(sources).__name__}; give "
                "list(structures), or [structure] for one"
            )
        provider = open_overlap(overlap, self)
        result: list[Prediction] = []
        batch: list[Item] = []
        for number, source in enumerate(sources, 1):
            item = self.read(source, edges, overlap=provider)
            warn_of(self, item)
            batch.append(item)
            full = sum(item.graph.edges for item in batch) >= BATCH_EDGES
            if full or number == len(sources):
                result += self.predict_graphs(batch, None, hermitian, frames)
                batch = []
        return result
