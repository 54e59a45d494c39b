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
from ..io.blocks import BlockMatrix
from ..runtime.communicator import Communicator
from ..runtime.plan import ExecutionPlan
from ..stage1.provider import Stage1Provider
from .checks import check_item, warn_of, warn_of_unusual
from .reading import Item, OverlapSource, Source, open_overlap, read_item

if TYPE_CHECKING:
    from .run import Prediction

__all__ = ["BATCH_EDGES", "Predictor"]

#: Small structures run together up to about so many edges.
BATCH_EDGES = 20_000


class Predictor(abc.ABC):
    """The questions of :class:`.HamiltonianModel`, which answers with :meth:`predict_graphs`.

    Attributes:
        stage1: frozen DeepH-E3, None for a GFormer that stands alone.
        bundle: stage 2, None for stage 1 alone.
        targets: the blocks that are predicted.
        learned_edges: what it was trained on where structures have both H and S.
    """

    stage1: Stage1Provider | None
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
        """Predict structures in one pass, without a word on what is unusual about them.

        Args:
            items: what :meth:`read` gave of each.
            execution: chunk, storage, processes; default: what is fast, without a limit of memory.
            hermitian: see :meth:`predict`.
            frames: see :meth:`predict`.

        Yields:
            The predictions in order.
        """

    def read(
        self,
        source: Source,
        edges: EdgeMode = "auto",
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapSource | None = None,
        comm: Communicator | None = None,
    ) -> Item:
        """The graph of a structure for this model; see :func:`.prediction.reading.read_item`.

        Args:
            source: see :meth:`predict`.
            edges: see :meth:`predict`.
            keys: see :meth:`predict`.
            overlap: see :meth:`predict`.
            comm: processes that share the structure: each gets the edges of its atoms.
        """
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
        any_basis: bool = False,
    ) -> Prediction:
        """Of one structure."""

    @overload
    def predict(
        self,
        source: list[Source] | list[str] | tuple[Source, ...],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: None = None,
        overlap: OverlapSource | None = None,
        any_basis: bool = False,
    ) -> list[Prediction]:
        """Of each structure in a list."""

    def predict(
        self,
        source: Any,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: NDArray[np.int64] | None = None,
        overlap: OverlapSource | None = None,
        any_basis: bool = False,
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
            any_basis: warn of an S that is not in the basis of the training set, instead of
                refusing it.

        Raises:
            DataError: a source cannot be read or is unlike every training structure.
            ModelError: unknown elements, other shells or another basis.
            ConfigError: no source of edges.
        """
        if isinstance(source, (list, tuple)):
            if keys is not None:
                raise ConfigError("keys are of one structure; predict them one by one")
            return self.predict_many(source, edges, hermitian, frames, overlap, any_basis)
        item = self.read(source, edges, keys, overlap)
        return self.predict_items([item], hermitian, frames, any_basis)[0]

    def predict_many(
        self,
        sources: Sequence[Source],
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        overlap: OverlapSource | None = None,
        any_basis: bool = False,
    ) -> list[Prediction]:
        """:meth:`predict` of a list, small ones together; to rounding the same numbers.

        Args:
            sources: structures in any form; the other arguments are those of :meth:`predict`.
            edges: which blocks are edges.
            hermitian: make H ½(H + H†).
            frames: rotated frames to average.
            overlap: edges and S of sources that have none.
            any_basis: warn of an S of another basis, instead of refusing it.

        Raises:
            ConfigError: no list; see also :meth:`predict`.
        """
        if not isinstance(sources, Sequence) or isinstance(sources, str):
            raise ConfigError(
                f"a list of structures is wanted, not {type(sources).__name__}; give "
                "list(structures), or [structure] for one"
            )
        provider = open_overlap(overlap, self)
        result: list[Prediction] = []
        batch: list[Item] = []
        for number, source in enumerate(sources, 1):
            batch.append(self.read(source, edges, overlap=provider))
            full = sum(item.graph.edges for item in batch) >= BATCH_EDGES
            if full or number == len(sources):
                result += self.predict_items(batch, hermitian, frames, any_basis)
                batch = []
        return result

    def predict_items(
        self,
        items: Sequence[Item],
        hermitian: bool = True,
        frames: int = 1,
        any_basis: bool = False,
        overlap: BlockMatrix | None = None,
    ) -> list[Prediction]:
        """What :meth:`read` gave, in one pass, compared with the training set.

        What is unusual goes to the log.

        Args:
            items: the structures.
            hermitian: see :meth:`predict`.
            frames: see :meth:`predict`.
            any_basis: see :meth:`predict`.
            overlap: S of a single item, where it is known, so that it is not made again.

        Raises:
            ModelError: see :meth:`predict`.
        """
        if overlap is not None:
            items = [item._replace(s=overlap) for item in items]
        for item in items:
            warn_of(item.structure.name, check_item(self, item, any_basis, overlap).remarks)
        result = list(self.predict_graphs(items, None, hermitian, frames))
        for prediction in result:
            warn_of_unusual(prediction)
        return result
