"""``build twist|supercell``: structures to predict."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError
from .options import Number
from .overlap import json_option, output_option, write_figures

if TYPE_CHECKING:
    import ase

    from ..overlap.twist import Twist

__all__ = ["register"]

LISTED_ATOMS, BUILT_ATOMS = 500, 2_000_000
"""Largest cells of the list and of what is built, where ``--max-atoms`` does not say it."""


def register(sub: argparse._SubParsersAction) -> None:
    """Add ``build`` to the parser."""
    build = sub.add_parser("build", help="twisted bilayers and supercells").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    _register_twist(build)
    cell = build.add_parser("supercell", help="repeat a cell")
    cell.add_argument(
        "--cell", required=True, metavar="FILE", help="any structure file that ASE reads"
    )
    cell.add_argument(
        "--size",
        type=_integers(3),
        metavar="A,B,C",
        help="repeats along the lattice vectors, e.g. 3,3,1",
    )
    cell.add_argument(
        "--matrix",
        type=_integers(9),
        metavar="M11,M12,...",
        help="instead of --size: 9 integers, rows = new vectors in the old ones",
    )
    _max_atoms_option(cell, f"largest cell built (default {BUILT_ATOMS})")
    _overwrite_option(cell)
    output_option(
        cell, "structure file to write; its name says the format (POSCAR, .cif, .xyz, ...)"
    )
    cell.set_defaults(run=run_supercell)


def _register_twist(sub: argparse._SubParsersAction) -> None:
    twist = sub.add_parser(
        "twist", help="commensurate twisted bilayers of hexagonal or square layers"
    )
    twist.add_argument(
        "--cell",
        required=True,
        metavar="FILE",
        help="one layer, or a bilayer, in its primitive cell (POSCAR, .cif, ...)",
    )
    twist.add_argument("--top", metavar="FILE", help="the top layer, where it is another one")
    twist.add_argument(
        "--mn",
        nargs="+",
        type=_integers(2),
        metavar="M,N",
        help="superlattice vectors of the bottom layer; without it cells are listed only",
    )
    twist.add_argument(
        "--pq",
        nargs="+",
        type=_integers(2),
        metavar="P,Q",
        help="of the top layer, one for each --mn (default N,M)",
    )
    twist.add_argument(
        "--distance",
        type=Number(above=0),
        metavar="ÅNGSTRÖM",
        help="between the facing atoms of the layers (default: as in the bilayer cell)",
    )
    twist.add_argument(
        "--vacuum",
        type=Number(above=0),
        default=20.0,
        metavar="ÅNGSTRÖM",
        help="between periodic images of the bilayer (default 20)",
    )
    twist.add_argument(
        "--shift",
        type=_floats,
        default=(0.0, 0.0),
        metavar="U,V",
        help="of the top layer before it is turned, in its lattice vectors",
    )
    _max_atoms_option(
        twist,
        f"largest cell of the list (default {LISTED_ATOMS}), or built (default {BUILT_ATOMS})",
    )
    twist.add_argument(
        "--max-strain",
        type=Number(least=0),
        default=0.005,
        help="largest relative strain of the top layer (default 0.005)",
    )
    twist.add_argument("--list", action="store_true", help="print the table and build nothing")
    twist.add_argument(
        "--output",
        "-o",
        metavar="PATH",
        help="structure file, or for several cells a folder that gets twist_M_N.vasp",
    )
    _overwrite_option(twist)
    json_option(twist)
    twist.set_defaults(run=run_twist)


def _max_atoms_option(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--max-atoms", type=Number(int, least=1), metavar="N", help=text)


def _overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


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
            raise argparse.ArgumentTypeError(
                f"'{text}': {self.count} integers with commas are needed"
            )
        return values


def _floats(text: str) -> tuple[float, float]:
    try:
        u, v = (Number()(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"'{text}': two numbers with a comma are needed") from None
    return u, v


def _read_atoms(path: str) -> ase.Atoms:
    from ase.io import read

    try:
        found = read(path, index=-1)
        return found[-1] if isinstance(found, list) else found
    except FileNotFoundError:
        raise DataError(f"{path}: file not found") from None
    except Exception as error:  # noqa: BLE001 - ASE's readers raise many kinds
        raise DataError(
            f"{path}: not a structure that ASE reads ({str(error) or type(error).__name__})"
        ) from None


def _format_of(path: pathlib.Path) -> str:
    """ASE's name of the format that a file name stands for; empty where it stands for none."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        form = filetype(str(path), read=False)
    except UnknownFileTypeError:
        return ""
    return form if form in ioformats else ""


def _require_new(paths: list[pathlib.Path], overwrite: bool) -> None:
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise DataError(
            f"{there[0]}: is there already; add --overwrite to replace it, or name another one "
            "with --output"
        )


def _require_size(atoms: int, limit: int | None) -> None:
    if atoms > (limit or BUILT_ATOMS):
        raise ConfigError(
            f"{atoms} atoms, more than {limit or BUILT_ATOMS}; if that is meant, allow it with "
            f"--max-atoms {atoms}"
        )


