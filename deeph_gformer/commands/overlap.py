"""``overlap fit|predict|info`` and ``build twist|supercell``: overlaps and structures without a DFT run."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    import ase

    from ..overlap.twist import Twist

__all__ = ["register"]


def register(sub: argparse._SubParsersAction) -> None:
    """Add ``overlap`` and ``build`` to the parser."""
    overlap = sub.add_parser("overlap", help="overlaps of new structures without a DFT run").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    _register_fit(overlap)
    _register_predict(overlap)
    info = overlap.add_parser("info", help="what a table, basis files or overlaps.h5 know")
    info.add_argument("overlap", nargs="+", metavar="SOURCE", help="table (.npz), basis files (.orb, .ion.xml), overlaps.h5 or its folder")
    _json(info)
    info.set_defaults(run=run_info)
    build = sub.add_parser("build", help="twisted bilayers and supercells").add_subparsers(dest="action", metavar="ACTION", required=True)
    _register_twist(build)
    cell = build.add_parser("supercell", help="repeat a cell")
    cell.add_argument("--cell", required=True, metavar="FILE", help="any structure file that ASE reads")
    cell.add_argument("--size", type=_integers(3), metavar="A,B,C", help="repeats along the lattice vectors, e.g. 3,3,1")
    cell.add_argument(
        "--matrix", type=_integers(9), metavar="M11,M12,...", help="instead of --size: 9 integers, rows = new vectors in the old ones"
    )
    _output(cell, "structure file to write; its name says the format (POSCAR, .cif, .xyz, ...)")
    cell.set_defaults(run=run_supercell)


def _register_fit(sub: argparse._SubParsersAction) -> None:
    fit = sub.add_parser("fit", help="fit radial tables to the overlaps of training structures")
    fit.add_argument("--preprocessed", required=True, metavar="DIR", help="structure folders with overlaps, at or below DIR")
    fit.add_argument(
        "--structures", nargs="+", metavar="NAME", help="only these folders; FIRST:LAST takes a range of names in sorted order"
    )
    fit.add_argument("--tolerance", type=float, default=1e-5, help="a distance counts as known where S is known this well (default 1e-5)")
    fit.add_argument(
        "--cutoff",
        action="append",
        default=[],
        metavar="A-B=R",
        help="edge cutoff of two elements in Å instead of the learned one, e.g. C-C=6.35; repeatable",
    )
    _output(fit, "table to write (.npz)")
    _json(fit)
    fit.set_defaults(run=run_fit)


def _register_predict(sub: argparse._SubParsersAction) -> None:
    predict = sub.add_parser("predict", help="write overlaps of structures")
    predict.add_argument(
        "--overlap", nargs="+", required=True, metavar="SOURCE", help="table (.npz), basis files (.orb, .ion.xml), a folder of them"
    )
    predict.add_argument(
        "--input", nargs="+", required=True, metavar="PATH", help="structure folders (or a folder of them), or files that ASE reads"
    )
    predict.add_argument(
        "--output", "-o", metavar="DIR", help="where to write; of several structures a folder each (default: into the structure folder)"
    )
    predict.add_argument(
        "--format", choices=("legacy", "dock", "same"), default="same", help="of folders written (default: as the source; legacy for files)"
    )
    predict.add_argument("--extrapolate", action="store_true", help="allow distances that the table does not know")
    predict.add_argument("--pbc", metavar="T,T,F", help="which lattice vectors repeat (default: as a file says; all for a folder)")
    predict.add_argument("--overwrite", action="store_true", help="replace overlap files that are there")
    _json(predict)
    predict.set_defaults(run=run_predict)


def _register_twist(sub: argparse._SubParsersAction) -> None:
    twist = sub.add_parser("twist", help="commensurate twisted bilayers of hexagonal or square layers")
    twist.add_argument("--cell", required=True, metavar="FILE", help="one layer, or a bilayer, in its primitive cell (POSCAR, .cif, ...)")
    twist.add_argument("--top", metavar="FILE", help="the top layer, where it is another one")
    twist.add_argument(
        "--mn",
        nargs="+",
        type=_integers(2),
        metavar="M,N",
        help="superlattice vectors of the bottom layer; without it cells are listed only",
    )
    twist.add_argument("--pq", nargs="+", type=_integers(2), metavar="P,Q", help="of the top layer, one for each --mn (default N,M)")
    twist.add_argument(
        "--distance", type=float, metavar="ÅNGSTRÖM", help="between the facing atoms of the layers (default: as in the bilayer cell)"
    )
    twist.add_argument("--vacuum", type=float, default=20.0, metavar="ÅNGSTRÖM", help="between periodic images of the bilayer (default 20)")
    twist.add_argument(
        "--shift", type=_floats, default=(0.0, 0.0), metavar="U,V", help="of the top layer before it is turned, in its lattice vectors"
    )
    twist.add_argument("--max-atoms", type=int, default=500, help="for the list (default 500)")
    twist.add_argument("--max-strain", type=float, default=0.005, help="largest relative strain of the top layer (default 0.005)")
    twist.add_argument("--list", action="store_true", help="print the table and build nothing")
    twist.add_argument("--output", "-o", metavar="PATH", help="structure file, or for several cells a folder that gets twist_M_N.vasp")
    _json(twist)
    twist.set_defaults(run=run_twist)


def _output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help=text)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")


class _integers:
    """argparse type: so many comma-separated integers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, text: str) -> tuple[int, ...]:
        try:
            values = tuple(int(v) for v in text.split(","))
        except ValueError:
            values = ()
        if len(values) != self.count:
            raise argparse.ArgumentTypeError(f"'{text}': {self.count} integers with commas are needed")
        return values


