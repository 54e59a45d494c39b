"""deeph-gformer: refine DeepH-E3 Hamiltonians with a non-linear 3D graph Transformer.

>>> import deeph_gformer
>>> model = deeph_gformer.load("gformer/", stage1="stage1/")           # doctest: +SKIP
>>> model.predict("structures/0030").hamiltonian                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "load",
    "refine",
    "convert",
    "HamiltonianModel",
    "Prediction",
    "GFormerError",
    "__version__",
]

if TYPE_CHECKING:
    from .errors import GFormerError
    from .inference.refine import refine
    from .interop.convert import convert
    from .pipeline import HamiltonianModel, Prediction, load

_HOMES = {
    "load": "pipeline",
    "HamiltonianModel": "pipeline",
    "Prediction": "pipeline",
    "refine": "inference.refine",
    "convert": "interop.convert",
    "GFormerError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``deeph_gformer.bands`` works without loading torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
