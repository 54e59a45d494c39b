"""The arguments of DeepH-E3's ``Net``: read from ``src/build_model.py``, which is parsed and never
run, and written there."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from typing import Any, Literal

from e3nn.o3 import Irreps

from ..errors import ModelError, printable
from ..io.files import read_text
from .strict import check_arguments

__all__ = ["NetConfig", "OPTIONAL", "parse_build_model", "build_model_text"]

#: Parameters that a checkpoint may lack: DeepH-E3's later version then takes ones and zeros.
OPTIONAL = ("sigma", "mu")


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """Arguments of DeepH-E3's ``Net``, as ``src/build_model.py`` writes them.

    The author's later version names the elements (``index_to_Z``) instead of counting them; its
    output is scaled and shifted per element and pair (see :mod:`.embedded.output`).
    """

    num_species: int
    """Number of elements."""
    irreps_embed_node: str
    """Node embedding, 0e only."""
    irreps_edge_init: str
    """Initial edge features (Gaussians of the distance up to 6 Å), 0e only."""
    irreps_sh: str
    """Spherical harmonics, or spherical Bessel basis with ``use_sbf``."""
    irreps_mid_node: str
    """Node features between blocks."""
    irreps_post_node: str
    """Node features after the last block."""
    irreps_out_node: str
    """Unused node output of the official network."""
    irreps_mid_edge: str
    """Edge features between blocks."""
    irreps_post_edge: str
    """Edge features after the last block."""
    irreps_out_edge: str
    """Direct-sum output."""
    num_block: int
    """P, the number of encoder groups."""
    r_max: float
    """Radius of the Gaussian distance basis, Å."""
    use_sc: bool = True
    """Self-connections."""
    no_parity: bool = False
    """DeepH-E3's ``ignore_parity``: every irrep is even."""
    use_sbf: bool = False
    """Spherical Bessel basis instead of plain spherical harmonics."""
    selftp: bool = False
    """Self tensor product (off in every model DeepH-E3 writes)."""
    edge_upd: bool = True
    """Edge updates in every block."""
    only_ij: bool = False
    """Undirected graph (DeepH-E3: under development)."""
    num_basis: int = 128
    """Gaussians of the distance basis."""
    if_sort_irreps: bool = False
    """Sorted concatenation (off in every model DeepH-E3 writes)."""
    index_to_Z: tuple[int, ...] | None = None
    """Atomic numbers, in the order of ``dataset_info.json``; given by DeepH-E3's later version."""
    norm: Literal["graph", "training"] = "graph"
    """Where ``e3LayerNorm`` has its means from: DeepH-E3's own is ``graph``; ``training``: they are
    constants, so that the network is local (this package only)."""

    def check(self, where: str) -> None:
        """Refuse options that no released DeepH-E3 could train with, and irreps that do not parse.

        Raises:
            ModelError: names the option.
        """
        for name in ("selftp", "only_ij", "if_sort_irreps"):
            if getattr(self, name):
                raise ModelError(
                    f"{where}: {name} = True is not supported (DeepH-E3 marks it as under "
                    "development)"
                )
        for name in ("use_sc", "edge_upd"):
            if not getattr(self, name):
                raise ModelError(f"{where}: {name} = False is not supported")
        if self.norm not in ("graph", "training"):
            raise ModelError(f"{where}: norm = {self.norm!r}; graph and training are possible")
        for field in dataclasses.fields(self):
            if field.name.startswith("irreps_"):
                try:
                    irreps = Irreps(getattr(self, field.name))
                except (ValueError, AssertionError):
                    raise ModelError(
                        f"{where}: {field.name} = {getattr(self, field.name)!r} are no irreps"
                    ) from None
                if self.no_parity and any(ir.p != 1 for _, ir in irreps):
                    raise ModelError(
                        f"{where}: {field.name} = {irreps} has odd irreps, but the network ignores "
                        "parity (no_parity = True)"
                    )
                if field.name in ("irreps_embed_node", "irreps_edge_init") and any(
                    (ir.l, ir.p) != (0, 1) for _, ir in irreps
                ):
                    raise ModelError(f"{where}: {field.name} = {irreps} must be of 0e only")


