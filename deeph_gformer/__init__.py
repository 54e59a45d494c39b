"""deeph-gformer: refine DeepH-E3 Hamiltonians with a non-linear 3D graph Transformer."""
from __future__ import annotations

__version__ = "0.1.0"
