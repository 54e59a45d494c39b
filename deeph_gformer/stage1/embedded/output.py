r"""Scale and shift of the direct-sum output, as in DeepH-E3's later version
(``Net(index_to_Z=...)``).

.. math:: y_k = \sigma_{t k}\, x_k + \mu_{t k}

for every irrep k of the output, with :math:`\mu` for 0e only, so that the sum stays equivariant.
The type t is the element of a self-loop, or the ordered pair of elements of any other edge.
"""

from __future__ import annotations

import torch
from e3nn.o3 import Irreps
from torch import Tensor, nn

from ...algebra.layout import Features
from ...errors import ModelError
from ..bundle import ModelFolder
from .layout import Layout

__all__ = ["OutputScale", "edge_types", "scale_of"]


def edge_types(
    node_type: Tensor, source: Tensor, destination: Tensor, loops: Tensor, elements: int
) -> Tensor:
    """Rows of :math:`\\sigma` and :math:`\\mu`: element i of a self-loop, else ``S + S i + j``.

    Args:
        node_type: (N,), element of each atom, 0 to S - 1.
        source: (E,), atoms i.
        destination: (E,), atoms j.
        loops: (E,) bool, edges from an atom to itself in the same cell.
        elements: S.
    """
    i, j = node_type[source], node_type[destination]
    return torch.where(loops, i, elements + elements * i + j)


class OutputScale(nn.Module):
    """Parameters ``sigma`` (S + S², irreps) and ``mu`` (S + S², irreps 0e), at first ones and
    zeros."""

    def __init__(self, irreps: Irreps, elements: int) -> None:
        """
        Args:
            irreps: of the output.
            elements: S.
        """
        super().__init__()
        self.layout, types = Layout(irreps), elements + elements**2
        self.sigma = nn.Parameter(torch.ones(types, irreps.num_irreps))
        self.mu = nn.Parameter(torch.zeros(types, irreps.count("0e")))
        for n, index in enumerate(self.layout.multiplicity_index().values()):
            self.register_buffer(f"_place_{n}", index, persistent=False)

    def forward(self, features: Features, types: Tensor) -> Features:
        """Scaled and shifted features, in any frame.

        Args:
            features: (E, 2 l + 1, channels) per key.
            types: (E,), see :func:`edge_types`.
        """
        sigma, out = self.sigma[types], {}
        for n, key in enumerate(self.layout.channels):
            out[key] = features[key] * sigma[:, None, self.get_buffer(f"_place_{n}")]
        if (0, 1) in out:
            out[0, 1] = out[0, 1] + self.mu[types][:, None]
        return out


def scale_of(folder: ModelFolder) -> OutputScale:
    """The scale and shift of a model folder.

    Args:
        folder: of DeepH-E3's later version; ones and zeros where it holds none.

    Raises:
        ModelError: ``sigma`` or ``mu`` has another shape than the network's output needs.
    """
    scale = OutputScale(Irreps(folder.config.irreps_out_edge), folder.config.num_species)
    for name, parameter in scale.named_parameters():
        value = folder.state_dict.get(name)
        if value is not None and value.shape != parameter.shape:
            raise ModelError(
                f"{folder.path}: '{name}' has shape {tuple(value.shape)} instead of "
                f"{tuple(parameter.shape)}"
            )
        if value is not None:
            parameter.data = value.detach().clone()
    return scale