def _literals(call: ast.Call, path: pathlib.Path) -> dict[str, Any]:
    """The keyword arguments of a call.

    Raises:
        ModelError: one is no literal.
    """
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        try:
            values[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise ModelError(
                f"{path}: {keyword.arg} is no literal; the file is parsed, never run"
            ) from None
    return values


def _name_elements(values: dict[str, Any], path: pathlib.Path) -> None:
    """Fill in ``num_species`` where the later version's ``index_to_Z`` stands for it.

    Raises:
        ModelError: both are given, or ``index_to_Z`` is no list of different atomic numbers.
    """
    elements = values.get("index_to_Z")
    if elements is None:
        return
    if "num_species" in values:
        raise ModelError(f"{path}: Net(...) has both num_species and index_to_Z")
    if (
        not isinstance(elements, (list, tuple))
        or not all(type(z) is int and 0 < z < 119 for z in elements)
        or len(set(elements)) < max(len(elements), 1)
    ):
        raise ModelError(f"{path}: index_to_Z = {elements!r} are no different atomic numbers")
    values["index_to_Z"], values["num_species"] = tuple(elements), len(elements)


def parse_build_model(path: pathlib.Path) -> NetConfig:
    """The arguments of the ``Net(...)`` in a ``build_model.py``.

    Args:
        path: the file; parsed, never run.

    Raises:
        ModelError: it is missing or cannot be parsed, or holds no network of a known kind.
    """
    try:
        tree = ast.parse(
            read_text(path, 2**20, "DeepH-E3 writes it when training starts", ModelError)
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = printable(str(error) or "nested too deep")[:200]
        raise ModelError(f"{path}: cannot be parsed ({reason})") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Net":
            values = _literals(node, path)
            _name_elements(values, path)
            known = {f.name for f in dataclasses.fields(NetConfig)}
            required = {
                f.name for f in dataclasses.fields(NetConfig) if f.default is dataclasses.MISSING
            }
            extra, missing = sorted(set(values) - known), sorted(required - set(values))
            if extra or missing or node.args:
                what = f"unknown arguments {extra} and lacks {missing}"
                raise ModelError(
                    f"{path}: Net(...) has {'unnamed arguments' if node.args else what}"
                )
            check_arguments(values, str(path))
            config = NetConfig(**values)
            config.check(str(path))
            return config
    raise ModelError(f"{path}: holds no Net(...)")


#: Arguments that DeepH-E3 itself writes, in its order; the others follow where they are not
#: default.
_WRITTEN = (
    "num_species",
    "irreps_embed_node",
    "irreps_edge_init",
    "irreps_sh",
    "irreps_mid_node",
    "irreps_post_node",
    "irreps_out_node",
    "irreps_mid_edge",
    "irreps_post_edge",
    "irreps_out_edge",
    "num_block",
    "r_max",
    "use_sc",
    "no_parity",
    "use_sbf",
    "only_ij",
    "if_sort_irreps",
)


def build_model_text(config: NetConfig) -> str:
    """``src/build_model.py`` as DeepH-E3's training leaves it.

    Args:
        config: arguments of the network.
    """
    values = {name: getattr(config, name) for name in _WRITTEN}
    if config.index_to_Z is not None:
        del values["num_species"]
        values = {"index_to_Z": list(config.index_to_Z), **values}
    values.update(
        (f.name, getattr(config, f.name))
        for f in dataclasses.fields(NetConfig)
        if f.name not in (*_WRITTEN, "index_to_Z") and getattr(config, f.name) != f.default
    )
    lines = ",\n".join(f"    {name}={value!r}" for name, value in values.items())
    return f"from deephe3_1 import Net\nnet = Net(\n{lines}\n)\n"
