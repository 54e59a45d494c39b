"""``eval`` (DeepH-E3's evaluation ini) and ``convert`` (folders into other formats)."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from ..errors import ConfigError

__all__ = ["register"]


def register(sub: Any) -> None:
    """Add the parsers of this area."""
    parser = sub.add_parser(
        "eval",
        help="DeepH-E3's evaluation from its own ini file, with or without a GFormer on top",
        description="Does what deephe3-eval.py does with this ini: the same files in the same places. With --model the Hamiltonians "
        "are refined.",
    )
    parser.add_argument(
        "ini",
        type=pathlib.Path,
        metavar="INI",
        help="DeepH-E3's evaluation ini ([basic] and [data])",
    )
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        metavar="BUNDLE",
        help="GFormer bundle on top of the models in trained_model_dir (default: stage 1 alone)",
    )
    parser.add_argument("-n", type=int, metavar="THREADS", help="maximum number of threads")
    parser.add_argument(
        "--debug",
        action="store_true",
        help="fill matrix elements that no model predicts with 0 instead of stopping",
    )
    parser.add_argument(
        "--hermitian",
        action=argparse.BooleanOptionalAction,
        help="write ½(H + H†) (default: with --model; DeepH-E3 itself writes the raw output)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=1,
        metavar="K",
        help="rotated frames to average (with --model; default: 1)",
    )
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="stage-1 engine: auto, embedded, official or a third party's (default: auto)",
    )
    parser.add_argument(
        "--deephe3-root",
        type=pathlib.Path,
        metavar="DIR",
        help="clone of DeepH-E3, for the official backend",
    )
    parser.add_argument(
        "--e3nn-generation",
        choices=("0.3", "0.4", ">=0.5"),
        help="where a checkpoint cannot tell which e3nn it was trained with",
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="record of everything, machine-readable"
    )
    parser.set_defaults(run=run_eval)

    parser = sub.add_parser(
        "convert",
        help="legacy and DeepH-dock folders into each other, and into Wannier90, sisl, SciPy or POSCAR files",
        description="A folder of structure folders is converted one by one into TARGET/<name>. Legacy to DeepH-dock groups atoms by "
        "element, says so, "
        "and remembers the order for the way back.",
    )
    parser.add_argument(
        "source",
        type=pathlib.Path,
        metavar="SOURCE",
        help="structure folder, a folder of them, a SIESTA matrix (.HSX, .TSHS, .nc) or our .npz",
    )
    parser.add_argument(
        "target",
        type=pathlib.Path,
        metavar="TARGET",
        help="folder (legacy, dock, wannier90) or file (sisl: .TSHS or .nc, npz, poscar) to write",
    )
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        help="legacy, dock or an installed folder format; wannier90, sisl, npz or poscar (default: "
        "the other one of legacy and dock)",
    )
    parser.add_argument(
        "--kind",
        choices=("hamiltonian", "prediction"),
        help="which H goes to wannier90, sisl or npz (default: DFT's, else the prediction)",
    )
    parser.add_argument(
        "--overlap",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with S, where it is not beside H (wannier90, sisl, npz)",
    )
    parser.add_argument(
        "--mesh",
        metavar="9x9x1",
        help="k mesh of the Löwdin orthogonalisation (wannier90; default: four times the range of H, plus one)",
    )
    parser.add_argument(
        "--fdf",
        type=pathlib.Path,
        metavar="FILE",
        help="SIESTA's input, which gives the basis (default: the only .fdf beside the matrix)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a structure that is there"
    )
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="record of everything, machine-readable"
    )
    parser.set_defaults(run=run_convert)


def run_eval(args: argparse.Namespace) -> int:
    """Run ``eval``."""
    import torch

    from ..interop.deephe3 import evaluate_ini
    from ..io.files import write_json

    if args.n is not None:
        if args.n < 1:
            raise ConfigError(f"-n {args.n}: at least 1 thread is needed")
        torch.set_num_threads(args.n)
    result = evaluate_ini(
        args.ini,
        args.model,
        hermitian=args.hermitian,
        fill_missing=0.0 if args.debug else None,
        frames=args.frames,
        say=_say,
        backend=args.backend,
        deephe3_root=args.deephe3_root,
        generation=args.e3nn_generation,
    )
    print(
        f"{len(result['structures'])} structure(s) -> {result['output_dir']}"
        + (f", {result['test_result']}" if result["test_result"] else "")
    )
    if args.json:
        write_json(args.json, result)
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Run ``convert``."""
    from ..interop.convert import convert
    from ..io.files import write_json

    options = {
        "kind": args.kind,
        "overlap_folder": args.overlap,
        "mesh": args.mesh,
        "fdf": args.fdf,
    }
    records = convert(
        args.source, args.target, args.to, overwrite=args.overwrite, say=_say, **options
    )
    if args.json:
        write_json(args.json, {"structures": records})
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
