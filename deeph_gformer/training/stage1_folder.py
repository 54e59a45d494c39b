"""What a stage-1 training leaves: a DeepH-E3 model folder, ``train.ini`` as DeepH-E3 reads it."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import lightning.pytorch as pl

from ..algebra.orbitals import TargetBlocks
from ..config import TrainStage1Config
from ..stage1.bundle import write_model_folder
from ..stage1.embedded.checkpoint import export_optimizer, official_state
from ..stage1.embedded.network import DeepHE3Net
from ..stage1.net_config import NetConfig
from .callbacks import SaveBest

__all__ = ["SaveModelFolder", "save_stage1", "train_ini"]


#: ``src/train.ini`` with every key that DeepH-E3 asks for; paths are left blank.
TRAIN_INI = """\
[basic]
device = cpu
dtype = {dtype}
save_dir =
additional_folder_name =
simplified_output = True
seed = {t.seed}
checkpoint_dir =
use_new_hypp = True

[data]
graph_dir =
DFT_data_dir =
processed_data_dir =
save_graph_dir =
target_data = hamiltonian
dataset_name = deeph_gformer
get_overlap = False

[train]
num_epoch = {t.epochs}
batch_size = {t.batch_size}
extra_validation = []
extra_val_test_only = True
train_ratio = {d.train_ratio}
val_ratio = {d.val_ratio}
test_ratio = {test_ratio}
train_size = -1
val_size = -1
test_size = -1
min_lr = {t.min_learning_rate}

[hyperparameters]
learning_rate = {t.learning_rate}
Adam_betas = {betas}
scheduler_type = 0
scheduler_params =
revert_decay_patience = 20
revert_decay_rate = 0.8

[target]
target = hamiltonian
target_blocks_type = {m.target_blocks_type}
target_blocks = {target_blocks}
selected_element_pairs = {element_pairs}
convert_net_out = False

[network]
cutoff_radius = {m.cutoff_radius}
only_ij = False
spherical_harmonics_lmax = {lmax}
spherical_basis_irreps = {m.spherical_basis_irreps}
irreps_embed = {m.irreps_embed}
irreps_mid = {m.irreps_mid}
num_blocks = {m.num_blocks}
ignore_parity = {m.ignore_parity}
irreps_embed_node =
irreps_edge_init =
irreps_mid_node =
irreps_post_node =
irreps_out_node =
irreps_mid_edge =
irreps_post_edge =
out_irreps =
"""


def train_ini(config: TrainStage1Config) -> str:
    """``src/train.ini`` as DeepH-E3's evaluation reads it."""
    model, data = config.model, config.data
    return TRAIN_INI.format(
        t=config.training,
        d=data,
        m=model,
        dtype={"float32": "float", "float64": "double"}[config.dtype],
        test_ratio=round(1 - data.train_ratio - data.val_ratio, 6),
        betas=tuple(config.training.betas),
        target_blocks=list(model.target_blocks) or "",
        element_pairs=list(model.selected_element_pairs) or "",
        lmax="" if model.spherical_basis_irreps else model.spherical_harmonics_lmax,
    )


class SaveModelFolder(SaveBest):
    """Writes the DeepH-E3 model folder."""

    def __init__(
        self,
        folder: pathlib.Path,
        config: NetConfig,
        targets: TargetBlocks,
        ini: str,
        notes: dict[str, Any],
    ) -> None:
        """
        Args:
            folder: where it goes.
            config: arguments of the network.
            targets: what it predicts.
            ini: text of ``src/train.ini``.
            notes: what this package adds, see :func:`..stage1.bundle.write_model_folder`.
        """
        super().__init__()
        self.folder, self.config, self.targets = folder, config, targets
        self.ini, self.notes = ini, notes

    def save(self, trainer: pl.Trainer, module: pl.LightningModule, value: float) -> None:
        """See :class:`SaveBest`."""
        save_stage1(
            self.folder,
            module.network,  # type: ignore[arg-type]  # Lightning knows no network
            self.config,
            self.targets,
            self.ini,
            trainer.current_epoch,
            float(trainer.callback_metrics["val_mse_eV2"]),
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
    """Write a model folder that DeepH-E3 and this package load.

    Args:
        folder: where it goes.
        net: the network.
        config: its arguments.
        targets: what it predicts.
        ini: text of ``src/train.ini``.
        epoch: number of the epoch.
        loss: its validation loss, eV².
        optimizer: state of Adam; None: it is left out.
        notes: what this package adds, see :func:`..stage1.bundle.write_model_folder`.
    """
    checkpoint = {
        "epoch": epoch,
        "val_loss": loss,
        "state_dict": official_state(net),
        "scheduler_state_dict": {},
        "optimizer_state_dict": export_optimizer(net, optimizer) if optimizer else {},
    }
    write_model_folder(folder, config, targets, checkpoint, ini, notes)
