"""Stage 1: the provider interface, DeepH-E3 itself, and our own exact engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    import torch

    from ..algebra.wigner import Generation
    from .provider import Stage1Provider

__all__ = ["load_stage1", "ENTRY_POINTS"]

#: Entry point group where third parties register a callable like :func:`load_stage1` (without
#: ``backend``) under their backend's name.
ENTRY_POINTS = "deeph_gformer.stage1"


def load_stage1(
    model_dir: str | os.PathLike[str],
    backend: str = "auto",
    deephe3_root: str | os.PathLike[str] | None = None,
    generation: Generation | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fill_missing: float | None = None,
) -> Stage1Provider:
    """The stage 1 of a ``trained_model_dir``: every model at or below it, merged into one as
    DeepH-E3 does.

    Args:
        model_dir: a DeepH-E3 model folder, or a folder of several, each predicting some blocks.
        backend: ``embedded`` (our engine), ``official`` (the user's clone of DeepH-E3), ``auto``
            (official where ``deephe3_root`` is given, else embedded), or the name of a third
            party's entry point.
        deephe3_root: the clone; ``official`` also looks at the variable ``DEEPHE3_ROOT`` and for an
            importable ``deephe3``.
        generation: e3nn generation, where a checkpoint cannot tell.
        device: where to run.
        dtype: other than that of the parameters.
        fill_missing: value (eV) of blocks that no model predicts; None makes them an error as soon
            as a structure has such a block.

    Raises:
        ModelError: no model is found, one cannot be used, or they do not belong together.
        ConfigError: the backend is unknown.
    """
    if backend == "auto":
        backend = "official" if deephe3_root is not None else "embedded"
    if backend not in ("embedded", "official"):
        return _third_party(backend)(
            model_dir, generation=generation, device=device, dtype=dtype, fill_missing=fill_missing
        )
    from .bundle import find_models

    folders = find_models(model_dir)
    models: list[Stage1Provider] = []
    for folder in folders:
        if backend == "embedded":
            from .embedded.provider import EmbeddedStage1

            models.append(EmbeddedStage1(folder, generation, device, dtype, fill_missing))
        else:
            from .official import OfficialStage1

            models.append(
                OfficialStage1(folder, deephe3_root, generation, device, dtype, fill_missing)
            )
    if len(models) == 1:
        return models[0]
    from .merged import MergedStage1

    return MergedStage1(models, fill_missing)


def _third_party(backend: str) -> Callable[..., Stage1Provider]:
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if backend not in found:
        raise ConfigError(
            f"stage-1 backend '{backend}' is unknown; choose "
            f"{', '.join(['auto', 'embedded', 'official', *sorted(found)])}"
        )
    loaded: Callable[..., Stage1Provider] = found[backend].load()
    return loaded
