"""e3nn's gate, as DeepH-E3 uses it: activations of scalars, and the order of the gates."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features, Key
from ...errors import ModelError
from .layout import Layout

__all__ = ["Gate"]


@functools.cache
def activation(name: str) -> tuple[Callable[[Tensor], Tensor], float]:
    """A function of torch and the factor that e3nn gives it: unit second moment under a normal
    distribution (a million samples of a fixed seed)."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    function = functions[name]
    return function, float(normalize2mom(function).cst)


class Gate(nn.Module):
    """e3nn's ``Gate`` as DeepH-E3 uses it: SiLU/tanh on scalars, sigmoid/tanh gates times l > 0,
    each scaled to unit second moment.

    Attributes:
        irreps_in: what the tensor product must give (sorted and joined by e3nn: scalars and gates
            share a slot).
        irreps_out: scalars, then the gated irreps.
        gate_key: the irrep of the gates, None where nothing is gated.
        gate_channels: per gated irrep, which gate multiplies each of its channels.
    """

    def __init__(self, irreps_in1: Irreps, irreps_in2: Irreps, irreps_out: Irreps) -> None:
        super().__init__()

        def reachable(ir: object) -> bool:
            return any(ir in a * b for _, a in irreps_in1 for _, b in irreps_in2)

        scalars = Irreps(
            [(mul, ir) for mul, ir in irreps_out if ir.l == 0 and reachable(ir)]
        ).simplify()
        gated = Irreps(
            [(mul, ir) for mul, ir in irreps_out if ir.l > 0 and reachable(ir)]
        ).simplify()
        gate_ir = next(
            (ir for ir in (Irreps("0e")[0].ir, Irreps("0o")[0].ir) if reachable(ir)), None
        )
        if gated.dim and gate_ir is None:
            raise ModelError(f"{irreps_in1} x {irreps_in2} gives no scalars to gate {gated} with")
        gates = Irreps([(mul, gate_ir) for mul, _ in gated]).simplify() if gated.dim else Irreps([])
        parts = list(scalars) + list(gates)
        self.irreps_in = (scalars + gates + gated).sort().irreps.simplify()
        self.irreps_out = scalars + gated
        self.layout_in, self.layout_out = Layout(self.irreps_in), Layout(self.irreps_out)
        # sorting is stable, so within a joined scalar slot the scalars of its parity come first,
        # then the gates
        used: dict[Key, int] = {}
        self.pieces: list[tuple[Key, int, int]] = []
        for mul, ir in parts:
            start = used.get((ir.l, ir.p), 0)
            self.pieces.append(((ir.l, ir.p), start, mul))
            used[ir.l, ir.p] = start + mul
        self.scalar_count = len(scalars)
        self.gated = [((ir.l, ir.p), mul) for mul, ir in gated]
        self.gate_key: Key | None = (0, gate_ir.p) if gated.dim and gate_ir is not None else None
        self.gate_channels: dict[Key, list[int]] = {}
        first = 0
        for key, mul in self.gated:
            self.gate_channels.setdefault(key, []).extend(range(first, first + mul))
            first += mul
        self.act = {1: activation("silu"), -1: activation("tanh")}  # by parity
        self.gate_act = {1: activation("sigmoid"), -1: activation("tanh")}

    def forward(self, features: Features) -> Features:
        """Scalars through their activation, l > 0 times their gates."""
        # split, not slices: the gradient of each slice would be a tensor of zeros of the whole size
        sizes: dict[Key, list[int]] = {}
        for key, _, mul in self.pieces:
            sizes.setdefault(key, []).append(mul)
        parts = {key: iter(features[key].split(split, dim=2)) for key, split in sizes.items()}
        out: dict[Key, list[Tensor]] = {}
        gates = []
        for number, (key, _, _) in enumerate(self.pieces):
            is_gate = number >= self.scalar_count
            function, scale = (self.gate_act if is_gate else self.act)[key[1]]
            value = function(next(parts[key])) * scale
            if is_gate:
                gates.append(value)
            else:
                out.setdefault(key, []).append(value)
        result = {key: _join(values) for key, values in out.items()}
        factors: dict[Key, list[Tensor]] = {}
        if gates:
            each = _join(gates).split([mul for _, mul in self.gated], dim=2)
            for (key, _), factor in zip(self.gated, each, strict=True):
                factors.setdefault(key, []).append(factor)
        result.update({key: features[key] * _join(values) for key, values in factors.items()})
        return result


def _join(values: list[Tensor]) -> Tensor:
    """Channels after channels."""
    return torch.cat(values, dim=2) if len(values) > 1 else values[0]
