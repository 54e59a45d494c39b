"""``deeph-gformer train-stage1``: DeepH-E3's network, saved as a DeepH-E3 model folder."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..algebra.blocks import DirectSumToProduct
from ..algebra.orbitals import TargetBlocks
from ..algebra.wigner import Generation
from ..config import TrainStage1Config
from ..data.dataset import basis_of, left_out
from ..data.edges import learned_edges
from ..data.sketch import sketch_samples
from ..errors import ModelError
from ..fields import OVERLAP_TABLE
from ..io.files import write_json
from ..stage1.embedded.checkpoint import import_optimizer
from ..stage1.embedded.provider import EmbeddedStage1
from ..stage1.provider import Stage1Provider
from .batches import FeatureCache, joiner
from .before import stage1_errors, warn_if_worse
from .folder import RECORD_FILE, check_run, locked, recorded, this_run
from .gauge import choose_gauge
from .module import Stage1Task
from .overlap_table import write_basis_table
from .process import echo, first_rank, memory_hint, own_device
from .run import fit, loaders
from .samples import count_samples, learned_from, own_images, training_samples
from .seen import structures_note
from .splits import run_splits
from .stage1_folder import SaveModelFolder, train_ini
from .stage1_network import start_network
from .state_bank import state_bank
from .statistics import start_at_statistics

__all__ = ["train_stage1"]

#: Unit of the loss, eV: keeps gradients in a comfortable range (Adam does not mind, clipping does).
UNIT = 0.03


@memory_hint()
def train_stage1(
    config: TrainStage1Config,
    *,
    resume: bool = False,
    continue_from: str | None = None,
    generation: Generation = ">=0.5",
    every: int = 1,
    first: Stage1Provider | None = None,
    splits: dict[str, list[pathlib.Path]] | None = None,
) -> dict[str, Any]:
    """Train a DeepH-E3 network; the best state so far is always in ``<output>/model`` as a DeepH-E3
    model folder.

    Args:
        config: everything.
        resume: go on with the run in ``config.output``.
        continue_from: start from this DeepH-E3 model folder, its Adam state included where it is
            there; with ``resume`` it tells the kind of network only.
        generation: e3nn conventions of a new network.
        every: epochs between printed lines.
        first: a frozen stage 1 whose residual the network learns instead of H (the paper's
            S1_DeepHE3 + S2_DeepHE3).
        splits: folders of each split, where they are not those of ``config.data``.

    Returns:
        A record of plain values.

    Raises:
        ConfigError, DataError, ModelError: see the readers; also where the run folder holds another
        run, and without memory (says what to lower).
    """
    settings = config.training
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    splits = splits or run_splits(config, resume)
    folder = pathlib.Path(config.output)
    with locked(folder, first_rank(), functools.partial(check_run, config, splits, resume)):
        return _train(
            config, splits, folder, resume, continue_from or None, generation, every, first
        )


def _train(
    config: TrainStage1Config,
    splits: dict[str, list[pathlib.Path]],
    folder: pathlib.Path,
    resume: bool,
    continue_from: str | None,
    generation: Generation,
    every: int,
    first: Stage1Provider | None,
) -> dict[str, Any]:
    """:func:`train_stage1` in a folder that is its own."""
    settings = config.training
    basis = basis_of([*splits["train"], *splits["val"]])
    net, arguments, targets, old = start_network(
        config, basis, continue_from, generation if first is None else first.generation
    )
    if first is not None:
        _require_same_output(first, targets, not arguments.no_parity)
        if old is None:  # starts where the first network is, as the GFormer does
            torch.nn.init.zeros_(net.lin_edge.weight)
    net.chunk, net.again = config.edge_chunk, settings.checkpoint_activations
    dtype = net.lin_edge.weight.dtype
    below = first if first is not None or old is None else EmbeddedStage1(old, dtype=dtype)
    choice = choose_gauge(
        config.data.gauge, splits["train"], below, device=own_device(config.training)
    )
    echo(str(choice))
    samples, edges = training_samples(
        config.data, splits, targets, dtype, choice.gauge, settings.seed
    )
    cache = FeatureCache(
        first, config.data.cache, folder / "cache", features=False, device=own_device(settings)
    )
    join = joiner(cache)
    train, val = loaders(learned_from(samples), samples["val"], join, settings)
    to_product = DirectSumToProduct(targets, net.generation, dtype)
    if old is None:
        start_at_statistics(net, samples["train"], to_product if first is None else None)
    task = Stage1Task(net, to_product, settings, settings.epochs * len(train), UNIT)
    if old is not None and old.checkpoint.get("optimizer_state_dict", {}).get("state"):
        task.start_optimizer = import_optimizer(net, old.checkpoint["optimizer_state_dict"])
    disk = folder / "cache" if config.data.cache == "disk" else None
    task.bank = state_bank(samples, targets, settings, UNIT, disk, echo)
    data = sketch_samples(samples, None if task.bank is None else task.bank.read)
    parameters = sum(p.numel() for p in net.parameters())
    echo(
        f"{count_samples(samples)}, "
        f"{sum(s.graph.edges for s in learned_from(samples)):,} training edges; "
        f"network {arguments.irreps_mid_node}, {parameters:,} parameters"
    )
    if rest := left_out([*samples["train"], *samples["val"]]):
        echo(rest)
    if images := own_images(samples):
        echo(images)
    ini = old.train_ini if old is not None and old.train_ini else train_ini(config)
    notes = {
        **choice.to_json(),
        **structures_note(splits, None if old is None else old.notes),
        "edges": learned_edges(edges),
        "deeph_gformer": __version__,
    }
    save = SaveModelFolder(folder / "model", arguments, targets, ini, notes)
    before = None
    if below is not None and first is None:
        known = FeatureCache(below, "off", features=False, device=own_device(settings))
        errors = stage1_errors(samples["val"], known, to_product, settings.hermitian)
        before = {"best_val_mae_meV": float(np.mean(errors))}
        echo(f"{continue_from}: on validation {before['best_val_mae_meV']:.4f} meV")
    with recorded(folder, config, splits):
        result = fit(
            task,
            train,
            val,
            folder,
            settings,
            this_run(config, splits, cache.record(), data),
            resume=resume,
            every=every,
            callbacks=[save],
        )
    record = {
        "structures": {n: len(f) for n, f in splits.items()},
        "edges": notes["edges"],
        "parameters": parameters,
        "e3nn_generation": net.generation,
        **result,
        **choice.to_json(),
    }
    if first_rank():
        write_basis_table(splits["train"], folder / "model" / OVERLAP_TABLE)
        if before is not None:
            warn_if_worse(before, result)
        write_json(folder / RECORD_FILE, record)  # the last one: where it is nothing is done again
    return record


def _require_same_output(first: Stage1Provider, targets: TargetBlocks, parity: bool) -> None:
    """A network that learns the residual of another one predicts the same blocks.

    Raises:
        ModelError: it does not.
    """
    if first.targets != targets or first.parity != parity:
        raise ModelError(
            f"{first.name}: predicts other blocks than the network that is to learn its "
            "residual; model.target_blocks_type and ignore_parity have to agree"
        )
