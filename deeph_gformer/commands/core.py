"""``refine``, ``train``, ``train-stage1``, ``evaluate`` and ``info``: the main job."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .settings import list_settings, read_settings

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["register"]

#: Options of both training commands and their keys.
OPTIONS = {
    "preprocessed": "data.preprocessed",
    "splits": "data.splits",
    "output": "output",
    "epochs": "training.epochs",
    "device": "training.device",
}


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    _register_refine(sub)
    _register_train(sub)
    parser = sub.add_parser(
        "evaluate",
        help="errors of stage 1 and of both stages against DFT",
        description="MAE_all, MAE_cha.s and MAE_cha.b (Tables 2-4 of the "
        "paper) of every structure with hamiltonians.h5, in meV; nothing is written but --json.",
    )
    parser.add_argument(
        "--preprocessed",
        required=True,
        type=pathlib.Path,
        metavar="DIR",
        help="folder with structure folders",
    )
    _model_options(parser)
    parser.add_argument(
        "--splits",
        type=pathlib.Path,
        metavar="FILE",
        help="split file; only its test structures are evaluated",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="test",
        help="which split of --splits (default: test)",
    )
    _prediction_options(parser)
    parser.add_argument(
        "--rotations",
        type=int,
        default=1,
        metavar="N",
        help="random rotations for the equivariance error (default: 1; 0: none)",
    )
    parser.add_argument(
        "--no-invariance",
        action="store_true",
        help="leave out the predictions in other descriptions of the same crystal (about eleven "
        "predictions a structure)",
    )
    parser.add_argument(
        "--plots",
        type=pathlib.Path,
        metavar="DIR",
        help="write figures and their data: heat map of MAE_block, "
        "parity, error against distance, bars",
    )
    parser.add_argument(
        "--report",
        type=pathlib.Path,
        metavar="FILE",
        help="write one HTML file with all of it, and with bands and "
        "geometry of the worst structure",
    )
    _json_option(parser)
    parser.set_defaults(run=_run_evaluate)
    parser = sub.add_parser(
        "info", help="what a structure folder, a DeepH-E3 model folder or a GFormer bundle is"
    )
    parser.add_argument("path", type=pathlib.Path, metavar="PATH", help="the folder")
    _json_option(parser)
    parser.set_defaults(run=_run_info)


def _register_refine(sub: Any) -> None:
    parser = sub.add_parser(
        "refine",
        help="predict Hamiltonians: DeepH-E3's inference step, refined",
        description="Walks DIR for structure folders, predicts with "
        "stage 1 and GFormer, and writes hamiltonians_pred.h5 and info.json. Where "
        "hamiltonians.h5 is there, errors against it are reported. "
        "Large structures: 'torchrun --nproc-per-node N -m deeph_gformer refine ...' shares them "
        "among processes (docs/howto/large.md).",
    )
    parser.add_argument(
        "--preprocessed",
        required=True,
        type=pathlib.Path,
        metavar="DIR",
        help="folder with structure folders (legacy or DeepH-dock); or, with --overlap and "
        "--output, structure files (POSCAR, .cif, ...)",
    )
    parser.add_argument(
        "--overlap",
        "--basis",
        dest="overlap",
        nargs="+",
        metavar="SOURCE",
        help="edges and S of structures without overlaps.h5, which is "
        "then written: a table (.npz), "
        "basis files or a folder of them (OpenMX: with C6.0-s2p2d1 ...), a folder with overlaps "
        "(default: the table in the bundle)",
    )
    _model_options(parser)
    parser.add_argument("--stage1-only", action="store_true", help="run stage 1 alone")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="DIR",
        help="write DIR/NAME/hamiltonians_pred.h5 (default: beside the input)",
    )
    _prediction_options(parser)
    parser.add_argument(
        "--guard",
        action="store_true",
        help="keep stage 1 for structures whose correction is out of the range that validation saw",
    )
    parser.add_argument(
        "--any-basis",
        action="store_true",
        help="go on where the overlaps say that this is not the basis the model was trained on",
    )
    parser.add_argument(
        "--no-hermitian", action="store_true", help="write the raw output instead of (H + H†)/2"
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        default="same",
        help="of the output: legacy, dock, an installed folder format, or same (default: that of "
        "the input)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--overwrite", action="store_true", help="replace predictions that are there"
    )
    group.add_argument(
        "--skip-existing", action="store_true", help="leave structures alone that have a prediction"
    )
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="what one process may take, e.g. 8GB (of the GPU's memory where it runs on one; "
        "default: nine tenths of what is free)",
    )
    parser.add_argument(
        "--batch-edges",
        type=int,
        default=0,
        metavar="N",
        help="run small structures together, about N edges at once (default: one by one)",
    )
    parser.add_argument(
        "--spill",
        type=pathlib.Path,
        metavar="DIR",
        help="folder on a fast disk for edge features that do not fit "
        "into memory (removed at the end)",
    )
    _json_option(parser)
    parser.set_defaults(run=_run_refine)


def _register_train(sub: Any) -> None:
    for verb, what in (
        ("train", "train a GFormer (stage 2) on a frozen stage 1"),
        ("train-stage1", "train a DeepH-E3 network on the embedded engine"),
    ):
        parser = sub.add_parser(
            verb,
            help=what,
            description=f"{what[0].upper()}{what[1:]}. Settings come from a YAML file, from "
            f"--set, or both; 'deeph-gformer {verb} --list' prints every key with its meaning.",
        )
        parser.add_argument(
            "config",
            nargs="?",
            type=pathlib.Path,
            metavar="CONFIG.yaml",
            help="settings (default: all defaults)",
        )
        parser.add_argument(
            "--preprocessed",
            metavar="DIR",
            help="folder with structure folders (data.preprocessed)",
        )
        parser.add_argument("--splits", metavar="FILE", help="split file (data.splits)")
        if verb == "train":
            parser.add_argument(
                "--stage1", metavar="MODEL_DIR", help="DeepH-E3 model folder (stage1)"
            )
            _backend_options(parser)
            parser.add_argument(
                "--resume", action="store_true", help="go on with the run in the output folder"
            )
            parser.add_argument(
                "--from",
                dest="start",
                metavar="BUNDLE",
                help="start from a finished GFormer instead of random weights (start)",
            )
        else:
            parser.add_argument(
                "--resume",
                nargs="?",
                const="",
                metavar="MODEL_DIR",
                help="go on with the run in the output folder; or start from a DeepH-E3 model "
                "folder, its optimizer state included",
            )
        parser.add_argument("--output", metavar="DIR", help="folder of the run (output)")
        parser.add_argument("--epochs", type=int, metavar="N", help="training.epochs")
        parser.add_argument(
            "--device", metavar="NAME", help="training.device: auto, cpu, cuda, ..."
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="any setting, e.g. --set training.learning_rate=1e-3; repeatable",
        )
        parser.add_argument(
            "--every", type=int, default=1, metavar="N", help="print every N-th epoch (default: 1)"
        )
        parser.add_argument(
            "--list", action="store_true", help="print every setting with its default and meaning"
        )
        _json_option(parser)
        parser.set_defaults(run=_run_train if verb == "train" else _run_train_stage1)


def _backend_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("stage 1")
    group.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, embedded (our engine), official (your clone of DeepH-E3) or a registered one",
    )
    group.add_argument(
        "--deephe3-root",
        type=pathlib.Path,
        metavar="DIR",
        help="clone of DeepH-E3; runs it instead of the embedded engine",
    )
    group.add_argument(
        "--e3nn-generation",
        metavar="GEN",
        help="0.3, 0.4 or '>=0.5', where a checkpoint cannot tell",
    )
    group.add_argument(
        "--fill-missing",
        type=float,
        metavar="EV",
        help="value of blocks that no model predicts (default: an error that lists them)",
    )


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage1",
        type=pathlib.Path,
        metavar="MODEL_DIR",
        help="DeepH-E3 model folder (or a folder of several)",
    )
    parser.add_argument("--model", type=pathlib.Path, metavar="BUNDLE", help="GFormer bundle")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, ..."
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), help="default: that of stage 1")
    _backend_options(parser)


def _prediction_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--edges",
        choices=("auto", "overlaps", "hamiltonians", "union"),
        default="auto",
        help="blocks that become edges (default auto: overlaps.h5, or its union with "
        "hamiltonians.h5 where both are there)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=1,
        metavar="K",
        help="average K rotated frames (arch: paper; default: 1)",
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="also write the figures as JSON"
    )


def _load(args: argparse.Namespace, stage1_only: bool = False) -> HamiltonianModel:
    from ..algebra.wigner import parse_generation
    from ..pipeline import load

    if args.frames < 1:
        raise ConfigError(f"--frames {args.frames}: at least 1 is needed")
    if args.stage1 is None and args.model is None:
        raise ConfigError(
            "say which model: --stage1 MODEL_DIR (DeepH-E3) and --model BUNDLE (GFormer)"
        )
    if args.model is None and not stage1_only:
        raise ConfigError("--model BUNDLE is missing; --stage1-only runs stage 1 alone")
    generation = parse_generation(args.e3nn_generation) if args.e3nn_generation else None
    model = load(
        None if stage1_only else args.model,
        args.stage1,
        device=args.device,
        dtype=args.dtype,
        backend=args.backend,
        deephe3_root=args.deephe3_root,
        generation=generation,
        fill_missing=args.fill_missing,
    )
    if model.bundle is not None and model.bundle.lacks and os.environ.get("RANK", "0") == "0":
        print(f"note: {args.model}: {model.bundle.lacks}", file=sys.stderr)
    return model


def _write_json(args: argparse.Namespace, table: dict[str, Any]) -> None:
    if args.json is not None:
        from ..io.files import write_json

        write_json(args.json, table)


def _run_refine(args: argparse.Namespace) -> None:
    from ..analysis.guard import guard_lines
    from ..analysis.tables import refine_table
    from ..inference.refine import refine
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
        memory = None if args.max_memory is None else parse_size(args.max_memory)
        args.device = process_device(args.device)
        model = _load(args, args.stage1_only)
    same_device(comm, model.device)
    if first:
        print(model)
    result = refine(
        args.preprocessed,
        model,
        args.output,
        edges=args.edges,
        hermitian=not args.no_hermitian,
        frames=args.frames,
        form=args.format,
        existing="overwrite" if args.overwrite else "skip" if args.skip_existing else "error",
        progress=sys.stderr.isatty(),
        guard=args.guard,
        any_basis=args.any_basis,
        overlap=args.overlap,
        memory=memory,
        spill=args.spill,
        batch_edges=args.batch_edges,
    )
    if first:
        for folder in result["without_edges"]:
            print(
                f"warning: {folder} is skipped: neither S nor H is there, and the model has no "
                "table that makes S (see --overlap)",
                file=sys.stderr,
            )
        for record in result["structures"]:
            for text in record["warnings"]:
                print(f"warning: {record['name']}: {text}", file=sys.stderr)
            if record["spilled_bytes"]:
                print(
                    f"{record['name']}: {show_size(record['spilled_bytes'])} of edge features "
                    "were in files (--spill)"
                )
        print(
            "\n".join(
                [
                    refine_table(result, model.bundle is None or model.stage1 is None),
                    *guard_lines(result),
                ]
            )
        )
        _write_json(args, result)
    end_processes()


def _run_evaluate(args: argparse.Namespace) -> None:
    from ..analysis.evaluate import evaluate
    from ..analysis.tables import evaluation_table

    model = _load(args, args.model is None)
    result = evaluate(
        model,
        args.preprocessed,
        splits=args.splits,
        split=args.split,
        edges=args.edges,
        frames=args.frames,
        rotations=args.rotations,
        invariance=not args.no_invariance,
        plots=args.plots,
    )
    print(evaluation_table(result))
    if args.report is not None:
        from .report import write_evaluation_report

        write_evaluation_report(args.report, model, args.preprocessed, result)
    _write_json(args, result)


def _run_train(args: argparse.Namespace) -> None:
    from ..config import TrainConfig

    if args.list:
        return list_settings(TrainConfig)
    from ..algebra.wigner import parse_generation
    from ..analysis.metrics import headline
    from ..stage1 import load_stage1
    from ..training.run import say
    from ..training.stage2 import train_gformer

    config = read_settings(args, TrainConfig, {**OPTIONS, "stage1": "stage1", "start": "start"})
    if not config.stage1:
        raise ConfigError(
            "stage1 is empty: say which DeepH-E3 model folder, with --stage1 MODEL_DIR"
        )
    generation = parse_generation(args.e3nn_generation) if args.e3nn_generation else None
    stage1 = load_stage1(
        config.stage1, args.backend, args.deephe3_root, generation, fill_missing=args.fill_missing
    )
    _, record = train_gformer(config, stage1, resume=args.resume, every=args.every)
    bundle = pathlib.Path(config.output) / "bundle"
    if "validation" in record:  # on the first rank
        say(f"best validation MAE: {headline(record['validation'], not stage1)}; bundle: {bundle}")
    _trained(args, record)


def _trained(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """What both training commands do at their end."""
    from ..training.run import first_rank, note

    if not record["structures"]["test"]:
        note(
            "the test split is empty: keep structures that no training "
            "saw for 'deeph-gformer evaluate'"
        )
    if first_rank():
        _write_json(args, record)


def _run_train_stage1(args: argparse.Namespace) -> None:
    from ..config import TrainStage1Config

    if args.list:
        return list_settings(TrainStage1Config)
    from ..training.run import say
    from ..training.stage1 import train_stage1

    config = read_settings(args, TrainStage1Config, OPTIONS)
    record = train_stage1(
        config, resume=args.resume == "", continue_from=args.resume or None, every=args.every
    )
    kind = "of H - μS" if record["gauge"] == "standard" else "of raw H"
    say(
        f"best validation MAE {record['best_val_mae_meV']:.4f} meV {kind}; DeepH-E3 model "
        f"folder: {pathlib.Path(config.output) / 'model'}"
    )
    _trained(args, record)


def _run_info(args: argparse.Namespace) -> None:
    from ..analysis.describe import describe

    table, text = describe(args.path)
    print(text)
    _write_json(args, table)
