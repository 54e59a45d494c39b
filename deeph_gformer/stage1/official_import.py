"""DeepH-E3 itself from the user's clone, and its ``Net`` with random parameters.

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
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.wigner import Generation
from ..errors import ConfigError, ModelError
from .net_config import NetConfig

__all__ = [
    "find_deephe3",
    "default_dtype",
    "scatter",
    "official_modules",
    "official_net",
    "names_elements",
    "official_arguments",
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


def scatter(
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
    module.scatter = scatter  # type: ignore[attr-defined]
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
        """e3nn's ``wigner_3j`` with the signs of the copy's generation."""
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


def names_elements(net: Any) -> bool:
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
    if names_elements(net):
        arguments["index_to_Z"] = list(elements or range(arguments.pop("num_species")))
        arguments.pop("num_species", None)
    return arguments
