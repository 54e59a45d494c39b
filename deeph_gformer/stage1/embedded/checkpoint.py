"""Parameters of the engine <-> the official checkpoint, one to one and strict.

The official tensor products hold one small parameter per path (``tp.weights1.n``); the engine holds
them joined in one vector. Everything else has the same name. Buffers (masks, Wigner symbols,
Gaussian centres) are checked where they carry meaning, and written again on saving.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from ...algebra.wigner import Generation, wigner_3j
from ...errors import ModelError
from ..bundle import ModelFolder
from ..net_config import OPTIONAL
from .linear import ChannelLinear, SelfConnection
from .network import DeepHE3Net
from .radial import INITIAL_RADIUS
from .tensor_product import EdgeTensorProduct

__all__ = [
    "load_network",
    "official_state",
    "official_parameters",
    "import_optimizer",
    "export_optimizer",
]

_BUFFERS = re.compile(
    r"(.*\.)?(output_mask|_w3j_\d+_\d+_\d+|width|offsets|tp\.tp\.weight|nonlin\.mul\.weight"
    r"|rcutoff|eps|p|r_max|sh\..*)$"
)


def official_parameters(net: DeepHE3Net) -> Iterator[tuple[str, str, slice, torch.Size]]:
    """Official parameters in the order of ``Net.parameters()`` (lin_pre, conv, lin_post, sc, norm,
    skip_connect).

    Yields:
        (official name, our name, slice of our flat parameter, official shape)
    """
    modules = dict(net.named_modules())
    for name, parameter in net.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        if not parameter.numel() and isinstance(module, (ChannelLinear, SelfConnection)):
            # e3nn keeps empty weights as buffers; empty parameters of e3LayerNorm are parameters
            continue
        if isinstance(module, EdgeTensorProduct):
            which = int(leaf == "weight2")
            for n, path in enumerate(module.paths):
                start = (path.start1, path.start2)[which]
                shape = torch.Size(((path.rows, path.columns), (path.copies, path.columns))[which])
                yield (
                    f"{owner}.weights{1 + which}.{n}",
                    name,
                    slice(start, start + shape.numel()),
                    shape,
                )
        else:
            official = name.removeprefix("scale.")  # sigma and mu are the network's own
            yield official, name, slice(0, parameter.numel()), parameter.shape


def load_network(folder: ModelFolder, generation: Generation) -> DeepHE3Net:
    """The engine with the parameters of a model folder.

    Args:
        folder: as read.
        generation: see :meth:`ModelFolder.require_generation`.

    Raises:
        ModelError: parameters are missing, extra, or of another shape; each is listed.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(folder.dtype)
    try:
        net = DeepHE3Net(folder.config, generation)
    finally:
        torch.set_default_dtype(default)
    load_official_state(net, folder.state_dict, str(folder.path))
    return net


def load_official_state(net: DeepHE3Net, state: Mapping[str, Tensor], where: str) -> None:
    """Copy official parameters into the engine, strictly (see :func:`load_network`)."""
    own = dict(net.named_parameters())
    expected, wrong = set(), []
    with torch.no_grad():
        for name, ours, piece, shape in official_parameters(net):
            expected.add(name)
            value = state.get(name)
            if value is None:
                if shape.numel() and name not in OPTIONAL:
                    wrong.append(f"'{name}' {tuple(shape)} is missing")
            elif value.shape != shape:
                wrong.append(f"'{name}' has shape {tuple(value.shape)} instead of {tuple(shape)}")
            else:
                own[ours].reshape(-1)[piece] = value.reshape(-1).to(own[ours])
    extra = [
        n for n, v in state.items() if n not in expected and v.numel() and not _BUFFERS.fullmatch(n)
    ]
    wrong += [f"'{n}' {tuple(state[n].shape)} is not part of this network" for n in extra]
    if wrong:
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ModelError(
            f"{where}: the checkpoint does not fit src/build_model.py: "
            + "; ".join(wrong[:6])
            + more
        )
    _check_buffers(net, state, where)


def _check_buffers(net: DeepHE3Net, state: Mapping[str, Tensor], where: str) -> None:
    """Raise where a stored buffer is not the one that ``build_model.py`` asks for.

    They tell what no shape of a weight tells: radii, the spherical Bessel basis, the order of
    irreps, Wigner symbols.

    Raises:
        ModelError: names the first one.
    """
    own = dict(_buffers(net, torch.float64))
    hint = "src/build_model.py is of another network, or the checkpoint of a modified DeepH-E3"
    for name, value in own.items():
        stored = state.get(name)
        if stored is None:
            if name == "sh.rcutoff":
                raise ModelError(f"{where}: use_sbf = True, but '{name}' is missing; {hint}")
            continue
        same = stored.numel() == value.numel() and torch.allclose(
            stored.double().reshape(-1), value.double().reshape(-1), rtol=1e-4, atol=1e-5
        )
        if not same:
            raise ModelError(f"{where}: buffer '{name}' is not that of this network; {hint}")
    bessel = [name for name, value in state.items() if name.startswith("sh.") and value.numel()]
    if bessel and not net.config.use_sbf:
        raise ModelError(f"{where}: use_sbf = False, but '{bessel[0]}' is there; {hint}")


def official_state(net: DeepHE3Net) -> dict[str, Tensor]:
    """A state_dict that the official ``Net`` loads strictly under e3nn of its generation.

    On the CPU. Official parameters are pieces of copies of ours: these leave a GPU, and go into a
    file, one by one, not in thousands of pieces.
    """
    own = {
        name: parameter.detach().to("cpu", copy=True) for name, parameter in net.named_parameters()
    }
    state: dict[str, Tensor] = {}
    for name, ours, piece, shape in official_parameters(net):
        state[name] = own[ours].reshape(-1)[piece].reshape(shape)
    for name, parameter in own.items():
        if not parameter.numel():
            state[name] = parameter
    kind = net.lin_edge.weight.dtype
    state.update({name: value.to(kind) for name, value in _buffers(net, kind)})
    return state


