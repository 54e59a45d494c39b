"""``evaluate`` and ``info``."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from ..fields import RUN_CONFIG, RUN_SPLITS
from ..results import (
    BundleInfo,
    CollectionInfo,
    Evaluation,
    ModelInfo,
    Result,
    RunInfo,
    StructureInfo,
)
from .loading import warn
from .models import load_model
from .options import Number, Verb, argument, option
from .shared import JsonOption, PredictionOptions

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(PredictionOptions, JsonOption):
    """Of ``evaluate``."""

    preprocessed: pathlib.Path = option(
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="folder with structure folders, with DFT's H",
    )
    splits: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="FILE",
        help='evaluate one split of this file only: {"train": [names], "val": [...], "test": '
        "[...]}, as training leaves it in the run folder",
    )
    split: Literal["train", "val", "test"] = option(default="test", help="which split of --splits")
    rotations: int = option(
        type=Number(int, least=0),
        default=1,
        metavar="N",
        help="random rotations of each structure, for the equivariance error; 0: none",
    )
    no_invariance: bool = option(
        default=False,
        help="do not predict the same crystal in other descriptions (supercell, other lattice "
        "vectors, ...), which takes about eleven predictions a structure",
    )
    plots: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        writes="folder",
        help="write figures and their data: heat maps of the error by orbital block, parity, "
        "error against distance, bars by structure",
    )
    report: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="FILE",
        writes="file",
        help="write one HTML file with all of it, and with bands and geometry of the worst "
        "structure",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoOptions(JsonOption):
    """Of ``info``."""

    path: pathlib.Path = argument(metavar="PATH", help="folder of any of these")


def _run_evaluate(options: EvaluateOptions) -> Evaluation:
    from ..analysis.evaluate import evaluate
    from ..analysis.tables import evaluation_table
    from ..results.worse import UNLIKE, worse_than_stage1

    if options.report is not None:  # before what takes minutes
        from ..report.figures import require_plotly

        require_plotly()
    model = load_model(options, options.model is None)
    result = evaluate(
        model,
        options.preprocessed,
        splits=options.splits,
        split=options.split,
        edges=options.edges,
        frames=options.frames,
        rotations=options.rotations,
        invariance=not options.no_invariance,
        plots=options.plots,
    )
    if options.report is not None:  # before anything is said: it may fail, too
        from .report import write_evaluation_report

        result = write_evaluation_report(options.report, model, options.preprocessed, result)
    print(evaluation_table(result))
    if text := worse_than_stage1(result["total"], "these structures"):
        warn(f"{text}. {UNLIKE}")
    if options.report is not None:
        print(f"written: {options.report}")
    return result


#: What ``info`` finds.
_INFO = (BundleInfo, CollectionInfo, ModelInfo, RunInfo, StructureInfo)


def _run_info(options: InfoOptions) -> Result:
    from ..analysis.describe import describe, text_of

    if all((options.path / name).is_file() for name in (RUN_CONFIG, RUN_SPLITS)):
        from ..report.run import describe_run

        found: Result = describe_run(options.path)
    else:
        found = describe(options.path)
    print(text_of(found))
    return found


VERBS = (
    Verb(
        "evaluate",
        "judge",
        "errors of stage 1 and of both stages against DFT",
        EvaluateOptions,
        _run_evaluate,
        "Errors of every structure that has hamiltonians.h5, in meV: of H as in Tables 2-4 of the "
        "paper (MAE_all: mean; MAE_cha.s, MAE_cha.b: structure and orbital block that are worst "
        "for stage 1), of DFT's states near the Fermi level, and how far H depends on the "
        "description of the crystal. Nothing is written but what --json, --plots and --report "
        "name.",
        results=(Evaluation,),
        examples=(
            "evaluate --preprocessed TEST --stage1 MODEL_DIR --model runs/mine/bundle \\\n"
            "      --report report.html",
        ),
    ),
    Verb(
        "info",
        "data",
        "what a folder is: structure, DeepH-E3 model, GFormer bundle or training run",
        InfoOptions,
        _run_info,
        results=_INFO,
        examples=("info runs/mine", "info MODEL_DIR"),
    ),
)