def _floats(text: str) -> tuple[float, float]:
    try:
        u, v = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': two numbers with a comma are needed") from None
    return u, v


def _write_json(path: str | None, value: Any) -> None:
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
            raise ConfigError(f"--cutoff {entry}: write two elements and a radius in Å, e.g. C-C=6.35") from None
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
        part = {n: f for n, f in by_name.items() if first <= n <= last} if last else {n: f for n, f in by_name.items() if n == name}
        if not part:
            raise DataError(
                f"--structures {name}: no such structure; there are {', '.join(list(by_name)[:8])}{' ...' if len(by_name) > 8 else ''}"
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
    _write_json(args.json, figures(table))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print what a source knows."""
    from ..overlap import TableOverlap, load
    from ..overlap.describe import describe, figures
    from ..overlap.neighbours import symbol

    provider = load(args.overlap)
    print("\n".join(describe(provider)))
    if isinstance(provider, TableOverlap):
        _write_json(args.json, figures(provider.table))
    else:
        _write_json(
            args.json,
            {
                "kind": "folder",
                "elements": {symbol(z): list(s) for z, s in provider.orbital_types.items()},
                "pairs": [{"pair": f"{symbol(a)}-{symbol(b)}", "cutoff_A": c} for (a, b), c in provider.cutoffs.items()],
            },
        )
    return 0


def _sources(inputs: list[str]) -> list[pathlib.Path]:
    from ..io import find_structures
    from ..io.folder import folder_format

    result: list[pathlib.Path] = []
    for entry in map(pathlib.Path, inputs):
        result += find_structures(entry) if entry.is_dir() and folder_format(entry) is None else [entry]
    return result


def run_predict(args: argparse.Namespace) -> int:
    """Write overlaps."""
    from ..overlap import TableOverlap, load
    from ..overlap.describe import verdict
    from ..overlap.predict import predict_overlap

    provider = load(args.overlap, args.extrapolate)
    if isinstance(provider, TableOverlap) and not provider.table.report.get("two_centre", True):
        print(f"warning: {verdict(provider.table)}", file=sys.stderr)
    pbc = None
    if args.pbc:
        letters = [p.strip().upper() for p in args.pbc.split(",")]
        if len(letters) != 3 or set(letters) - {"T", "F"}:
            raise ConfigError(f"--pbc {args.pbc}: write three letters, T or F, e.g. T,T,F")
        pbc = [p == "T" for p in letters]
    sources = _sources(args.input)
    names = [s.name if s.is_dir() else s.stem for s in sources]
    if len(sources) > 1 and len(set(names)) != len(names):
        raise ConfigError("--input: two structures have one name; their output folders would be the same")
    form = None if args.format == "same" else args.format
    rows = []
    for source, name in zip(sources, names):
        output = None if args.output is None else pathlib.Path(args.output) / name if len(sources) > 1 else pathlib.Path(args.output)
        done = predict_overlap(source, provider, output, form, pbc, args.overwrite)
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
    _write_json(args.json, {"structures": rows})
    return 0


def _read_atoms(path: str) -> ase.Atoms:
    from ase.io import read

    try:
        return read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: file not found") from None
    except Exception as error:
        raise DataError(f"{path}: not a structure that ASE reads ({str(error) or type(error).__name__})") from None


def _write_atoms(path: pathlib.Path, atoms: ase.Atoms) -> None:
    from ase.io import write
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    from ..io.files import atomic_path

    try:
        form = filetype(str(path), read=False)
    except UnknownFileTypeError:
        form = ""
    if form not in ioformats:
        raise ConfigError(f"{path}: ASE knows no format by this name; use e.g. POSCAR, .vasp, .cif, .xyz")
    with atomic_path(path) as temporary:
        try:
            write(temporary, atoms, format=form, **({"direct": True, "vasp5": True} if form == "vasp" else {}))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}: ASE cannot write this as '{form}' ({error})") from None


def _twist_table(twists: list[Twist]) -> str:
    lines = [f"{'m,n':>8} {'p,q':>8} {'angle/deg':>10} {'strain/%':>9} {'atoms':>7}"]
    for t in twists:
        names = ["{},{}".format(*vector) for vector in (t.bottom, t.top)]
        lines.append(f"{names[0]:>8} {names[1]:>8} {t.angle:10.4f} {100 * t.strain:9.4f} {t.atoms:7d}")
    return "\n".join(lines)


def run_twist(args: argparse.Namespace) -> int:
    """List or build twisted bilayers."""
    from ..overlap.twist import list_twists, read_layers, twist_bilayer, twist_of

    bottom, top, found = read_layers(_read_atoms(args.cell), _read_atoms(args.top) if args.top else None)
    if args.mn:
        if args.pq and len(args.pq) != len(args.mn):
            raise ConfigError(f"--pq has {len(args.pq)} entries, --mn {len(args.mn)}; give one for each")
        twists = [twist_of(bottom, top, mn, pq) for mn, pq in zip(args.mn, args.pq or [None] * len(args.mn))]
    else:
        twists = list_twists(bottom, top, args.max_atoms, args.max_strain)
    print(_twist_table(twists))
    _write_json(
        args.json, {"twists": [{"mn": t.bottom, "pq": t.top, "angle_deg": t.angle, "strain": t.strain, "atoms": t.atoms} for t in twists]}
    )
    if args.list or not args.mn:
        return 0
    strained = [t for t in twists if abs(t.strain) > args.max_strain]
    if strained:
        first = strained[0]
        raise ConfigError(
            f"cell {first.bottom} with {first.top} strains the top layer by {100 * first.strain:.2f} %; choose --pq so that it fits "
            "(without --mn the fitting cells are listed), or allow it with --max-strain"
        )
    distance = args.distance or found
    if distance is None:
        raise ConfigError("the cell holds one layer: name the distance between the layers with --distance (Å)")
    if args.output is None:
        raise ConfigError("name the file (or, for several cells, the folder) to write with --output")
    target = pathlib.Path(args.output)
    for twist in twists:
        atoms = twist_bilayer(bottom, top, twist, distance, args.vacuum, args.shift)
        path = target if len(twists) == 1 and not target.is_dir() else target / f"twist_{twist.bottom[0]}_{twist.bottom[1]}.vasp"
        _write_atoms(path, atoms)
        print(f"{path}: {len(atoms)} atoms, {twist.angle:.4f} degrees")
    return 0


def run_supercell(args: argparse.Namespace) -> int:
    """Repeat a cell."""
    import numpy as np
    from ase.build import make_supercell

    if (args.size is None) == (args.matrix is None):
        raise ConfigError("give either --size or --matrix")
    atoms = _read_atoms(args.cell)
    matrix = np.diag(args.size) if args.size else np.reshape(args.matrix, (3, 3))
    if round(float(np.linalg.det(matrix))) <= 0 or (args.size and min(args.size) < 1):
        raise ConfigError("the repeats span no volume, or turn the cell inside out; the determinant must be positive")
    if abs(np.linalg.det(atoms.cell[:])) < 1e-6:
        raise DataError(f"{args.cell}: has no full cell to repeat")
    big = make_supercell(atoms, matrix)
    _write_atoms(pathlib.Path(args.output), big[np.argsort(big.numbers, kind="stable")])
    print(f"{args.output}: {len(big)} atoms")
    return 0
