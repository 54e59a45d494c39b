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
        description="Does what deephe3-eval.py does with this ini: the same "
        "files in the same places. With "
        "--model the Hamiltonians are refined.",
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
        help="output of DFT codes into training folders; legacy and DeepH-dock folders into each "
        "other, and into Wannier90, sisl, SciPy or POSCAR files",
        description="A folder of DFT runs or of structure folders is converted one by one into "
        "TARGET/<name>. Runs are read several at a time; those that are there already, from the "
        "same files, are left as they are. Legacy to DeepH-dock groups atoms by element, says "
        "so, and remembers the order for the way back.",
    )
    parser.add_argument(
        "source",
        type=pathlib.Path,
        metavar="SOURCE",
        help="a DFT run (its folder, or a .scfout, .TSHS, .HSX, .nc), a structure folder, "
        "a folder of either, or our .npz",
    )
    parser.add_argument(
        "target",
        type=pathlib.Path,
        metavar="TARGET",
        help="folder (legacy, dock, wannier90, pyatb) or file (sisl: "
        ".TSHS or .nc, npz, poscar) to write",
    )
    parser.add_argument(
        "--from",
        dest="code",
        metavar="CODE",
        help="SOURCE is a run of this DFT code or a folder of them: auto, openmx, abacus, siesta, "
        "gpaw, aims, pyscf or an installed reader (default: DFT runs where "
        "there are no structure folders)",
    )
    parser.add_argument(
        "--format",
        dest="form",
        metavar="FORMAT",
        help="folder format for DFT runs: legacy (default), dock or an installed one",
    )
    parser.add_argument(
        "--unconverged",
        action="store_true",
        help="read DFT runs that did not converge, too (otherwise refused)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="DFT runs read at a time (default: one per CPU)",
    )
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        help="legacy, dock or an installed folder format; wannier90, pyatb, sisl, npz or poscar "
        "(default: the other one of legacy and dock)",
    )
    parser.add_argument(
        "--kind",
        choices=("hamiltonian", "prediction"),
        help="which H goes to wannier90, pyatb, sisl or npz (default: DFT's, else the prediction)",
    )
    parser.add_argument(
        "--overlap",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with S, where it is not beside H (wannier90, pyatb, sisl, npz)",
    )
    parser.add_argument(
        "--mesh",
        metavar="9x9x1",
        help="k mesh of the Löwdin orthogonalisation (wannier90; default: four "
        "times the range of H, plus one)",
    )
    parser.add_argument(
        "--fdf",
        type=pathlib.Path,
        metavar="FILE",
        help="SIESTA's input, which gives the basis (default: the only .fdf beside the matrix)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--overwrite", action="store_true", help="replace a structure that is there")
    group.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave what is there and go on, e.g. after an interruption",
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

    records = convert(
        args.source,
        args.target,
        args.to,
        code=args.code,
        form=args.form,
        unconverged=args.unconverged,
        fdf=args.fdf,
        processes=args.processes,
        progress=True,
        overwrite=args.overwrite,
        skip_existing=args.skip_existing,
        say=_say,
        kind=args.kind,
        overlap_folder=args.overlap,
        mesh=args.mesh,
    )
    if args.json:
        write_json(args.json, {"structures": records})
    return 2 if any("error" in record for record in records) else 0


def _say(text: str) -> None:
    print(text, flush=True)
