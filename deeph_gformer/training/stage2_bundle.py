"""What a GFormer's bundle says of its training, and when it is written."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np

from .. import __version__
from ..analysis.metrics import gauge_errors, means
from ..config import TrainConfig, to_mapping
from ..data.dataset import Sample, has_time_reversal
from ..data.nearest import nearest_table
from ..fields import OVERLAP_TABLE
from ..gformer.bundle import Bundle, save_bundle
from ..io.folder import has_matrix, read_folder, read_matrix
from ..io.periodicity import coupling
from ..pipeline import HamiltonianModel
from ..prediction.run import hermitian_products
from ..stopping import shielded
from .callbacks import SaveBest
from .electrons import count_electrons
from .guard import guard_statistics
from .monitor import best_errors
from .overlap_table import write_basis_table

__all__ = ["SaveBundle", "finish", "record_of", "structures_of", "validation_errors"]


class SaveBundle(SaveBest):
    """Writes the bundle."""

    def __init__(self, bundle: Bundle, table: Callable[[pathlib.Path], None]) -> None:
        """
        Args:
            bundle: what is written; its model is the one in training.
            table: writes the overlap table to a path.
        """
        super().__init__()
        self.bundle, self.table = bundle, table

    def save(self, trainer: pl.Trainer, module: pl.LightningModule, value: float) -> None:
        """See :class:`SaveBest`."""
        path = self.bundle.path
        if path is None:
            return
        training = {
            **self.bundle.training,
            "epochs": trainer.current_epoch + 1,
            **best_errors(trainer, module),
            "finished": False,
        }
        if not (path / OVERLAP_TABLE).is_file():
            self.table(path / OVERLAP_TABLE)
        save_bundle(path, dataclasses.replace(self.bundle, training=training))


def record_of(
    config: TrainConfig,
    splits: dict[str, list[pathlib.Path]],
    train: Sequence[Sample],
    parameters: int,
) -> dict[str, Any]:
    """What a bundle remembers of its training; names of folders, no paths.

    Args:
        config: everything.
        splits: folders of each split.
        train: the training structures.
        parameters: number of the network's.
    """
    settings = {
        k: v
        for k, v in to_mapping(config).items()
        if k not in ("output", "stage1", "start", "cross_fit")
    }
    settings["data"].update(
        preprocessed=pathlib.Path(config.data.preprocessed).name,
        splits=pathlib.Path(config.data.splits).name,
    )
    return {
        "data": pathlib.Path(config.data.preprocessed).name,
        "structures": {n: len(f) for n, f in splits.items()},
        "training_edges": sum(s.graph.edges for s in train),
        "parameters": parameters,
        "config": settings,
        "deeph_gformer": __version__,
    }


def structures_of(train: Sequence[Sample]) -> dict[str, Any]:
    """What a bundle remembers of its training structures.

    Electrons, how they are periodic, and whether H has time reversal.
    """
    return {
        "time_reversal": has_time_reversal(train),
        "electrons": count_electrons([s.folder for s in train]),
        "periodicity": sorted(
            {coupling(s.graph.edge_key.numpy(), s.graph.nodes).rank for s in train}
        ),
    }


def finish(
    path: pathlib.Path,
    bundle: Bundle,
    both: HamiltonianModel,
    splits: Mapping[str, Sequence[pathlib.Path]],
    samples: Mapping[str, Sequence[Sample]],
) -> None:
    """Add errors on validation and the guard's statistics to the record, and write the bundle.

    Args:
        path: where it goes.
        bundle: its ``training`` is the record.
        both: both stages.
        splits: folders, for the overlap table.
        samples: training and validation structures.
    """
    bundle.training["validation"] = validation_errors(both, samples["val"])
    graphs = {name: [s.graph for s in samples[name]] for name in ("train", "val")}
    bundle.training["guard"] = guard_statistics(both, graphs["train"], graphs["val"])
    every = graphs["train"] + graphs["val"]
    bundle.training["nearest"] = nearest_table(every, len(bundle.targets.basis.elements))
    with shielded():
        write_basis_table([*splits["train"], *splits["val"]], path / OVERLAP_TABLE)
        save_bundle(path, bundle)


def validation_errors(model: HamiltonianModel, samples: Sequence[Sample]) -> dict[str, float]:
    """Errors of the finished model, without μS and raw.

    Args:
        model: both stages.
        samples: validation structures.

    Returns:
        See :func:`deeph_gformer.analysis.metrics.means`.
    """
    kinds, spinful = [], model.targets.basis.spinful
    fill = getattr(model.stage1, "fill_missing", None)
    for sample in samples:
        structure = read_folder(sample.folder)
        types, keys = sample.graph.node_type.numpy(), sample.graph.edge_key.numpy()
        first, both = (
            model.blocks.to_matrix(h.cpu().numpy(), types, keys, np.nan if fill is None else fill)
            for h in hermitian_products(model, sample.graph)
        )
        there = has_matrix(sample.folder, "overlap")
        kinds.append(
            gauge_errors(
                sample.name,
                read_matrix(sample.folder, "hamiltonian", structure, spinful),
                first,
                both,
                read_matrix(sample.folder, "overlap", structure) if there else None,
                model.targets,
                types,
            )
        )
    return means(kinds)
