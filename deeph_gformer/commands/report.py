"""``report``: one HTML file of a training run or of an evaluation."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from ..results import Evaluation
from .options import Options, Verb, argument, option

__all__ = ["VERBS", "write_evaluation_report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Of ``report``."""

    source: pathlib.Path = argument(
        metavar="RUN|EVALUATION",
        help="folder of a training run, or a JSON file of 'evaluate --json'",
    )
    output: pathlib.Path | None = option(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        shown="NAME_report.html",
        writes="file",
        help="where to write",
    )


def _run(options: ReportOptions) -> None:
    from ..errors import DataError
    from ..gformer.bundle import load_bundle
    from ..io.files import read_json, write_text
    from ..report import collect
    from ..report.page import render

    source: pathlib.Path = options.source
    if source.is_dir():
        bundle = collect.run_bundle(source)
        card = collect.describe_model(load_bundle(bundle)) if bundle else {}
        text = render(
            f"Training run {source.resolve().name}",
            history=collect.read_run(source),
            card=card,
            provenance={"run": str(source)},
        )
    else:
        result = read_json(source)
        needed = ("structures", "total", "places", "blocks", "distance", "basis", "errors")
        missing = [k for k in needed if not isinstance(result, dict) or k not in result]
        if missing:
            raise DataError(
                f"{source}: no result of 'deeph-gformer evaluate --json' of this version, "
                f"{missing[0]} is missing"
            )
        text = render(
            f"Evaluation {source.stem}",
            result=result,
            worst=result.get("worst"),
            card=result.get("model_card"),
            provenance={"evaluation": str(source), **(result.get("provenance") or {})},
        )
    name = source.resolve().name if source.is_dir() else source.stem
    output = options.output or pathlib.Path(f"{name}_report.html")
    write_text(output, text)
    print(f"written: {output}")


def write_evaluation_report(
    path: pathlib.Path, model: Any, preprocessed: pathlib.Path, result: Evaluation
) -> Evaluation:
    """The report of ``evaluate --report``.

    Args:
        path: HTML file.
        model: the :class:`~deeph_gformer.pipeline.HamiltonianModel` that was evaluated.
        preprocessed: the folder of structures.
        result: of ``evaluate``.

    Returns:
        The result with ``worst`` and ``model_card``.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    from ..io.files import write_text
    from ..io.folder import find_structures
    from ..report import collect
    from ..report.page import render

    name = result["total"]["challenging_structure"]
    folders = {f.resolve().name: f for f in find_structures(preprocessed, ("hamiltonian",))}
    settings = result["edges"], result["frames"]
    worst = collect.worst_structure(model, folders[name], *settings) if name in folders else None
    card = collect.describe_model(model.bundle)
    made = collect.provenance(model, preprocessed, ["deeph-gformer", *sys.argv[1:]])
    result = Evaluation.of(result, {"worst": worst, "model_card": card, "provenance": made})
    text = render(
        f"Evaluation of {preprocessed.resolve().name}",
        result=result,
        worst=worst,
        card=card,
        provenance=made,
    )
    write_text(path, text)
    return result


VERBS = (
    Verb(
        "report",
        "judge",
        "one HTML file of a training run or of an evaluation",
        ReportOptions,
        _run,
        "Write one self-contained HTML file (it works offline): the learning curve and the model "
        "card of a training run, or the tables and figures of a JSON file that 'evaluate --json' "
        "wrote. Bands and geometry of the worst structure need the model and the structures: "
        "'evaluate --report FILE' makes such a report.",
        examples=("report runs/mine -o curve.html", "report errors.json"),
    ),
)
