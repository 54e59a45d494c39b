"""``refine``: the main job."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from ..results import Refinement
from .loading import warn
from .models import load_model
from .options import Number, Verb, option
from .shared import JsonOption, PredictionOptions
from .single import overlap_source, stage1_only_option

__all__ = ["VERBS"]

_RUN = "output and resources"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefineOptions(PredictionOptions, JsonOption):
    """Of ``refine``."""

    preprocessed: pathlib.Path = option(
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="folder with structure folders (legacy or DeepH-dock), or structure files (POSCAR, "
        ".cif, ...) or a folder of them, which need --output",
    )
    overlap: tuple[str, ...] = overlap_source(
        "edges and S of structures without overlaps.h5, which is then written",
        shown="the table in the bundle",
    )
    stage1_only: bool = stage1_only_option()
    guard: bool = option(
        default=False,
        help="write stage 1's H for structures whose correction is out of the range of those in "
        "validation",
    )
    any_basis: bool = option(
        default=False,
        help="also predict structures whose overlaps are of another basis than the model's "
        "(otherwise refused)",
    )
    no_hermitian: bool = option(
        default=False,
        help="write the network's output as it is: neither ½(H + H†) nor, with spin-orbit "
        "coupling, its time-reversal symmetric part",
    )
    output: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        group=_RUN,
        writes="folder",
        shown="beside the input",
        help="write DIR/NAME/hamiltonians_pred.h5",
    )
    format: str = option(
        default="same",
        metavar="FORMAT",
        group=_RUN,
        help="folder format of the output: legacy, dock, the name of an installed one, or same "
        "as the input",
    )
    overwrite: bool = option(
        default=False, group=_RUN, one_of="existing", help="replace predictions that are there"
    )
    skip_existing: bool = option(
        default=False,
        group=_RUN,
        one_of="existing",
        help="leave out structures that have a prediction",
    )
    max_memory: str | None = option(
        metavar="SIZE",
        group=_RUN,
        shown="nine tenths of what is free",
        help="most memory that one process takes, e.g. 8GB (on a GPU: of the GPU's)",
    )
    batch_edges: int = option(
        type=Number(int, least=0),
        default=0,
        metavar="N",
        group=_RUN,
        shown="0, one by one",
        help="predict small structures together, about N edges (pairs of atoms) at once",
    )
    no_fermi_level: bool = option(
        default=False,
        group=_RUN,
        help="write no Fermi level, which is found by counting electrons and takes much of the "
        "time of small structures",
    )
    spill: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        group=_RUN,
        help="folder on a fast disk for what does not fit into memory (emptied at the end)",
    )


def _run(options: RefineOptions) -> Refinement | None:
    from ..analysis.tables import refine_table
    from ..inference.refine import refine
    from ..results.worse import UNLIKE, worse_than_stage1
    from ..runtime.plan import parse_size, show_size
    from ..runtime.processes import (
        agreed,
        end_processes,
        process_device,
        same_device,
        start_processes,
    )

    comm = start_processes()
    first = comm.rank == 0
    with agreed(comm):
        memory = None if options.max_memory is None else parse_size(options.max_memory)
        model = load_model(options, options.stage1_only, process_device(options.device))
    with agreed(comm):
        same_device(comm, model.device)
    if first:
        print(model)
    result = refine(
        options.preprocessed,
        model,
        options.output,
        edges=options.edges,
        hermitian=not options.no_hermitian,
        frames=options.frames,
        form=options.format,
        existing="overwrite" if options.overwrite else "skip" if options.skip_existing else "error",
        progress=sys.stderr.isatty() and not options.quiet,
        guard=options.guard,
        any_basis=options.any_basis,
        overlap=options.overlap or None,
        memory=memory,
        spill=options.spill,
        batch_edges=options.batch_edges,
        count=not options.no_fermi_level,
    )
    if first:
        why = (
            f"H is not there, and edges were asked for from it (--edges {options.edges})"
            if options.edges in ("hamiltonians", "union")
            else "neither S nor H is there, and the model has no table that makes S (see --overlap)"
        )
        for folder in result["without_edges"]:
            warn(f"{folder} is skipped: {why}")
        for record in result["structures"]:
            for text in record["warnings"]:
                warn(f"{record['name']}: {text}")
            if record["spilled_bytes"]:
                print(
                    f"{record['name']}: {show_size(record['spilled_bytes'])} of edge features "
                    "were in files (--spill)"
                )
        print(
            "\n".join(
                [
                    refine_table(result, model.bundle is None or model.stage1 is None),
                    *_guard_lines(result),
                ]
            )
        )
        if text := worse_than_stage1(result["total"].get("errors", {}), "these structures"):
            warn(f"{text}. {UNLIKE}")
    end_processes()
    return result if first else None


def _guard_lines(result: Refinement) -> list[str]:
    """One line a warning of the guard, and where stage 1 was kept."""
    lines = [
        f"{r['name']}: warning: {r['guard_warning']}"
        for r in result["structures"]
        if r.get("guard_warning")
    ]
    kept = [r["name"] for r in result["structures"] if r.get("guarded")]
    return lines + ([f"--guard kept stage 1 for {', '.join(kept)}"] if kept else [])


VERBS = (
    Verb(
        "refine",
        "predict",
        "predict Hamiltonians: DeepH-E3's inference step, refined",
        RefineOptions,
        _run,
        "Walks DIR for structure folders, predicts with stage 1 and GFormer, and writes "
        "hamiltonians_pred.h5 and info.json. Where hamiltonians.h5 is there, errors against it are "
        "reported. Large structures: 'torchrun --nproc-per-node N -m deeph_gformer refine ...' "
        "shares them among processes (docs/howto/large.md).",
        results=(Refinement,),
        examples=(
            "refine --preprocessed DIR --stage1 MODEL_DIR --model runs/mine/bundle --output OUT",
            "refine --preprocessed twisted.vasp --basis C.orb --stage1 MODEL_DIR \\\n"
            "      --model runs/mine/bundle --output OUT",
        ),
    ),
)
