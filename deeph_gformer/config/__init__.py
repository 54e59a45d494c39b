"""Hyper-parameters (:mod:`.schema`) and the strict reader of their files (:mod:`.reading`)."""

from .reading import (
    apply_overrides,
    field_docs,
    from_mapping,
    load_yaml,
    read_yaml,
    to_mapping,
    upgrade_model,
)
from .schema import (
    DataConfig,
    GFormerConfig,
    Stage1Config,
    TrainConfig,
    TrainingConfig,
    TrainStage1Config,
    within,
)

__all__ = [
    "DataConfig",
    "GFormerConfig",
    "Stage1Config",
    "TrainConfig",
    "TrainStage1Config",
    "TrainingConfig",
    "apply_overrides",
    "field_docs",
    "from_mapping",
    "load_yaml",
    "read_yaml",
    "to_mapping",
    "upgrade_model",
    "within",
]
