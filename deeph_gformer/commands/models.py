"""Models as the options ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .shared import ModelOptions

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["load_model"]


def load_model(
    options: ModelOptions, stage1_only: bool = False, device: str | None = None
) -> HamiltonianModel:
    """The model that the options name.

    Args:
        options: of the verb.
        stage1_only: leave the GFormer out.
        device: other than the one of the options.

    Raises:
        ConfigError: no model is named.
        ModelError: see :func:`deeph_gformer.load`.
    """
    from ..pipeline import load

    if options.stage1 is None and options.model is None:
        raise ConfigError(
            "say which model: --stage1 MODEL_DIR (DeepH-E3) and --model BUNDLE (GFormer)"
        )
    if options.model is None and not stage1_only:
        raise ConfigError("--model BUNDLE is missing; --stage1-only runs stage 1 alone")
    return load(
        None if stage1_only else options.model,
        options.stage1,
        device=device or options.device,
        dtype=options.dtype,
        backend=options.backend,
        deephe3_root=options.deephe3_root,
        generation=options.generation(),
        fill_missing=options.fill_missing,
    )
