"""A tiny DeepH-E3 model with random weights."""

from __future__ import annotations

import functools
import pathlib
import tempfile

import torch

from deeph_gformer.algebra.orbitals import Basis, make_target_blocks
from deeph_gformer.config import Stage1Config, TrainStage1Config
from deeph_gformer.stage1.bundle import write_model_folder
from deeph_gformer.stage1.embedded.checkpoint import official_state
from deeph_gformer.stage1.embedded.network import DeepHE3Net
from deeph_gformer.training.stage1_folder import train_ini
from deeph_gformer.training.stage1_network import net_config

from .conftest import tree

__all__ = ["model_files"]


@functools.cache
def model_files(
    spinful: bool,
    seed: int,
    dtype: torch.dtype,
    irreps: str,
    blocks: int,
    elements: tuple[int, ...],
    shells: tuple[tuple[int, ...], ...],
) -> tuple[dict[str, bytes], torch.Tensor]:
    """Files of :func:`.conftest.write_tiny_stage1`; each model is made once.

    Beside them the state of the random numbers: the same ones follow, whether it was made or not.
    """
    targets = make_target_blocks(Basis(elements, shells, spinful))
    settings = Stage1Config(
        irreps_embed="4x0e",
        irreps_mid=irreps,
        num_blocks=blocks,
        cutoff_radius=5.0,
        spherical_harmonics_lmax=4,
    )
    config = net_config(settings, targets)
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        net = DeepHE3Net(config, ">=0.5")
    finally:
        torch.set_default_dtype(torch.float32)
    checkpoint = {
        "epoch": 0,
        "val_loss": 1.0,
        "state_dict": official_state(net),
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
    }
    name = "float64" if dtype == torch.float64 else "float32"
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_model_folder(
            folder,
            config,
            targets,
            checkpoint,
            train_ini(TrainStage1Config(model=settings, dtype=name)),
        )
        return tree(folder), torch.get_rng_state()