def _ones(irreps: Irreps, reachable: Sequence[bool]) -> Tensor:
    return (
        torch.cat(
            [
                torch.full((mul * ir.dim,), float(ok))
                for (mul, ir), ok in zip(irreps, reachable, strict=True)
            ]
        )
        if irreps.dim
        else torch.ones(0)
    )


def _buffers(net: DeepHE3Net, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    config = net.config
    for name, stop, count in (
        ("basis", config.r_max, config.num_basis),
        ("distance_expansion", INITIAL_RADIUS, Irreps(config.irreps_edge_init).dim),
    ):
        offsets = torch.linspace(0.0, stop, count, dtype=dtype)
        yield f"{name}.offsets", offsets
        yield f"{name}.width", (offsets[1] - offsets[0]) * torch.ones_like(offsets)
    if config.use_sbf:
        yield "sh.rcutoff", torch.tensor([config.r_max])
        yield "sh.eps", torch.tensor([1e-7])
        yield "sh.cutoff.p", torch.tensor([6.0])
        yield "sh.cutoff.r_max", torch.tensor([config.r_max])
    for owner, module in net.named_modules():
        if isinstance(module, (ChannelLinear, SelfConnection)):
            out = module.layout_out
            yield (
                f"{owner}.output_mask",
                _ones(out.irreps, [key in module.layout_in.channels for key, _, _ in out.slots]),
            )
        elif isinstance(module, EdgeTensorProduct):
            conv = owner.rpartition(".")[0]
            yield f"{owner}.tp.weight", torch.zeros(0)
            yield (
                f"{owner}.tp.output_mask",
                _ones(
                    module.irreps_out,
                    [
                        any(p.i_out == n for p in module.paths)
                        for n in range(len(module.irreps_out))
                    ],
                ),
            )
            gated = dict(net.named_modules())[conv].gate.irreps_out
            yield f"{conv}.nonlin.mul.weight", torch.zeros(0)
            yield (
                f"{conv}.nonlin.mul.output_mask",
                torch.ones(sum(mul * ir.dim for mul, ir in gated if ir.l > 0)),
            )
            triples = dict.fromkeys(
                (
                    module.irreps_in[p.i_in].ir.l,
                    module.irreps_sh[p.i_sh].ir.l,
                    module.irreps_out[p.i_out].ir.l,
                )
                for p in module.paths
            )
            for l1, l2, l3 in triples:
                if 0 in (l1, l2, l3):
                    continue
                symbol = wigner_3j(l1, l2, l3, net.generation, dtype)
                label = f"_w3j_{l1}_{l2}_{l3}"
                if net.generation == "0.3":
                    yield f"{owner}.tp._compiled_main_out.{label}", symbol * (2 * l3 + 1) ** 0.5
                    yield f"{owner}.tp._compiled_main_right.{label}", symbol * (2 * l3 + 1) ** 0.5
                else:
                    yield f"{owner}.tp._compiled_main_left_right.{label}", symbol


def import_optimizer(net: DeepHE3Net, state: Mapping[str, Any]) -> dict[str, Any]:
    """An official Adam state (one entry per official parameter) as the state of an Adam over
    ``net.parameters()``.

    Raises:
        ModelError: the numbers of parameters differ.
    """
    table = list(official_parameters(net))
    own = dict(net.named_parameters())
    groups = state["param_groups"]
    indices = [i for group in groups for i in group["params"]]
    entries = state["state"]
    if len(indices) != len(table):
        raise ModelError(
            f"optimizer state has {len(indices)} parameters, the network {len(table)}; start from "
            "a folder of the same network, or remove its optimizer_state_dict"
        )
    merged: dict[str, dict[str, Any]] = {}
    for index, (_, ours, piece, _) in zip(indices, table, strict=True):
        entry = entries.get(index)
        if entry is None:
            continue
        target = merged.setdefault(
            ours,
            {
                "step": torch.as_tensor(float(entry["step"])),
                **{k: torch.zeros_like(own[ours]) for k in ("exp_avg", "exp_avg_sq")},
            },
        )
        for name in ("exp_avg", "exp_avg_sq"):
            target[name].reshape(-1)[piece] = entry[name].reshape(-1).to(own[ours])
    names = list(own)
    options = {k: v for k, v in groups[0].items() if k != "params"}
    return {
        "state": {n: merged[name] for n, name in enumerate(names) if name in merged},
        "param_groups": [{**options, "params": list(range(len(names)))}],
    }


def export_optimizer(net: DeepHE3Net, state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`import_optimizer`; on the CPU, see :func:`official_state`."""
    names = {name: n for n, (name, _) in enumerate(net.named_parameters())}
    own = {
        number: {k: v.detach().to("cpu", copy=True) for k, v in entry.items()}
        for number, entry in state["state"].items()
    }
    out: dict[int, dict[str, Any]] = {}
    table = list(official_parameters(net))
    for index, (_, ours, piece, shape) in enumerate(table):
        entry = own.get(names[ours])
        if entry is not None:
            out[index] = {
                "step": entry["step"].clone(),  # Adam counts each in place
                **{
                    k: entry[k].reshape(-1)[piece].reshape(shape) for k in ("exp_avg", "exp_avg_sq")
                },
            }
    options = {k: v for k, v in state["param_groups"][0].items() if k != "params"}
    return {"state": out, "param_groups": [{**options, "params": list(range(len(table)))}]}