def _write_atoms(path: pathlib.Path, atoms: ase.Atoms) -> None:
    from ase.io import write

    from ..io.files import atomic_path

    form = _format_of(path)
    if not form:
        raise ConfigError(
            f"{path}: ASE knows no format by this name; use e.g. POSCAR, .vasp, .cif, .xyz"
        )
    with atomic_path(path) as temporary:
        try:
            write(
                temporary,
                atoms,
                format=form,
                **({"direct": True, "vasp5": True} if form == "vasp" else {}),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}: ASE cannot write this as '{form}' ({error})") from None


def _twist_table(twists: list[Twist]) -> str:
    lines = [f"{'m,n':>8} {'p,q':>8} {'angle/deg':>10} {'strain/%':>9} {'atoms':>7}"]
    for t in twists:
        names = ["{},{}".format(*vector) for vector in (t.bottom, t.top)]
        lines.append(
            f"{names[0]:>8} {names[1]:>8} {t.angle:10.4f} {100 * t.strain:9.4f} {t.atoms:7d}"
        )
    return "\n".join(lines)


def run_twist(args: argparse.Namespace) -> int:
    """List or build twisted bilayers."""
    from ..overlap.twist import list_twists, read_layers, twist_bilayer, twist_of

    if args.pq and not args.mn:
        raise ConfigError("--pq goes with --mn, the vectors of the bottom layer; give both")
    bottom, top, found = read_layers(
        _read_atoms(args.cell), _read_atoms(args.top) if args.top else None
    )
    if args.mn:
        if args.pq and len(args.pq) != len(args.mn):
            raise ConfigError(
                f"--pq has {len(args.pq)} entries, --mn {len(args.mn)}; give one for each"
            )
        twists = [
            twist_of(bottom, top, mn, pq)
            for mn, pq in zip(args.mn, args.pq or [None] * len(args.mn), strict=True)
        ]
    else:
        twists = list_twists(bottom, top, args.max_atoms or LISTED_ATOMS, args.max_strain)
    print(_twist_table(twists))
    write_figures(
        args.json,
        {
            "twists": [
                {
                    "mn": t.bottom,
                    "pq": t.top,
                    "angle_deg": t.angle,
                    "strain": t.strain,
                    "atoms": t.atoms,
                }
                for t in twists
            ]
        },
    )
    if args.list or not args.mn:
        return 0
    strained = [t for t in twists if abs(t.strain) > args.max_strain]
    if strained:
        first = strained[0]
        raise ConfigError(
            f"cell {first.bottom} with {first.top} strains the top layer by "
            f"{100 * first.strain:.2f} %; choose --pq so that it fits "
            "(without --mn the fitting cells are listed), or allow it with --max-strain"
        )
    distance = args.distance or found
    if distance is None:
        raise ConfigError(
            "the cell holds one layer: name the distance between the layers with --distance (Å)"
        )
    if args.output is None:
        raise ConfigError(
            "name the file (or, for several cells, the folder) to write with --output"
        )
    target = pathlib.Path(args.output)
    if (
        len(twists) > 1
        and not target.is_dir()
        and (target.exists() or (target.suffix and _format_of(target)))
    ):
        raise ConfigError(
            f"{target}: is the name of a file; for {len(twists)} cells --output names a folder"
        )
    paths = [
        target
        if len(twists) == 1 and not target.is_dir()
        else target / f"twist_{t.bottom[0]}_{t.bottom[1]}.vasp"
        for t in twists
    ]
    _require_new(paths, args.overwrite)
    for twist in twists:
        _require_size(twist.atoms, args.max_atoms)
    for twist, path in zip(twists, paths, strict=True):
        atoms = twist_bilayer(bottom, top, twist, distance, args.vacuum, args.shift)
        _write_atoms(path, atoms)
        print(f"{path}: {len(atoms)} atoms, {twist.angle:.4f} degrees")
    return 0


def run_supercell(args: argparse.Namespace) -> int:
    """Repeat a cell."""
    import numpy as np
    from ase.build import make_supercell

    if (args.size is None) == (args.matrix is None):
        raise ConfigError("give either --size or --matrix")
    _require_new([pathlib.Path(args.output)], args.overwrite)
    atoms = _read_atoms(args.cell)
    matrix = (
        np.diag(np.array(args.size, dtype=float))
        if args.size
        else np.array(args.matrix, dtype=float).reshape(3, 3)
    )
    if round(float(np.linalg.det(matrix))) <= 0 or (args.size and min(args.size) < 1):
        raise ConfigError(
            "the repeats span no volume, or turn the cell inside out; "
            "the determinant must be positive"
        )
    if abs(np.linalg.det(atoms.cell[:])) < 1e-6:
        raise DataError(f"{args.cell}: has no full cell to repeat")
    _require_size(len(atoms) * round(float(np.linalg.det(matrix))), args.max_atoms)
    big = make_supercell(atoms, matrix.astype(int))
    _write_atoms(pathlib.Path(args.output), big[np.argsort(big.numbers, kind="stable")])
    print(f"{args.output}: {len(big)} atoms")
    return 0
