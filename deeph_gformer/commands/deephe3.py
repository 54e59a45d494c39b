"""``eval``: DeepH-E3's evaluation ini."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from ..results import IniEvaluation
from .loading import print_line
from .options import Number, Verb, argument, option
from .shared import EngineOptions, JsonOption
from .single import frames_option

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions(EngineOptions, JsonOption):
    """Of ``eval``."""

    ini: pathlib.Path = argument(
        metavar="INI", help="DeepH-E3's evaluation ini ([basic] and [data])"
    )
    model: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="BUNDLE",
        shown="stage 1 alone",
        help="GFormer bundle on top of the models in trained_model_dir",
    )
    threads: int | None = option(
        "-n", type=Number(int, least=1), metavar="THREADS", help="threads, at most"
    )
    debug: bool = option(
        default=False,
        help="fill matrix elements that no model predicts with 0 instead of stopping",
    )
    hermitian: bool | None = option(
        action=argparse.BooleanOptionalAction,
        shown="with --model; DeepH-E3 itself writes the raw output",
        help="write ½(H + H†)",
    )
    frames: int = frames_option("only for a --model of arch: paper")


def _run(options: EvalOptions) -> IniEvaluation:
    import torch

    from ..interop.deephe3 import evaluate_ini

    if options.threads is not None:
        torch.set_num_threads(min(options.threads, 1024))  # 10⁹ take 200 GB
    result = evaluate_ini(
        options.ini,
        options.model,
        hermitian=options.hermitian,
        fill_missing=0.0 if options.debug else None,
        frames=options.frames,
        echo=print_line,
        backend=options.backend,
        deephe3_root=options.deephe3_root,
        generation=options.generation(),
    )
    print(
        f"{len(result['structures'])} structure(s) -> {result['output_dir']}"
        + (f", {result['test_result']}" if result["test_result"] else "")
    )
    return result


VERBS = (
    Verb(
        "eval",
        "predict",
        "DeepH-E3's evaluation from its own ini file, with or without a GFormer on top",
        EvalOptions,
        _run,
        "Does what deephe3-eval.py does with this ini: the same files in the same places. With "
        "--model the Hamiltonians are refined.",
        results=(IniEvaluation,),
        examples=("eval eval.ini", "eval eval.ini --model runs/mine/bundle"),
    ),
)
