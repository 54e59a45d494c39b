"""Every hyper-parameter: frozen dataclasses with a docstring and an interval for each field."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

__all__ = [
    "GFormerConfig",
    "Stage1Config",
    "TrainingConfig",
    "DataConfig",
    "TrainConfig",
    "TrainStage1Config",
    "within",
]


def within(default: Any, interval: str) -> Any:
    """A field with a default and an interval of allowed numbers, e.g. ``[0, 1)`` or
    ``0 or [1e-6, 1)``; NaN is in none.

    Args:
        default: a number, or a tuple of numbers that are all in the interval.
        interval: its bounds.
    """
    return dataclasses.field(default=default, metadata={"within": interval})


@dataclasses.dataclass(frozen=True)
class GFormerConfig:
    """The GFormer (stage 2)."""

    arch: Literal["paper", "equivariant"] = "equivariant"
    """``paper``: Eq. 2-7 as printed, on irreps in global axes. ``equivariant``: the same
    Transformer on invariants, gating stage 1's irreps."""
    width: int = within(128, "[1, 8192]")
    """d, width of node and edge features; a multiple of ``heads``."""
    heads: int = within(8, "[1, 8192]")
    """H, attention heads."""
    alpha: float = within(1.0, "(-inf, inf)")
    """Weight of stage 1's node irreps in Eq. 2."""
    beta: float = within(1.0, "(-inf, inf)")
    """Weight of the invariant node feature in Eq. 2."""
    lam: float = within(1.0, "(-inf, inf)")
    """Weight λ of stage 1's edge irreps in Eq. 2."""
    attention: str = "softmax"
    """``softmax``: Eq. 4 and 5. ``mean``: the plain mean over the neighbours (setting "-att"). Or
    the name of another package's entry point."""
    residual: bool = True
    """Edge update reads ẽ and is added to it; False: Eq. 6 as printed."""
    embed: int = within(32, "[1, 8192]")
    """Width of the element and pair embeddings z_i, z_ij."""
    gaussians: int = within(64, "[2, 8192]")
    """Gaussians of the distance, d_ij."""
    lmax: int = within(4, "[0, 11]")
    """Spherical harmonics of the initial edge features (``arch: paper``)."""
    pairs: Literal["all", "adjacent"] = "all"
    """Eq. 3 over ``all`` pairs of neighbours, or ``adjacent`` ones as printed (``arch: paper``
    always)."""
    density_channels: int = within(16, "[1, 8192]")
    """``pairs: all``: radial functions of the density."""
    density_lmax: int = within(4, "[0, 11]")
    """``pairs: all``: largest l of the density."""
    cosine_repeat: int = within(16, "[1, 8192]")
    """``pairs: adjacent``: copies of the cosine, which weigh it up."""
    envelope: float = within(0.25, "[0, 1]")
    """Part of the range of an element pair over which an edge fades out; 0: none (``arch: paper``
    always)."""
    norm_floor: float = within(1.0, "(0, inf)")
    """c in sqrt(x² + c²), the norm of an irrep x of unit variance; smooth where x vanishes."""
    groups: int = within(3, "[1, 100]")
    """P, encoder groups; with stage-1 features as many as stage 1 has."""
    gated_channels: int = within(64, "[1, 8192]")
    """Gated channels per irrep (and per |m|) of the equivariant head."""
    mixing: bool = True
    """Equivariant head: also mix channels of different l in the frame of each edge; False: gates
    only."""
    messages: int = within(16, "[0, 8192]")
    """Equivariant head: channels per irrep that an atom gathers from its edges first (needs
    ``mixing``); 0: none."""


