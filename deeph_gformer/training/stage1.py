"""``deeph-gformer train-stage1``: DeepH-E3's network on the embedded engine, saved as a DeepH-E3 model folder."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
from configparser import ConfigParser
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from e3nn.o3 import Irreps
from lightning.pytorch.callbacks import Callback

from .. import __version__
from ..algebra.blocks import DirectSumToProduct
from ..algebra.orbitals import Basis, TargetBlocks, make_target_blocks
from ..algebra.wigner import Generation
from ..analysis.basis import write_basis_table
from ..config import Stage1Config, TrainStage1Config
from ..data.dataset import basis_of, load_samples
from ..errors import ConfigError, ModelError
from ..fields import OVERLAP_TABLE
from ..io.files import write_json
from ..stage1.bundle import ModelFolder, NetConfig, read_model_folder, write_model_folder
from ..stage1.embedded.checkpoint import (
    export_optimizer,
    import_optimizer,
    load_network,
    official_state,
)
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.embedded.provider import EmbeddedStage1
from ..stage1.provider import Stage1Provider
from ..stopping import shielded
from .batches import FeatureCache, joiner
from .folder import locked
from .gauge import choose_gauge
from .module import Stage1Task
from .run import check_run, first_rank, fit, loaders, memory_hint, own_device, recorded, say
from .stage2 import run_splits

__all__ = ["train_stage1", "net_config", "stage1_config", "train_ini"]

#: Unit of the loss, eV: keeps gradients in a comfortable range (Adam does not mind, clipping does).
UNIT = 0.03


def net_config(config: Stage1Config, targets: TargetBlocks) -> NetConfig:
    """Arguments of the network, with the irreps that DeepH-E3 derives from the targets.

    Raises:
        ConfigError: irreps do not parse, or cannot produce the output.
    """
    parity = not config.ignore_parity
    try:
        mid, embed = Irreps(config.irreps_mid), Irreps(config.irreps_embed)
        sh = (
            Irreps(config.spherical_basis_irreps)
            if config.spherical_basis_irreps
            else Irreps(
                [
                    (1, (l, (-1) ** l if parity else 1))
                    for l in range(config.spherical_harmonics_lmax + 1)
                ]
            )
        )
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"irreps of the stage-1 network do not parse: {error}") from None
    if any(ir.l or ir.p != 1 for _, ir in embed):
        raise ConfigError(f"irreps_embed = {config.irreps_embed}: only 0e is possible")
    out = targets.irreps(parity)
    post_edge = out.sort().irreps.simplify()
    post_node = mid
    reach = {
        (l, p1 * p2)
        for _, (l1, p1) in mid
        for _, (l2, p2) in sh
        for l in range(abs(l1 - l2), l1 + l2 + 1)
    }
    for _, ir in post_edge:  # unnatural parities (spin-orbit) may need a node irrep that mid lacks
        made = {
            (l, p1 * p2)
            for _, (l1, p1) in post_node
            for _, (l2, p2) in sh
            for l in range(abs(l1 - l2), l1 + l2 + 1)
        }
        if (ir.l, ir.p) in made:
            continue
        helpers = [
            (l, ir.p * p2)
            for _, (l2, p2) in sh
            for l in range(abs(ir.l - l2), ir.l + l2 + 1)
            if (l, ir.p * p2) in reach
        ]
        if not helpers:
            raise ConfigError(
                f"irreps_mid = {config.irreps_mid} with these harmonics cannot produce {ir}, "
                f"which the orbitals need; raise their l"
            )
        l, p = min(helpers)
        same = [mul for mul, other in mid if other.l == l]
        post_node = post_node + Irreps([(same[0] if same else mid[-1].mul, (l, p))])
    return NetConfig(
        len(targets.basis.elements),
        str(embed),
        str(embed),
        str(sh),
        str(mid),
        str(post_node),
        "1x0e",
        str(mid),
        str(post_edge),
        str(out),
        config.num_blocks,
        config.cutoff_radius,
        no_parity=config.ignore_parity,
        use_sbf=bool(config.spherical_basis_irreps),
    )


def stage1_config(net: NetConfig) -> Stage1Config:
    """The settings of a network: what :func:`net_config` makes it of (which blocks it predicts aside)."""
    return Stage1Config(
        irreps_embed=net.irreps_embed_node,
        irreps_mid=net.irreps_mid_node,
        num_blocks=net.num_block,
        cutoff_radius=net.r_max,
        spherical_harmonics_lmax=Irreps(net.irreps_sh).lmax,
        spherical_basis_irreps=net.irreps_sh if net.use_sbf else "",
        ignore_parity=net.no_parity,
    )


def train_ini(config: TrainStage1Config) -> str:
    """``src/train.ini`` as DeepH-E3's evaluation reads it; paths are left blank."""
    m, t = config.model, config.training
    parser = ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser["basic"] = {
        "device": "cpu",
        "dtype": "float" if config.dtype == "float32" else "double",
        "save_dir": "",
        "additional_folder_name": "",
        "simplified_output": "True",
        "seed": str(t.seed),
        "checkpoint_dir": "",
        "use_new_hypp": "True",
    }
    parser["data"] = {
        "graph_dir": "",
        "DFT_data_dir": "",
        "processed_data_dir": "",
        "save_graph_dir": "",
        "target_data": "hamiltonian",
        "dataset_name": "deeph_gformer",
        "get_overlap": "False",
    }
    parser["train"] = {
        "num_epoch": str(t.epochs),
        "batch_size": str(t.batch_size),
        "extra_validation": "[]",
        "extra_val_test_only": "True",
        "train_ratio": str(config.data.train_ratio),
        "val_ratio": str(config.data.val_ratio),
        "test_ratio": str(round(1 - config.data.train_ratio - config.data.val_ratio, 6)),
        "train_size": "-1",
        "val_size": "-1",
        "test_size": "-1",
        "min_lr": str(t.min_learning_rate),
    }
    parser["hyperparameters"] = {
        "learning_rate": str(t.learning_rate),
        "Adam_betas": str(tuple(t.betas)),
        "scheduler_type": "0",
        "scheduler_params": "",
        "revert_decay_patience": "20",
        "revert_decay_rate": "0.8",
    }
    parser["target"] = {
        "target": "hamiltonian",
        "target_blocks_type": m.target_blocks_type,
        "target_blocks": str(list(m.target_blocks)) if m.target_blocks else "",
        "selected_element_pairs": str(list(m.selected_element_pairs))
        if m.selected_element_pairs
        else "",
        "convert_net_out": "False",
    }
    parser["network"] = {
        "cutoff_radius": str(m.cutoff_radius),
        "only_ij": "False",
        "spherical_harmonics_lmax": ""
        if m.spherical_basis_irreps
        else str(m.spherical_harmonics_lmax),
        "spherical_basis_irreps": m.spherical_basis_irreps,
        "irreps_embed": m.irreps_embed,
        "irreps_mid": m.irreps_mid,
        "num_blocks": str(m.num_blocks),
        "ignore_parity": str(m.ignore_parity),
        **dict.fromkeys(
            (
                "irreps_embed_node",
                "irreps_edge_init",
                "irreps_mid_node",
                "irreps_post_node",
                "irreps_out_node",
                "irreps_mid_edge",
                "irreps_post_edge",
                "out_irreps",
            ),
            "",
        ),
    }
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


