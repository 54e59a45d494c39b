"""DeepH-E3 itself as a stage 1: the real ``Net`` of the user's clone, its intermediate irreps taken
by forward hooks (the clone is imported in :mod:`.official_import`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ..algebra.wigner import Generation
from ..data.features import Stage1Features
from ..data.fingerprint import checkpoint_fingerprint
from ..data.graph import Graph
from ..errors import ModelError
from .bundle import ModelFolder, read_model_folder
from .embedded.output import OutputScale, edge_types, scale_of
from .net_config import OPTIONAL
from .official_import import default_dtype, names_elements, official_net
from .provider import Stage1Provider

__all__ = [
    "OfficialStage1",
    "translate_state",
]


def translate_state(
    state: Mapping[str, Tensor], template: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """A checkpoint of any e3nn generation under the buffer names and norms of the e3nn that is
    installed.

    Args:
        state: as stored.
        template: ``state_dict`` of the network it goes into.
        where: named in errors.

    Raises:
        ModelError: parameters are missing, extra or of another shape; each is listed.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if "._compiled_main_right._w3j_" in name:
            continue
        if "._compiled_main_out._w3j_" in name:
            l3 = int(name.rsplit("_", 1)[1])
            name, value = (
                name.replace("._compiled_main_out.", "._compiled_main_left_right."),
                value / (2 * l3 + 1) ** 0.5,
            )
        renamed[name] = value
    wrong = []
    for name, value in template.items():
        if name not in renamed:
            if value.numel() and name not in OPTIONAL:
                wrong.append(f"'{name}' {tuple(value.shape)} is missing")
            renamed[name] = value
        elif renamed[name].shape != value.shape:
            wrong.append(
                f"'{name}' has shape {tuple(renamed[name].shape)} instead of {tuple(value.shape)}"
            )
    for name in [n for n in renamed if n not in template]:
        value = renamed.pop(name)
        if value.numel():
            wrong.append(f"'{name}' {tuple(value.shape)} is not part of this network")
    if wrong:
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ModelError(
            f"{where}: the checkpoint does not fit src/build_model.py: "
            + "; ".join(wrong[:6])
            + more
        )
    return renamed


class _Batch:
    """What ``Net.forward`` reads of a torch_geometric batch."""

    def __init__(self, graph: Graph, x: Tensor | None = None) -> None:
        """
        Args:
            graph: one or several structures.
            x: (N,), what the network knows atoms by; None: their element's number in the model.
        """
        self.x = graph.node_type if x is None else x
        self.edge_index = graph.edge_index
        self.edge_attr = torch.cat(
            [graph.edge_length[:, None], graph.edge_vector], dim=1
        )  # length, x, y, z | Å
        self.batch = graph.node_batch

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        return value


class OfficialStage1(Stage1Provider):
    """The official network.

    Irreps come from forward hooks on ``node_update_blocks[p]`` and ``edge_update_blocks[p]``. A
    clone of either version (see :class:`NetConfig`) runs folders of both.

    Attributes:
        net: DeepH-E3's ``Net``.
        folder: what it was read from.
    """

    def __init__(
        self,
        folder: ModelFolder | str | os.PathLike[str],
        deephe3_root: str | os.PathLike[str] | None = None,
        generation: Generation | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        fill_missing: float | None = None,
    ) -> None:
        """
        Args:
            folder: a DeepH-E3 model folder, or what :func:`read_model_folder` made of it.
            deephe3_root: see :func:`find_deephe3`.
            generation: where the checkpoint cannot tell.
            device: where to run.
            dtype: other than that of the parameters.
            fill_missing: see :class:`Stage1Provider`.

        Raises:
            ModelError: the folder cannot be used. ConfigError: there is no DeepH-E3.
        """
        folder = folder if isinstance(folder, ModelFolder) else read_model_folder(folder)
        self.folder, self.generation = folder, folder.require_generation(generation)
        self.targets, self.dtype, self.cutoff = (
            folder.targets,
            dtype or folder.dtype,
            folder.config.r_max,
        )
        self.gauge, self.learned_edges = folder.gauge, folder.learned_edges
        self.parity, self.name, self.fill_missing = (
            not folder.config.no_parity,
            str(folder.path),
            fill_missing,
        )
        self.net = official_net(folder.config, self.generation, self.dtype, deephe3_root)
        state = dict(folder.state_dict)
        # a clone of the earlier version has no scale and shift: they are applied to what it gives
        self.scale: OutputScale | None = None
        if folder.config.index_to_Z is not None and not names_elements(self.net):
            self.scale = scale_of(folder).to(device=device, dtype=self.dtype).requires_grad_(False)
            state = {name: value for name, value in state.items() if name not in OPTIONAL}
        self.net.load_state_dict(
            translate_state(state, self.net.state_dict(), str(folder.path)), strict=True
        )
        self.net.to(device).requires_grad_(False).eval()
        self.node_irreps = tuple(block.irreps_out for block in self.net.node_update_blocks)
        self.edge_irreps = tuple(block.irreps_out for block in self.net.edge_update_blocks)
        self._taken: dict[str, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(functools.partial(self._keep, name))
            for name, module in self._points()
        ]

    def _points(self) -> Iterator[tuple[str, nn.Module]]:
        for kind in ("node", "edge"):
            for p, block in enumerate(getattr(self.net, f"{kind}_update_blocks")):
                yield f"{kind}{p}", block

    def _keep(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._taken[name] = output

    @torch.no_grad()
    def forward(self, graph: Graph, features: bool = True) -> Stage1Features:
        """See :meth:`Stage1Provider.forward`.

        Raises:
            ModelError: the provider was closed, or a block of the graph is not predicted.
        """
        if not self._hooks:
            raise ModelError(f"{self.name}: this provider was closed")
        self.check_complete(graph)
        graph = graph.to(self.net.lin_edge.weight.device, self.dtype)
        with default_dtype(self.dtype):
            try:
                direct_sum = self.net(_Batch(graph, self._known(graph.node_type)))[1]
                taken = dict(self._taken)
            finally:
                self._taken.clear()
        groups = range(len(self.node_irreps)) if features else ()
        return Stage1Features(
            tuple(taken[f"node{p}"] for p in groups),
            tuple(taken[f"edge{p}"] for p in groups),
            direct_sum if self.scale is None else self._scaled(direct_sum, graph),
        )

    def _known(self, node_type: Tensor) -> Tensor:
        """What the clone's network knows atoms by: their element's number in the model, or their
        atomic number."""
        elements = self.folder.config.index_to_Z
        if elements is None or not names_elements(self.net):
            return node_type
        return torch.as_tensor(elements, device=node_type.device)[node_type]

    def _scaled(self, direct_sum: Tensor, graph: Graph) -> Tensor:
        if self.scale is None:
            return direct_sum
        source, destination = graph.edge_index
        types = edge_types(
            graph.node_type, source, destination, graph.self_loop, self.folder.config.num_species
        )
        layout = self.scale.layout
        return layout.flat(self.scale(layout.split(direct_sum), types))

    def fingerprint(self) -> str:
        """See :meth:`Stage1Provider.fingerprint`."""
        return checkpoint_fingerprint([self.folder.state_dict])

    def to(self, device: torch.device | str) -> OfficialStage1:
        """Move to a device; returns self."""
        self.net.to(device)
        if self.scale is not None:
            self.scale.to(device)
        return self

    def close(self) -> None:
        """Remove the hooks; the network itself stays usable."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._taken.clear()
