"""``overlap fit|predict|info``: overlaps without a DFT run."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from ..errors import ConfigError, DataError

__all__ = ["register", "output_option", "json_option", "write_figures"]


def register(sub: argparse._SubParsersAction) -> None:
    """Add ``overlap`` to the parser."""
    overlap = sub.add_parser(
        "overlap", help="overlaps of new structures without a DFT run"
    ).add_subparsers(dest="action", metavar="ACTION", required=True)
    _register_fit(overlap)
    _register_predict(overlap)
    info = overlap.add_parser("info", help="what a table, basis files or overlaps.h5 know")
    info.add_argument(
        "overlap",
        nargs="+",
        metavar="SOURCE",
        help="table (.npz), basis files, a folder of them (OpenMX: with C6.0-s2p2d1 "
        "...), overlaps.h5 or its folder",
    )
    json_option(info)
    info.set_defaults(run=run_info)


def _register_fit(sub: argparse._SubParsersAction) -> None:
    fit = sub.add_parser("fit", help="fit radial tables to the overlaps of training structures")
    fit.add_argument(
        "--preprocessed",
        required=True,
        metavar="DIR",
        help="structure folders with overlaps, at or below DIR",
    )
    fit.add_argument(
        "--structures",
        nargs="+",
        metavar="NAME",
        help="only these folders; FIRST:LAST takes a range of names in sorted order",
    )
    fit.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="a distance counts as known where S is known this well (default 1e-5)",
    )
    fit.add_argument(
        "--cutoff",
        action="append",
        default=[],
        metavar="A-B=R",
        help="edge cutoff of two elements in Å instead of the learned "
        "one, e.g. C-C=6.35; repeatable",
    )
    output_option(fit, "table to write (.npz)")
    json_option(fit)
    fit.set_defaults(run=run_fit)


def _register_predict(sub: argparse._SubParsersAction) -> None:
    predict = sub.add_parser("predict", help="write overlaps of structures")
    predict.add_argument(
        "--overlap",
        "--basis",
        dest="overlap",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="table (.npz), basis files (.orb, .ion, .ion.xml, .pao) or a folder of them; for .pao "
        "files also what the calculation takes from them, e.g. C6.0-s2p2d1",
    )
    predict.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="structure folders (or a folder of them), or files that ASE reads",
    )
    predict.add_argument(
        "--output",
        "-o",
        metavar="DIR",
        help="where to write; of several structures a folder each "
        "(default: into the structure folder)",
    )
    predict.add_argument(
        "--format",
        metavar="FORMAT",
        default="same",
        help="of folders written (default: as the source; legacy for files)",
    )
    predict.add_argument(
        "--positions",
        action="store_true",
        help="also write <i|r|j> (positions.h5, position_matrix.h5); needs basis files",
    )
    predict.add_argument(
        "--extrapolate",
        action="store_true",
        help="allow distances that the table does not know, and cut "
        "structures that repeat against their pbc",
    )
    predict.add_argument(
        "--pbc",
        metavar="T,T,F",
        help="which lattice vectors repeat (default: as a file says; all for a folder); a slab "
        "across the boundary stays whole",
    )
    predict.add_argument(
        "--overwrite",
        action="store_true",
        help="replace overlap files, or other structures with their matrices, that are there",
    )
    json_option(predict)
    predict.set_defaults(run=run_predict)


def output_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--output``, which is needed."""
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help=text)


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")


def write_figures(path: str | None, value: Any) -> None:
    """Write ``--json``, where it is asked for."""
    if path:
        from ..io.files import write_json

        write_json(path, value)


def _cutoffs(entries: list[str]) -> dict[tuple[int, int], float]:
    from ase.data import atomic_numbers

    known = {name: z for name, z in atomic_numbers.items() if z > 0}
    result = {}
    for entry in entries:
        try:
            pair, radius = entry.split("=")
            a, b = sorted(known[s] for s in pair.split("-"))
            result[a, b] = float(radius)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--cutoff {entry}: write two elements and a radius in Å, e.g. C-C=6.35"
            ) from None
        if not result[a, b] > 0:
            raise ConfigError(f"--cutoff {entry}: the radius must be positive")
    return result


