"""e3nn's gate, as DeepH-E3 uses it: activations of scalars, and the order of the gates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from e3nn.math import normalize2mom
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Key
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


class Gate:
    """e3nn's ``Gate`` as DeepH-E3 uses it: SiLU/tanh on scalars, sigmoid/tanh gates times l > 0,
    each scaled to unit second moment. What it is made of; convolutions apply it.

    Attributes:
        irreps_in: what the tensor product must give (sorted and joined by e3nn: scalars and gates
            share a slot).
        irreps_out: scalars, then the gated irreps.
        gate_key: the irrep of the gates, None where nothing is gated.
        gate_channels: per gated irrep, which gate multiplies each of its channels.
    """

    def __init__(self, irreps_in1: Irreps, irreps_in2: Irreps, irreps_out: Irreps) -> None:

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
        self.irreps_in = (scalars + gates + gated).sort().irreps.simplify()
        self.irreps_out = scalars + gated
        self.layout_in, self.layout_out = Layout(self.irreps_in), Layout(self.irreps_out)
        # sorting is stable: scalars stand before the gates of their parity
        self.gate_key: Key | None = (0, gate_ir.p) if gated.dim and gate_ir is not None else None
        self.gate_channels: dict[Key, list[int]] = {}
        first = 0
        for mul, ir in gated:
            self.gate_channels.setdefault((ir.l, ir.p), []).extend(range(first, first + mul))
            first += mul
        self.act = {1: activation("silu"), -1: activation("tanh")}  # by parity
        self.gate_act = {1: activation("sigmoid"), -1: activation("tanh")}

    def order(self, gated: Sequence[Key]) -> dict[Key, list[int]]:
        """Which channel of the gates' irrep stands at each column: its scalars, then the gates in
        the order of the channels that they gate.

        Args:
            gated: the gated irreps, in the order wanted.
        """
        if self.gate_key is None:
            return {}
        scalars = self.layout_out.channels.get(self.gate_key, 0)
        gates = [scalars + gate for key in gated for gate in self.gate_channels[key]]
        return {self.gate_key: [*range(scalars), *gates]}