@dataclasses.dataclass(frozen=True)
class Stage1Config:
    """The embedded DeepH-E3 network; names and defaults are those of DeepH-E3's ``train.ini``."""

    irreps_embed: str = "64x0e"
    """Initial node and edge features, 0e only."""
    irreps_mid: str = "64x0e+32x1o+16x2e+8x3o+8x4e"
    """Node and edge features of the encoder groups."""
    num_blocks: int = within(3, "[1, 100]")
    """P, encoder groups."""
    cutoff_radius: float = within(7.2, "(0, inf)")
    """Radius of the Gaussian distance basis, Å (edges come from the data)."""
    spherical_harmonics_lmax: int = within(4, "[0, 11]")
    """Largest l of the edge harmonics."""
    spherical_basis_irreps: str = ""
    """Spherical Bessel basis instead of plain harmonics, e.g. ``3x0e+3x1o+3x2e``."""
    ignore_parity: bool = False
    """Every irrep is even."""
    scale_shift: bool = False
    """Scale and shift the output per element (self-loops) and ordered pair of elements; the shift
    starts at the training set's means. The folder is one of DeepH-E3's later version."""
    norm: Literal["graph", "training"] = "graph"
    """Means that the norms subtract: each structure's, as DeepH-E3 does, or constants from the
    training set, which make the network local (DeepH-E3 itself cannot run it)."""
    target_blocks_type: Literal["all", "diag", "off-diag", "specify"] = "all"
    """Which orbital pairs this model predicts."""
    selected_element_pairs: tuple[str, ...] = ()
    """Only these pairs of elements, e.g. ``["42 16"]``; empty: all."""
    target_blocks: tuple[dict[str, Any], ...] = ()
    """The output channels for ``target_blocks_type: specify``."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train, for both stages."""

    epochs: int = within(500, "[1, inf)")
    """Passes over the training set."""
    batch_size: int = within(1, "[1, inf)")
    """Structures a step."""
    learning_rate: float = within(1e-3, "(0, inf)")
    """Peak learning rate of Adam."""
    min_learning_rate: float = within(1e-6, "[0, inf)")
    """Where the schedule ends; with ``plateau`` training stops below it."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """``cosine`` over all epochs; ``plateau``: halved when validation stalls."""
    plateau_patience: int = within(30, "[0, inf)")
    """Epochs without progress before ``plateau`` halves the rate."""
    warmup_steps: int = within(100, "[0, inf)")
    """Linear warm-up of the learning rate; at most a tenth of the steps of the run."""
    betas: tuple[float, float] = within((0.9, 0.999), "[0, 1)")
    """Adam's averages."""
    weight_decay: float = within(0.0, "[0, inf)")
    """Decoupled weight decay (AdamW)."""
    gradient_clip: float = within(10.0, "[0, inf)")
    """Largest gradient norm; 0: no clipping."""
    ema: float = within(0.0, "[0, 1)")
    """Decay of the running average of the weights that is validated and kept (it forgets faster in
    the first steps); 0: off."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Masked loss on H in the direct-product state (``mse``: the paper)."""
    hermitian: bool = True
    """Loss of what inference writes instead of the raw output: ½(H + H†), and for a GFormer whose
    spin-orbit labels have time reversal the part of it that has time reversal."""
    rotate: bool = False
    """Random rotation of every structure in every epoch (features and labels by Wigner-D)."""
    states_weight: float = within(0.0, "0 or [1e-6, 1e6]")
    """Weight of the first-order energies of DFT's states near the Fermi level in the loss, beside 1
    for H; 0: off. Needs overlaps."""
    states_block_weight: float = within(0.0, "0 or [1e-6, 1e6]")
    """The same for the matrix elements between different states of the window."""
    states_coupling_weight: float = within(0.0, "0 or [1e-6, 1e6]")
    """The same for the coupling of the window to all other states (ghosts); keeps all
    eigenvectors."""
    states_window: float = within(3.0, "(0, inf)")
    """Half width of the window around the Fermi level, eV."""
    states_spacing: float = within(0.6, "(0, inf)")
    """Largest distance of the k-points whose states are in the loss, 1/Å; each step draws
    ``states_kpoints`` of them."""
    states_kpoints: int = within(1, "[1, 64]")
    """K-points of each structure in a step."""
    states_shift: tuple[float, float, float] = within((0.0, 0.0, 0.0), "[0, 1)")
    """Shift of these k-points from Γ along periodic directions, in steps of their mesh."""
    states_memory: float = within(4.0, "(0, inf)")
    """Most memory for eigenvectors, GiB (with ``data.cache: disk`` they are in files)."""
    states_every: int = within(1, "[1, inf)")
    """Epochs between validations of DFT's states, of the epochs that are validated at all."""
    validate_every: int = within(1, "[1, inf)")
    """Epochs between validations; the first and the last epoch have one, too, and the first after
    ``--resume``. Only a validated epoch can be the best. ``early_stopping`` and
    ``plateau_patience`` are epochs all the same, rounded up to whole validations."""
    monitor: Literal["mae", "states", "both"] = "mae"
    """What the best epoch is best in, on validation: error of H, of DFT's states, or the geometric
    mean of both (the same epoch as with the ratios to stage 1)."""
    early_stopping: int = within(0, "[0, inf)")
    """Stop after so many epochs without a better validation (see ``monitor``); 0: never."""
    seed: int = within(42, "[0, 4294967295]")
    """Of everything random."""
    threads: int = within(0, "[0, 1024]")
    """CPU threads; 0: torch's choice."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` ..."""
    devices: int = within(1, "[1, 1024]")
    """Processes of data-parallel training (one GPU or one torchrun rank each)."""
    precision: Literal["model", "bf16-mixed", "tf32"] = "model"
    """``model``: stage 1's dtype throughout; the others pay on GPUs."""
    checkpoint_activations: bool = False
    """Make what is cheap again in the backward pass instead of keeping it: less memory for more
    time."""
    cuda_graphs: Literal["auto", "true", "false"] = "auto"
    """Replay the step of each structure as one CUDA graph, which pays for small structures.
    ``auto``: on a GPU where that is possible (steps of one structure, one process)."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where structures are and how they are split."""

    preprocessed: str = ""
    """Folder with structure folders (``hamiltonians.h5`` each)."""
    splits: str = ""
    """JSON file ``{"train": [names], "val": [names], "test": [names]}``; empty: random by the
    ratios below and the seed."""
    train_ratio: float = within(0.7, "(0, 1)")
    """Share of training structures."""
    val_ratio: float = within(0.15, "(0, 1)")
    """Share of validation structures; the rest is tested."""
    edges: Literal["auto", "overlaps", "hamiltonians", "union"] = "auto"
    """Which blocks are edges of the graph. ``auto``: those of S, which are all that a structure
    without DFT's H will have; those of H where there is no S."""
    edge_variants: int = within(0, "[0, 16]")
    """Further samples of each training structure, with slightly other edges: the first with those
    that only H has, the next ones without some of nearly no S. Of use where stage 1 has memorised
    its training structures. Validation and what the model remembers of its data are of the
    structures as they are."""
    cache: Literal["ram", "disk", "off"] = "ram"
    """Where stage 1's features are kept between epochs."""
    gauge: Literal["auto", "raw", "standard"] = "auto"
    """``standard``: train on H - μS with μ = <H,S>/<S,S> per structure; ``raw``: on H as it is;
    ``auto``: that of stage 1, or ``standard`` where μ differs between the structures (it is said
    which, and why)."""
    memorised: Literal["weight", "leave-out", "use"] = "weight"
    """What a GFormer does with structures that its stage 1 was trained on, where others are there,
    too: they take part in fewer epochs the better stage 1 has memorised them (``weight``), in none,
    or in all."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """``deeph-gformer train``: stage 2 on a frozen stage 1."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: GFormerConfig = dataclasses.field(default_factory=GFormerConfig)
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(learning_rate=2e-3, loss="mae", ema=0.99)
    )
    stage1: str = ""
    """DeepH-E3 model folder."""
    output: str = "runs/gformer"
    """Where logs, checkpoints and the bundle go."""
    cascade: bool = True
    """Predict the correction to stage 1; false: all of H from stage 1's irreps, which wants several
    times as many epochs (the paper's -cas)."""
    start: str = ""
    """A bundle to start from instead of random weights (``--from``), of the same stage 1, basis and
    gauge."""
    cross_fit: str = ""
    """Run folder of ``train-stage1 --folds``: learn from networks that did not see the structure
    (``--cross-fit``)."""
    cross_features: Literal["final", "fold"] = "final"
    """With ``cross_fit``: whose irreps are read, those of the final network, or those of the one
    that did not see the structure (of use with ``folds_start: final`` only: irreps mean something
    in one network)."""


@dataclasses.dataclass(frozen=True)
class TrainStage1Config:
    """``deeph-gformer train-stage1``: a DeepH-E3 network on the embedded engine."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: Stage1Config = dataclasses.field(default_factory=Stage1Config)
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(learning_rate=2e-3, ema=0.99, hermitian=False)
    )
    dtype: Literal["float32", "float64"] = "float32"
    """Of the parameters and the saved model folder."""
    edge_chunk: int = within(0, "[0, inf)")
    """Edges per chunk of a convolution, made again in the backward pass: two fifths of the memory
    for two fifths more time. 0: all at once."""
    output: str = "runs/stage1"
    """Where logs, checkpoints and the model folder go."""
    folds: int = within(0, "[0, inf)")
    """Further networks, each without one part of the training structures, for ``train --cross-fit``
    (2 or more; 0: none)."""
    folds_start: Literal["random", "final"] = "random"
    """Where fold networks start: from random weights, or from the final network, which they forget
    slowly."""
    final: str = ""
    """With ``folds``: a finished model folder to make fold networks for (``--final``); it is left
    as it is."""
