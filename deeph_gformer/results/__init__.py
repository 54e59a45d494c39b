"""What verbs find: a dataclass each, whose fields are the keys that ``--json`` writes.

>>> import json
>>> from deeph_gformer.results import Evaluation
>>> Evaluation.of(json.load(open("errors.json"))).total["ratio_mae_all"]       # doctest: +SKIP
"""

from .base import Result
from .data import (
    BundleInfo,
    CollectionInfo,
    Conversion,
    ModelInfo,
    OverlapPredictions,
    OverlapSource,
    RunInfo,
    StructureInfo,
    Twists,
)
from .models import (
    Evaluation,
    FoldTraining,
    IniEvaluation,
    LevelFit,
    Refinement,
    Stage1Training,
    Training,
)
from .physics import (
    BandPlot,
    Comparison,
    ConductivityResult,
    DosResult,
    FermiResult,
    GapResult,
    LdosResult,
    SurfaceResult,
    TextureResult,
    TopologyResult,
    UnfoldedPlot,
)

__all__ = [
    "BandPlot",
    "BundleInfo",
    "CollectionInfo",
    "Comparison",
    "ConductivityResult",
    "Conversion",
    "DosResult",
    "Evaluation",
    "FermiResult",
    "FoldTraining",
    "GapResult",
    "IniEvaluation",
    "LdosResult",
    "LevelFit",
    "ModelInfo",
    "OverlapPredictions",
    "OverlapSource",
    "Refinement",
    "Result",
    "RunInfo",
    "Stage1Training",
    "StructureInfo",
    "SurfaceResult",
    "TextureResult",
    "TopologyResult",
    "Training",
    "Twists",
    "UnfoldedPlot",
]