class SaveModelFolder(Callback):
    """Writes the DeepH-E3 model folder whenever validation has a new best."""

    def __init__(
        self,
        folder: pathlib.Path,
        config: NetConfig,
        targets: TargetBlocks,
        ini: str,
        notes: dict[str, Any],
    ) -> None:
        self.folder, self.config, self.targets, self.ini = folder, config, targets, ini
        self.notes, self.best = notes, float("inf")

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best = state["best"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Save when better; runs while averaged weights are still in place."""
        value = float(trainer.callback_metrics["val_mae_meV"])
        if trainer.is_global_zero and value < self.best:
            self.best = value
            loss = float(trainer.callback_metrics["val_mse_eV2"])
            with shielded():
                save_stage1(
                    self.folder,
                    module.network,  # type: ignore[arg-type]
                    self.config,
                    self.targets,
                    self.ini,
                    trainer.current_epoch,
                    loss,
                    trainer.optimizers[0].state_dict(),
                    self.notes,
                )


def save_stage1(
    folder: str | os.PathLike[str],
    net: DeepHE3Net,
    config: NetConfig,
    targets: TargetBlocks,
    ini: str,
    epoch: int,
    loss: float,
    optimizer: dict[str, Any] | None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a model folder that DeepH-E3 and this package load."""
    checkpoint = {
        "epoch": epoch,
        "val_loss": loss,
        "state_dict": official_state(net),
        "scheduler_state_dict": {},
        "optimizer_state_dict": export_optimizer(net, optimizer) if optimizer else {},
    }
    write_model_folder(folder, config, targets, checkpoint, ini, notes)


def contradictions(config: Stage1Config, old: ModelFolder) -> list[str]:
    """Settings that are not left at their default and are not those of a model folder."""
    theirs, default = stage1_config(old.config), Stage1Config()
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        if field.name in ("target_blocks_type", "selected_element_pairs", "target_blocks"):
            kind = config.target_blocks_type
            same = (
                make_target_blocks(
                    old.targets.basis,
                    kind,
                    config.selected_element_pairs or None,
                    config.target_blocks or None,
                )
                == old.targets
            )
        else:
            same = net_config(
                dataclasses.replace(theirs, **{field.name: value}), old.targets
            ) == net_config(theirs, old.targets)
        if not same:
            found.append(field.name)
    return found


def _start(
    config: TrainStage1Config, basis: Basis, continue_from: str | None, generation: Generation
) -> tuple[DeepHE3Net, NetConfig, TargetBlocks, ModelFolder | None]:
    dtype = {"float32": torch.float32, "float64": torch.float64}[config.dtype]
    if continue_from:
        old = read_model_folder(continue_from)
        if old.targets.basis != basis:
            raise ModelError(
                f"{continue_from}: elements, shells or spin differ from those of the data: "
                f"{old.targets.basis} and {basis}"
            )
        wrong = contradictions(config.model, old)
        if wrong:
            raise ConfigError(
                f"{continue_from}: is another network than model.{', model.'.join(wrong)} say; "
                f"leave these out to go on with the folder's network, or "
                "train a new one without --resume MODEL_DIR"
            )
        return load_network(old, old.require_generation()).to(dtype), old.config, old.targets, old
    m = config.model
    targets = make_target_blocks(
        basis, m.target_blocks_type, m.selected_element_pairs or None, m.target_blocks or None
    )
    arguments = net_config(m, targets)
    torch.set_default_dtype(dtype)
    try:
        net = DeepHE3Net(arguments, generation)
    finally:
        torch.set_default_dtype(torch.float32)
    return net, arguments, targets, None


@memory_hint()
def train_stage1(
    config: TrainStage1Config,
    *,
    resume: bool = False,
    continue_from: str | None = None,
    generation: Generation = ">=0.5",
    every: int = 1,
    first: Stage1Provider | None = None,
) -> dict[str, Any]:
    """Train a DeepH-E3 network; the best state so far is always in ``<output>/model`` as a DeepH-E3
    model folder.

    Args:
        config: everything.
        resume: go on with the run in ``config.output``.
        continue_from: start from this DeepH-E3 model folder, its Adam state included where it is
            there.
        generation: e3nn conventions of a new network.
        every: epochs between printed lines.
        first: a frozen stage 1 whose residual the network learns instead of H (the paper's
            S1_DeepHE3 + S2_DeepHE3).

    Returns:
        A record of plain values.

    Raises:
        ConfigError, DataError, ModelError: see the readers; also where the run folder holds another
        run, and without memory (says what to lower).
    """
    settings = config.training
    if continue_from and resume:
        raise ConfigError(
            "choose one: --resume goes on with the run in the output folder, --resume MODEL_DIR "
            "starts from another model"
        )
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)
    splits = run_splits(config, resume)
    folder = check_run(config, splits, resume)
    with locked(folder, first_rank()):
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
    net, arguments, targets, old = _start(
        config, basis, continue_from, generation if first is None else first.generation
    )
    if first is not None and (
        first.targets != targets or first.parity != (not arguments.no_parity)
    ):
        raise ModelError(
            f"{first.name}: predicts other blocks than the network that is to learn its "
            f"residual; model.target_blocks_type and ignore_parity "
            "have to agree"
        )
    if first is not None and old is None:  # starts where the first network is, as the GFormer does
        torch.nn.init.zeros_(net.lin_edge.weight)
    net.chunk = config.edge_chunk
    dtype = net.lin_edge.weight.dtype
    below = first if first is not None or old is None else EmbeddedStage1(old)
    choice = choose_gauge(
        config.data.gauge, splits["train"], below, device=own_device(config.training)
    )
    say(str(choice))
    samples = {
        name: load_samples(splits[name], targets, config.data.edges, dtype, choice.gauge)
        for name in ("train", "val")
    }
    cache = FeatureCache(
        first, config.data.cache, folder / "cache", features=False, device=own_device(settings)
    )
    join = joiner(cache)
    train, val = loaders(samples["train"], samples["val"], join, settings)
    task = Stage1Task(
        net,
        DirectSumToProduct(targets, net.generation, dtype),
        settings,
        settings.epochs * len(train),
        UNIT,
    )
    if old is not None and old.checkpoint.get("optimizer_state_dict", {}).get("state"):
        task.start_optimizer = import_optimizer(net, old.checkpoint["optimizer_state_dict"])
    parameters = sum(p.numel() for p in net.parameters())
    say(
        f"{len(samples['train'])} training and {len(samples['val'])} validation structures, "
        f"{sum(s.graph.edges for s in samples['train']):,} training edges; "
        f"network {arguments.irreps_mid_node}, {parameters:,} parameters"
    )
    ini = old.train_ini if old is not None and old.train_ini else train_ini(config)
    notes = {**choice.to_json(), "deeph_gformer": __version__}
    save = SaveModelFolder(folder / "model", arguments, targets, ini, notes)
    with recorded(folder, config, splits):
        result = fit(
            task, train, val, folder, settings, resume=resume, every=every, callbacks=[save]
        )
    record = {
        "structures": {n: len(f) for n, f in splits.items()},
        "parameters": parameters,
        "e3nn_generation": net.generation,
        **result,
        **choice.to_json(),
    }
    if first_rank():
        write_json(folder / "record.json", record)
        write_basis_table(splits["train"], folder / "model" / OVERLAP_TABLE)
    return record
