"""DeepH-E3 itself as a stage 1: the real ``Net`` of the user's clone, its intermediate irreps taken
by forward hooks.

The clone is imported under a private package name, module by module, so neither its ``__init__``
(pathos, tensorboard, plotting) nor a ``deephe3`` that the user imports elsewhere is touched.
torch_scatter, which today's torch has no build of, is stood in for during that import only; the
normalisation of the checkpoint's e3nn generation is set inside the private copy only. The model
folder's own Python is never run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.wigner import Generation
from ..data.features import Stage1Features
from ..data.fingerprint import checkpoint_fingerprint
from ..data.graph import Graph
from ..errors import ConfigError, ModelError
from .bundle import ModelFolder, read_model_folder
from .embedded.output import OutputScale, edge_types, scale_of
from .net_config import OPTIONAL, NetConfig
from .provider import Stage1Provider

__all__ = [
    "OfficialStage1",
    "find_deephe3",
    "official_net",
    "official_modules",
    "translate_state",
    "default_dtype",
]

_LOCK = threading.RLock()


def find_deephe3(root: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The package folder ``deephe3`` of the user's DeepH-E3.

    Args:
        root: the clone; None = the variable ``DEEPHE3_ROOT``, then an importable ``deephe3``.

    Raises:
        ConfigError: it is nowhere.
    """
    given = root if root is not None else os.environ.get("DEEPHE3_ROOT")
    if given:
        for folder in (pathlib.Path(given) / "deephe3", pathlib.Path(given)):
            if (folder / "model.py").is_file() and (folder / "e3modules.py").is_file():
                return folder.resolve()
        raise ConfigError(
            f"{given}: no clone of DeepH-E3 (it would hold deephe3/model.py); give its folder with "
            "--deephe3-root or DEEPHE3_ROOT"
        )
    spec = importlib.util.find_spec("deephe3")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the official backend needs DeepH-E3: clone it and give its folder with --deephe3-root "
            "or DEEPHE3_ROOT, or use --backend embedded"
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations))).resolve()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default floating type, and set it back whatever happens."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    """What DeepH-E3 uses of ``torch_scatter.scatter``."""
    from torch_geometric.utils import scatter

    if out is not None:
        raise NotImplementedError("scatter(out=...)")
    return scatter(
        src, index, dim=dim, dim_size=dim_size, reduce="sum" if reduce == "add" else reduce
    )


@contextlib.contextmanager
def _scatter_stand_in() -> Iterator[None]:
    module = types.ModuleType("torch_scatter")
    module.scatter = _scatter  # type: ignore[attr-defined]
    before = sys.modules.get("torch_scatter")
    sys.modules["torch_scatter"] = module
    try:
        yield
    finally:
        if before is None:
            sys.modules.pop("torch_scatter", None)
        else:
            sys.modules["torch_scatter"] = before


@functools.lru_cache(maxsize=8)
def official_modules(folder: pathlib.Path, generation: Generation) -> types.SimpleNamespace:
    """DeepH-E3's ``model`` and ``e3modules``, a private copy per e3nn generation.

    Args:
        folder: see :func:`find_deephe3`.
        generation: whose path normalisation and Wigner signs the copy uses.

    Raises:
        ModelError: the clone cannot be imported.
    """
    from ..algebra.wigner import wigner_3j

    package = f"_deeph_gformer_official_{abs(hash((str(folder), generation))):x}"
    with _LOCK, _scatter_stand_in(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shell = types.ModuleType(package)
        shell.__path__ = [str(folder)]
        sys.modules[package] = shell
        try:
            model = importlib.import_module(f"{package}.model")
            e3modules = importlib.import_module(f"{package}.e3modules")
        except Exception as error:
            raise ModelError(
                f"{folder}: DeepH-E3 cannot be imported on this stack ({type(error).__name__}: "
                f"{error}); use the embedded backend"
            ) from error
        finally:
            for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
                del sys.modules[name]
    if generation == "0.3":
        for module in (model, e3modules):
            for name in ("Linear", "FullyConnectedTensorProduct", "TensorProduct"):
                if hasattr(module, name):
                    setattr(
                        module,
                        name,
                        functools.partial(getattr(module, name), path_normalization="path"),
                    )

    def symbol(
        l1: int, l2: int, l3: int, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return wigner_3j(l1, l2, l3, generation).to(
            device=device, dtype=dtype or torch.get_default_dtype()
        )

    e3modules.wigner_3j = symbol  # type: ignore[attr-defined]
    _restore_bessel_rounding(e3modules)
    return types.SimpleNamespace(model=model, e3modules=e3modules)


def _restore_bessel_rounding(e3modules: types.ModuleType) -> None:
    """Give the copy the Bessel functions of DeepH-E3's documented stack (numpy 1.x); numpy 2 would
    normalise them in float32."""
    from .embedded.radial import bessel_formulas

    e3modules.bessel_basis = bessel_formulas  # type: ignore[attr-defined]


def official_net(
    config: NetConfig,
    generation: Generation,
    dtype: torch.dtype,
    root: str | os.PathLike[str] | None = None,
) -> Any:
    """DeepH-E3's ``Net`` with random parameters, as its documented stack would build it.

    Its type is that of the user's own class, of which nothing is known beforehand.

    Args:
        config: network arguments.
        generation: see :class:`OfficialStage1`.
        root: see :class:`OfficialStage1`.
        dtype: of the parameters.

    Raises:
        ModelError: DeepH-E3 refuses the network.
    """
    modules = official_modules(find_deephe3(root), generation)
    with _LOCK, default_dtype(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            net = modules.model.Net(**official_arguments(config, modules.model.Net))
        except (AssertionError, IndexError, ValueError) as error:
            raise ModelError(f"DeepH-E3 refuses this network: {error}") from error
    if config.use_sbf:
        net.sh.dtype = (
            dtype  # its default is the type that was in force when the module was imported
        )
    return net


def _names_elements(net: Any) -> bool:
    """Whether a ``Net`` (or its class) is that of the later version, which knows atomic numbers and
    scales and shifts its output."""
    return (
        "index_to_Z"
        in inspect.signature(type(net) if isinstance(net, nn.Module) else net).parameters
    )


def official_arguments(config: NetConfig, net: type) -> dict[str, Any]:
    """The arguments of DeepH-E3's ``Net``, of either version.

    Args:
        config: network arguments.
        net: the class.

    Raises:
        ModelError: no DeepH-E3 has such a network.
    """
    if config.norm != "graph":
        raise ModelError(
            f"norm = {config.norm!r} is a network of this package alone; use --backend embedded"
        )
    arguments = dataclasses.asdict(config)
    del arguments["norm"]
    elements = arguments.pop("index_to_Z")
    if _names_elements(net):
        arguments["index_to_Z"] = list(elements or range(arguments.pop("num_species")))
        arguments.pop("num_species", None)
    return arguments


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
        self.gauge = folder.gauge
        self.parity, self.name, self.fill_missing = (
            not folder.config.no_parity,
            str(folder.path),
            fill_missing,
        )
        self.net = official_net(folder.config, self.generation, self.dtype, deephe3_root)
        state = dict(folder.state_dict)
        # a clone of the earlier version has no scale and shift: they are applied to what it gives
        self.scale: OutputScale | None = None
        if folder.config.index_to_Z is not None and not _names_elements(self.net):
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
        if elements is None or not _names_elements(self.net):
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
