"""Which stage 1 a GFormer belongs to, and a GFormer that is itself a stage 1."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..algebra.layout import turn_flat
from ..algebra.rotation import edge_frames, moved_frames
from ..data.features import Stage1Features
from ..data.fingerprint import checkpoint_fingerprint
from ..data.graph import Graph
from ..errors import ConfigError, ModelError
from ..gformer.bundle import BUNDLE_FILE, Bundle, Stage1Identity, load_bundle, require_irreps
from ..logs import LOGGER
from ..overlap.neighbours import symbol
from ..results.worse import worse_than_stage1
from ..stage1 import load_stage1
from ..stage1.provider import EdgeFunction, Stage1Provider

__all__ = ["GFormerStage1", "check_pair", "identify", "open_stage1", "say_weaknesses"]


def identify(stage1: Stage1Provider) -> Stage1Identity:
    """How a bundle remembers this stage 1."""
    return Stage1Identity(
        stage1.fingerprint(),
        pathlib.Path(stage1.name).name,
        stage1.generation,
        tuple(map(str, stage1.node_irreps)),
        tuple(map(str, stage1.edge_irreps)),
    )


def check_pair(stage1: Stage1Provider | None, bundle: Bundle | None) -> Stage1Provider | Bundle:
    """Refuse a bundle on another stage 1 than its own; gives it stage 1's type.

    Args:
        stage1: what it is to run on.
        bundle: the GFormer.

    Returns:
        The one that says which elements, shells and blocks there are: stage 1, else the GFormer.

    Raises:
        ModelError: says what differs.
        ConfigError: there is neither.
    """
    if bundle is None:
        if stage1 is None:
            raise ConfigError("neither a stage 1 nor a GFormer bundle is given; give one, or both")
        return stage1
    if bundle.stage1 is None:
        return bundle if stage1 is None else stage1
    if stage1 is None:
        raise ModelError(
            f"{bundle.path}: was trained on stage 1 '{bundle.stage1.name}' and needs it; say "
            "where that DeepH-E3 model folder is, with --stage1 (in Python stage1=)"
        )
    own, other = ([symbol(z) for z in t.basis.elements] for t in (bundle.targets, stage1.targets))
    if own != other:
        raise ModelError(
            f"{stage1.name}: is a stage 1 for {', '.join(other)}, but {bundle.path} was trained "
            f"for {', '.join(own)}, on stage 1 '{bundle.stage1.name}'; give that one with "
            "--stage1 (in Python stage1=)"
        )
    require_irreps(bundle, stage1.node_irreps, stage1.edge_irreps, stage1.name)
    if bundle.targets != stage1.targets:
        raise ModelError(
            f"{bundle.path}: elements, shells or target blocks differ from those of stage 1 "
            f"{stage1.name}; give '{bundle.stage1.name}', on which it was trained"
        )
    if identify(stage1).fingerprint != bundle.stage1.fingerprint:
        raise ModelError(
            f"{stage1.name}: is not the stage 1 that {bundle.path} was trained on: its parameters "
            f"differ from those of the folder that was called '{bundle.stage1.name}' then. "
            "A correction fits one stage 1 only: give that folder, or train a GFormer on this one "
            "with 'deeph-gformer train'"
        )
    for what, mine, theirs in (
        ("e3nn generation", bundle.stage1.generation, stage1.generation),
        ("cutoff_angstrom", bundle.model.cutoff, stage1.cutoff),
        ("parity", bundle.parity, stage1.parity),
    ):
        if mine != theirs:
            raise ModelError(
                f"{bundle.path}: {what} is {mine}, and {theirs} of stage 1 {stage1.name}, which "
                "changes every number; take the original files of both"
            )
    known = stage1.gauge != "unknown"
    if bundle.cascade and known and stage1.gauge != bundle.gauge:
        raise ModelError(
            f"{bundle.path}: is a correction in the gauge '{bundle.gauge}', but stage 1 "
            f"{stage1.name} is of the gauge '{stage1.gauge}'; their sum has no "
            "energy zero. Use the stage 1 that it was trained on"
        )
    if bundle.dtype != stage1.dtype:
        bundle.model.to(stage1.dtype)
    return stage1


def say_weaknesses(bundle: Bundle) -> None:
    """Say, once, that a bundle is of an earlier format, or was worse than stage 1 in training.

    Args:
        bundle: that is going to predict.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if bundle.lacks:
        LOGGER.info("%s: %s", bundle.path, bundle.lacks)
    errors = bundle.training.get("validation")
    if isinstance(errors, Mapping):
        if text := worse_than_stage1(errors, "its own validation structures"):
            LOGGER.warning("%s: %s", bundle.path, text)


class GFormerStage1(Stage1Provider):
    """A GFormer that predicts the whole Hamiltonian, as the frozen first stage of another one (the
    paper's S1_GFormer + S2_GFormer).

    Attributes:
        equivariant: False, so a trainer that rotates structures has to run it again and may not
            turn its output by Wigner-D.
    """

    equivariant = False

    def __init__(self, bundle: Bundle) -> None:
        """
        Raises:
            ModelError: the bundle needs a stage 1 itself.
        """
        if bundle.stage1 is not None:
            raise ModelError(
                f"{bundle.path}: is a correction to stage 1 '{bundle.stage1.name}' and cannot "
                "be a stage 1 itself; give a DeepH-E3 model folder, or a GFormer that was trained "
                "without a stage 1"
            )
        self.bundle, self.name = bundle, str(bundle.path or "GFormer")
        self.targets, self.cutoff = bundle.targets, bundle.model.cutoff
        self.generation, self.dtype, self.parity = bundle.generation, bundle.dtype, bundle.parity
        self.gauge, self.learned_edges = bundle.gauge, bundle.learned_edges
        self.node_irreps, self.edge_irreps = (), ()

    @torch.no_grad()
    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`; there are no irreps."""
        return Stage1Features(
            (), (), self.bundle.model(graph.to(self.bundle.model.out_scale.device, self.dtype))
        )

    def differentiable(self, graph: Graph, moving: int) -> EdgeFunction:
        """See :meth:`Stage1Provider.differentiable`."""
        graph = graph.to(self.bundle.model.out_scale.device, self.dtype)
        irreps, start = self.bundle.targets.irreps(self.parity), graph.edge_vector
        frames = edge_frames(start, irreps.lmax)

        def run(vectors: Tensor, features: bool) -> Stage1Features:
            whole = torch.cat([vectors, start[moving:]])
            turned = moved_frames(frames, start[:moving], vectors)
            result = self.bundle.model(graph._replace(edge_vector=whole))
            return Stage1Features((), (), turn_flat(result, irreps, turned, to_local=True))

        return run

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return checkpoint_fingerprint([self.bundle.model.state_dict()])

    def to(self, device: torch.device | str) -> GFormerStage1:
        """Move to a device; returns self."""
        self.bundle.model.to(device)
        return self


def open_stage1(
    path: str | os.PathLike[str],
    dtype: torch.dtype | None,
    device: torch.device,
    **options: Any,
) -> Stage1Provider:
    """DeepH-E3 models, or the bundle of a GFormer that stands alone.

    Args:
        path: a model folder, a folder of several, or a bundle.
        dtype: other than that of the parameters (not of a bundle).
        device: where to run.
        options: see :func:`deeph_gformer.stage1.load_stage1`.

    Raises:
        ModelError: a model cannot be read or used.
        ConfigError: an unknown backend.
    """
    if (pathlib.Path(path) / BUNDLE_FILE).is_file():
        return GFormerStage1(load_bundle(path))
    return load_stage1(path, dtype=dtype, device=device, **options)