def _chosen(folders: list[pathlib.Path], names: list[str] | None) -> list[pathlib.Path]:
    if not names:
        return folders
    by_name = {f.name: f for f in folders}
    chosen: dict[str, pathlib.Path] = {}
    for name in names:
        first, _, last = name.partition(":")
        part = (
            {n: f for n, f in by_name.items() if first <= n <= last}
            if last
            else {n: f for n, f in by_name.items() if n == name}
        )
        if not part:
            raise DataError(
                f"--structures {name}: no such structure; there are "
                f"{', '.join(list(by_name)[:8])}{' ...' if len(by_name) > 8 else ''}"
            )
        chosen.update(part)
    return list(chosen.values())


def run_fit(args: argparse.Namespace) -> int:
    """Fit a table and print how good it is."""
    from ..io import find_structures
    from ..overlap import TableOverlap, fit_table, save_table
    from ..overlap.describe import describe, figures

    folders = _chosen(find_structures(args.preprocessed, ("overlap",)), args.structures)
    table = fit_table(folders, args.tolerance, _cutoffs(args.cutoff))
    path = save_table(args.output, table)
    print(f"{path}: fitted to {len(folders)} structures")
    print("\n".join(describe(TableOverlap(table))))
    write_figures(args.json, figures(table))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print what a source knows."""
    from ..overlap import TableOverlap, load
    from ..overlap.describe import describe, figures
    from ..overlap.neighbours import symbol

    provider = load(args.overlap)
    print("\n".join(describe(provider)))
    if isinstance(provider, TableOverlap):
        write_figures(args.json, figures(provider.table))
    else:
        write_figures(
            args.json,
            {
                "kind": "folder",
                "elements": {symbol(z): list(s) for z, s in provider.orbital_types.items()},
                "pairs": [
                    {"pair": f"{symbol(a)}-{symbol(b)}", "cutoff_A": c}
                    for (a, b), c in provider.cutoffs.items()
                ],
            },
        )
    return 0


def _sources(inputs: list[str]) -> list[pathlib.Path]:
    from ..io import find_structures
    from ..io.folder import folder_format

    result: list[pathlib.Path] = []
    for entry in map(pathlib.Path, inputs):
        result += (
            find_structures(entry) if entry.is_dir() and folder_format(entry) is None else [entry]
        )
    return result


def _known_shells(sources: list[pathlib.Path]) -> dict[int, tuple[int, ...]]:
    """l of each shell by atomic number, from structure folders; files have none."""
    from ..io import read_folder

    shells: dict[int, tuple[int, ...]] = {}
    for source in sources:
        if source.is_dir():
            structure = read_folder(source)
            for z, mine in zip(structure.numbers.tolist(), structure.orbital_types, strict=True):
                shells.setdefault(z, tuple(mine))
    return shells


def run_predict(args: argparse.Namespace) -> int:
    """Write overlaps."""
    from ..overlap import TableOverlap, load
    from ..overlap.describe import verdict
    from ..overlap.predict import predict_overlap

    sources = _sources(args.input)
    provider = load(args.overlap, args.extrapolate, _known_shells(sources))
    if isinstance(provider, TableOverlap) and not provider.table.report.get("two_centre", True):
        print(f"warning: {verdict(provider.table)}", file=sys.stderr)
    pbc = None
    if args.pbc:
        letters = [p.strip().upper() for p in args.pbc.split(",")]
        if len(letters) != 3 or set(letters) - {"T", "F"}:
            raise ConfigError(f"--pbc {args.pbc}: write three letters, T or F, e.g. T,T,F")
        pbc = [p == "T" for p in letters]
    names = [s.name if s.is_dir() else s.stem for s in sources]
    if len(sources) > 1 and len(set(names)) != len(names):
        raise ConfigError(
            "--input: two structures have one name; their output folders would be the same"
        )
    form = None if args.format == "same" else args.format
    rows = []
    for source, name in zip(sources, names, strict=True):
        output = (
            None
            if args.output is None
            else pathlib.Path(args.output) / name
            if len(sources) > 1
            else pathlib.Path(args.output)
        )
        done = predict_overlap(source, provider, output, form, pbc, args.overwrite, args.positions)
        seconds = ", ".join(f"{step} {value:.2f} s" for step, value in done.seconds.items())
        print(f"{done.file}: {len(done.structure)} atoms, {done.edges} blocks ({seconds})")
        rows.append(
            {
                "structure": name,
                "file": str(done.file),
                "atoms": len(done.structure),
                "edges": done.edges,
                **{f"{step}_s": value for step, value in done.seconds.items()},
            }
        )
    write_figures(args.json, {"structures": rows})
    return 0
