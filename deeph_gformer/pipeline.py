"""The page: graph -> stage 1 -> GFormer -> direct sum -> direct product -> blocks (Fig. 1 of the paper).

>>> model = load("gformer/", stage1="stage1/")                                      # doctest: +SKIP
>>> prediction = model.predict("structures/0030")                                   # doctest: +SKIP
>>> prediction.hamiltonian                                                          # doctest: +SKIP
BlockMatrix(826 blocks, 139594 values, float32)
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .algebra.blocks import BlockAssembly
from .algebra.layout import Layout
from .algebra.orbitals import TargetBlocks
from .algebra.rotation import random_rotation, wigner_blocks
from .data.dataset import hermitian_product, transpose_index
from .data.edges import EdgeChoice, EdgeMode, select_edges
from .data.features import Stage1Features
from .data.fingerprint import checkpoint_fingerprint
from .data.graph import Graph, build_graph, rotate_graph
from .data.ranges import bundle_ranges, require_within
from .errors import ConfigError, DataError, ModelError
from .gformer.bundle import (
    BUNDLE_FILE,
    Bundle,
    Stage1Identity,
    load_bundle,
    require_irreps,
)
from .gformer.model import GFormer
from .io.blocks import BlockMatrix, match_keys, reverse_keys
from .io.folder import read_folder
from .io.gauge import Gauge
from .io.structure import Structure
from .stage1 import load_stage1
from .stage1.provider import Stage1Provider

__all__ = [
    "HamiltonianModel",
    "GFormerStage1",
    "Prediction",
    "load",
    "correction",
    "rotate_flat",
    "identify",
]


class Prediction(NamedTuple):
    """What a model says about one structure.

    Attributes:
        structure: the structure, with the model's spin. graph: what the network saw.
        hamiltonian: refined H, eV, legacy orbital order. stage1: stage 1's H on the same edges.
        edges: which blocks are edges, and where they came from. correction: mean |ΔH| in eV.
    """

    structure: Structure
    graph: Graph
    hamiltonian: BlockMatrix
    stage1: BlockMatrix
    edges: EdgeChoice
    correction: float


def rotate_flat(value: Tensor, irreps: Any, blocks: list[Tensor]) -> Tensor:
    """Turn flat irreps (rows, dim) by the D^l of one proper rotation."""
    layout = Layout(irreps)
    return layout.flat(
        {
            key: torch.einsum("mn,rnc->rmc", blocks[key[0]].to(part), part)
            for key, part in layout.split(value).items()
        }
    )


def correction(
    gformer: GFormer, graph: Graph, stage1: Stage1Features | None, frames: int = 1, seed: int = 0
) -> Tensor:
    """The direct-sum output of stage 2, averaged over rotated frames.

    Args:
        gformer: stage 2. graph: the structure. stage1: its output, with features where the GFormer reads them.
        frames: K; 1 uses the axes of the file, more are K - 1 random rotations besides (stage 1's irreps turn by Wigner-D).
        seed: of the rotations.

    Returns:
        (E, D), eV.
    """
    features = stage1 if gformer.node_irreps else None
    if frames <= 1 or gformer.equivariant:
        return gformer(graph, features)
    generator = torch.Generator().manual_seed(seed)
    lmax = max(
        ir.l
        for irreps in (*gformer.node_irreps, *gformer.edge_irreps, gformer.irreps_out)
        for _, ir in irreps
    )
    total = gformer(graph, features)
    for _ in range(frames - 1):
        rotation = random_rotation(generator)
        blocks = wigner_blocks(rotation, lmax)
        turned = None
        if features is not None:
            turned = Stage1Features(
                tuple(
                    rotate_flat(v, i, blocks) for v, i in zip(features.node, gformer.node_irreps)
                ),
                tuple(
                    rotate_flat(v, i, blocks) for v, i in zip(features.edge, gformer.edge_irreps)
                ),
                rotate_flat(features.direct_sum, gformer.irreps_out, blocks),
            )
        total = total + rotate_flat(
            gformer(rotate_graph(graph, rotation), turned),
            gformer.irreps_out,
            [b.T for b in blocks],
        )
    return total / frames


def identify(stage1: Stage1Provider) -> Stage1Identity:
    """How a bundle remembers this stage 1."""
    return Stage1Identity(
        stage1.fingerprint(),
        pathlib.Path(stage1.name).name,
        stage1.generation,
        tuple(map(str, stage1.node_irreps)),
        tuple(map(str, stage1.edge_irreps)),
    )


class GFormerStage1(Stage1Provider):
    """A GFormer that predicts the whole Hamiltonian, as the frozen first stage of another one (the paper's S1_GFormer + S2_GFormer).

    Attributes:
        equivariant: False, so a trainer that rotates structures has to run it again and may not turn its output by Wigner-D.
    """

    equivariant = False

    def __init__(self, bundle: Bundle) -> None:
        """
        Raises:
            ModelError: the bundle needs a stage 1 itself.
        """
        if bundle.stage1 is not None:
            raise ModelError(
                f"{bundle.path}: is a correction to stage 1 '{bundle.stage1.name}' and cannot be a stage 1 itself"
            )
        self.bundle, self.targets, self.generation, self.dtype, self.parity = (
            bundle,
            bundle.targets,
            bundle.generation,
            bundle.dtype,
            bundle.parity,
        )
        self.gauge = bundle.gauge
        self.cutoff, self.node_irreps, self.edge_irreps, self.name = (
            bundle.model.cutoff,
            (),
            (),
            str(bundle.path or "GFormer"),
        )

    @torch.no_grad()
    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`; there are no irreps."""
        return Stage1Features(
            (), (), self.bundle.model(graph.to(self.bundle.model.out_scale.device, self.dtype))
        )

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return checkpoint_fingerprint([self.bundle.model.state_dict()])

    def to(self, device: torch.device | str) -> GFormerStage1:
        """Move to a device; returns self."""
        self.bundle.model.to(device)
        return self


@dataclasses.dataclass
class HamiltonianModel:
    """Stage 1 and, unless it is to run alone, a GFormer on top.

    Attributes:
        stage1: frozen DeepH-E3, None only for a GFormer that stands alone. bundle: stage 2, None for stage 1 alone. device: where both run.
        observe: called with every graph and stage 1's output on it, e.g. by the guard; None: nobody looks.
    """

    stage1: Stage1Provider | None
    bundle: Bundle | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    observe: Callable[[Graph, Stage1Features], None] | None = None

    def __post_init__(self) -> None:
        if self.stage1 is None and self.bundle is None:
            raise ConfigError("neither a stage 1 nor a GFormer bundle is given")
        if self.bundle is not None:
            self._check_pair(self.bundle)
            self.bundle.model.to(self.device)
        if self.stage1 is not None:
            self.stage1.to(self.device)
        source = self.stage1 if self.stage1 is not None else self.bundle
        self.targets: TargetBlocks = source.targets
        self.dtype: torch.dtype = source.dtype
        from .algebra.blocks import DirectSumToProduct

        self.to_product = DirectSumToProduct(self.targets, source.generation, self.dtype).to(
            self.device
        )
        self.blocks = BlockAssembly(self.targets)
        self._transpose = transpose_index(self.targets).to(self.device)

    def _check_pair(self, bundle: Bundle) -> None:
        if bundle.stage1 is None:
            return
        if self.stage1 is None:
            raise ModelError(
                f"{bundle.path}: was trained on stage 1 '{bundle.stage1.name}' and needs it; say where it is with --stage1"
            )
        require_irreps(bundle, self.stage1.node_irreps, self.stage1.edge_irreps, self.stage1.name)
        if bundle.targets != self.stage1.targets:
            raise ModelError(
                f"{bundle.path}: elements, shells or target blocks differ from those of stage 1 {self.stage1.name}"
            )
        if identify(self.stage1).fingerprint != bundle.stage1.fingerprint:
            raise ModelError(
                f"{self.stage1.name}: is not the stage 1 that {bundle.path} was trained on ('{bundle.stage1.name}'): its parameters differ. "
                "A correction fits one stage 1 only; train a GFormer on this one with 'deeph-gformer train'"
            )
        known = self.stage1.gauge != "unknown"
        if bundle.cascade and known and self.stage1.gauge != bundle.gauge:
            raise ModelError(
                f"{bundle.path}: is a correction in the gauge '{bundle.gauge}', but stage 1 "
                f"{self.stage1.name} is of the gauge '{self.stage1.gauge}'; their sum has no "
                "energy zero. Use the stage 1 that it was trained on"
            )
        if bundle.dtype != self.stage1.dtype:
            bundle.model.to(self.stage1.dtype)

    @property
    def gauge(self) -> Gauge:
        """Energy zero of the predicted Hamiltonian: ``raw``, ``standard`` or ``unknown``."""
        if self.bundle is not None:
            return self.bundle.gauge
        return self.stage1.gauge if self.stage1 is not None else "unknown"

    def __repr__(self) -> str:
        return f"HamiltonianModel(\n  stage1={self.stage1!r},\n  gformer={self.bundle!r})"

    @torch.no_grad()
    def direct_sums(self, graph: Graph, frames: int = 1) -> tuple[Tensor, Tensor]:
        """Direct-sum H of stage 1 and of both stages, (E, D) each, eV: Fig. 1 without the last arrow."""
        gformer = None if self.bundle is None else self.bundle.model
        first = (
            None
            if self.stage1 is None
            else self.stage1(graph, features=gformer is not None and bool(gformer.node_irreps))
        )
        if first is not None and self.observe is not None:
            self.observe(graph, first)
        if gformer is None:
            return first.direct_sum, first.direct_sum
        second = correction(gformer, graph, first, frames)
        if first is None:
            return torch.zeros_like(second), second
        return first.direct_sum, first.direct_sum + second if self.bundle.cascade else second

    @torch.no_grad()
    def direct_products(
        self, graph: Graph, frames: int = 1, hermitian: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Direct-product H of stage 1 and of both stages, (E, K) or (E, 4, K), eV, legacy orbital order; ½(H + H†) unless told not to."""
        graph = graph.to(self.device, self.dtype)
        products = [self.to_product(h) for h in self.direct_sums(graph, frames)]
        if hermitian:
            keys = graph.edge_key.cpu().numpy()
            if graph.structures > 1:
                raise ConfigError(
                    "Hermitian output is made structure by structure; pass one graph at a time"
                )
            partner = torch.from_numpy(match_keys(reverse_keys(keys), keys)).to(self.device)
            products = [hermitian_product(h, partner, self._transpose) for h in products]
        return products[0], products[1]

    def read(
        self, folder: str | os.PathLike[str], edges: EdgeMode = "auto"
    ) -> tuple[Structure, Graph, EdgeChoice]:
        """The graph of a structure folder as this model wants it.

        Raises:
            DataError: missing or damaged files, or info.json's spin contradicts the model. ModelError: unknown elements or other shells.
        """
        structure = read_folder(folder)
        spinful = self.targets.basis.spinful
        if structure.spinful is not None and structure.spinful != spinful:
            raise DataError(
                f"{folder}: info.json says isspinful = {structure.spinful}, the model predicts {'spinful' if spinful else 'spinless'} Hamiltonians"
            )
        choice = select_edges(folder, structure, edges, bundle_ranges(self.bundle))
        return (
            dataclasses.replace(structure, spinful=spinful),
            build_graph(structure, choice.keys, self.targets.basis, torch.float64),
            choice,
        )

    def predict(
        self,
        source: str | os.PathLike[str] | Structure,
        edges: EdgeMode = "auto",
        hermitian: bool = True,
        frames: int = 1,
        keys: np.ndarray | None = None,
    ) -> Prediction:
        """Predict the Hamiltonian of one structure.

        Args:
            source: a structure folder; or a :class:`Structure`, with ``keys`` (E, 5) for its edges.
            edges: which blocks are edges (folders only). hermitian: write ½(H + H†). frames: rotated frames to average (not for ``arch: equivariant``).

        Returns:
            See :class:`Prediction`.

        Raises:
            DataError, ModelError: see :meth:`read`; also where the prediction is not finite.
        """
        if isinstance(source, Structure):
            if keys is None:
                raise ConfigError(
                    "a Structure alone has no edges; pass keys, or a folder with overlaps.h5"
                )
            structure = dataclasses.replace(source, spinful=self.targets.basis.spinful)
            graph = build_graph(structure, keys, self.targets.basis, torch.float64)
            choice = EdgeChoice(graph.edge_key.numpy(), "given keys")
            require_within(structure, choice.keys, bundle_ranges(self.bundle))
        else:
            structure, graph, choice = self.read(source, edges)
        first, both = self.direct_products(graph, frames, hermitian)
        if not torch.isfinite(torch.view_as_real(both) if both.is_complex() else both).all():
            raise ModelError(
                f"structure '{structure.name}': the prediction is not finite; it lies far outside what the model was trained on, or the weights are damaged"
            )
        types = graph.node_type.numpy()
        fill = getattr(self.stage1, "fill_missing", None)
        matrices = [
            self.blocks.to_matrix(
                h.cpu().numpy(), types, choice.keys, np.nan if fill is None else fill
            )
            for h in (first, both)
        ]
        if not np.isfinite(matrices[1].values).all():
            raise ModelError(
                f"the model does not predict every block; missing: {'; '.join(self.targets.missing()[:4])}. Give the folder of all models, or --fill-missing 0"
            )
        return Prediction(
            structure, graph, matrices[1], matrices[0], choice, float((both - first).abs().mean())
        )


def load(
    model: str | os.PathLike[str] | None = None,
    stage1: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    **stage1_options: Any,
) -> HamiltonianModel:
    """Load a model for prediction.

    Args:
        model: a GFormer bundle; None runs stage 1 alone.
        stage1: a DeepH-E3 model folder (or a folder of several), or the bundle of a GFormer alone.
        device: ``cpu``, ``cuda``, ... or ``auto``. dtype: ``float32`` or ``float64``, other than that of stage 1's parameters.
        stage1_options: ``backend``, ``deephe3_root``, ``generation``, ``fill_missing`` (see :func:`deeph_gformer.stage1.load_stage1`).

    Raises:
        ModelError: a model cannot be read, or bundle and stage 1 do not belong together. ConfigError: an unknown option value.
    """
    kinds = {None: None, "float32": torch.float32, "float64": torch.float64}
    if dtype not in kinds:
        raise ConfigError(f"dtype '{dtype}' is unknown; choose float32 or float64")
    where = resolve_device(device)
    provider: Stage1Provider | None = None
    if stage1 is not None:
        is_bundle = (pathlib.Path(stage1) / BUNDLE_FILE).is_file()
        provider = (
            GFormerStage1(load_bundle(stage1))
            if is_bundle
            else load_stage1(stage1, dtype=kinds[dtype], device=where, **stage1_options)
        )
    return HamiltonianModel(provider, None if model is None else load_bundle(model), where)


def resolve_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), or what the name says.

    Raises:
        ConfigError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"device '{name}' is unknown; choose cpu, cuda, cuda:0 ... or auto"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}': cpu and cuda are supported")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"device '{name}': torch {torch.__version__} sees no GPU here; choose cpu"
            )
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device '{name}': this machine has {count} GPU(s), numbered from 0; choose one of them, or auto"
            )
    return device
