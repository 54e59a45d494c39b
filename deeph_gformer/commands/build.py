"""``build twist|supercell``: structures to predict."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, GFormerError
from ..results import Twists
from .options import Integers, Number, Options, Verb, option
from .shared import JsonOption
from .single import output_file

if TYPE_CHECKING:
    import ase

    from ..overlap.twist import Twist

__all__ = ["VERBS"]

#: Largest cells of the list and of what is built, where ``--max-atoms`` does not say it.
LISTED_ATOMS, BUILT_ATOMS = 500, 2_000_000


def _floats(text: str) -> tuple[float, float]:
    try:
        u, v = (Number()(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"'{text}': two numbers with a comma are needed") from None
    return u, v


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BuildOptions(Options):
    """What both actions have."""

    max_atoms: int | None = option(
        type=Number(int, least=1),
        metavar="N",
        shown=f"{BUILT_ATOMS:,}",
        help="largest cell that is built",
    )
    overwrite: bool = option(default=False, help="replace files that are there")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwistOptions(_BuildOptions, JsonOption):
    """Of ``build twist``."""

    cell: str = option(
        required=True,
        metavar="FILE",
        help="one layer, or a bilayer, in its primitive cell: POSCAR, .cif, ..., or a structure "
        "folder",
    )
    top: str | None = option(metavar="FILE", help="the top layer, where it is another one")
    mn: tuple[tuple[int, int], ...] = option(
        nargs="+",
        type=Integers(2),
        metavar="M,N",
        help="superlattice vectors of the bottom layer; without it cells are listed only",
    )
    pq: tuple[tuple[int, int], ...] = option(
        nargs="+",
        type=Integers(2),
        metavar="P,Q",
        shown="N,M",
        help="superlattice vectors of the top layer, one for each --mn",
    )
    distance: float | None = option(
        type=Number(above=0),
        metavar="ÅNGSTRÖM",
        shown="as in the bilayer cell",
        help="distance between the facing atoms of the layers",
    )
    vacuum: float = option(
        type=Number(above=0),
        default=20.0,
        unit="Å",
        metavar="ÅNGSTRÖM",
        help="vacuum between periodic images of the bilayer",
    )
    shift: tuple[float, float] = option(
        type=_floats,
        default=(0.0, 0.0),
        shown="0,0",
        metavar="U,V",
        help="shift of the top layer before it is turned, in its lattice vectors",
    )
    max_strain: float = option(
        type=Number(least=0),
        default=0.005,
        metavar="X",
        help="largest relative strain of the top layer",
    )
    list: bool = option(default=False, help="print the table and build nothing")
    max_atoms: int | None = option(
        type=Number(int, least=1),
        metavar="N",
        shown=f"{BUILT_ATOMS:,}; with --list {LISTED_ATOMS}",
        help="largest cell that is built, or listed",
    )
    output: pathlib.Path | None = option(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="PATH",
        help="structure file, or for several cells a folder that gets twist_M_N.vasp",
    )

    def __post_init__(self) -> None:
        """Check vectors.

        Raises:
            ConfigError: those of one layer are missing.
        """
        super().__post_init__()
        if self.pq and not self.mn:
            raise ConfigError("--pq goes with --mn, the vectors of the bottom layer; give both")
        if self.pq and len(self.pq) != len(self.mn):
            raise ConfigError(
                f"--pq has {len(self.pq)} entries, --mn {len(self.mn)}; give one for each"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupercellOptions(_BuildOptions):
    """Of ``build supercell``."""

    cell: str = option(
        required=True,
        metavar="FILE",
        help="any structure file that ASE reads, or a structure folder",
    )
    size: tuple[int, int, int] | None = option(
        type=Integers(3),
        metavar="A,B,C",
        help="repeats along the lattice vectors, e.g. 3,3,1",
    )
    matrix: tuple[int, ...] | None = option(
        type=Integers(9),
        metavar="M11,M12,...",
        help="instead of --size: 9 integers, rows = new vectors in the old ones",
    )
    output: pathlib.Path = output_file(
        "structure file to write; its name says the format (POSCAR, .cif, .xyz, ...)"
    )

    def __post_init__(self) -> None:
        """Check the repeats.

        Raises:
            ConfigError: there are none, or two.
        """
        super().__post_init__()
        if (self.size is None) == (self.matrix is None):
            raise ConfigError("give either --size or --matrix")


def _read_atoms(path: str) -> ase.Atoms:
    from ase import Atoms

    from ..io import read_folder
    from ..io.poscar import read_frames

    if os.path.isdir(path):
        found = read_folder(path)
        return Atoms(found.numbers, found.positions, cell=found.lattice, pbc=True)
    try:
        return read_frames(path)[-1]
    except GFormerError:
        raise
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


def _require_new(paths: Sequence[pathlib.Path], overwrite: bool) -> None:
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


def run_twist(options: TwistOptions) -> Twists:
    """List or build twisted bilayers."""
    from ..overlap.twist import list_twists, read_layers, twist_of

    bottom, top, found = read_layers(
        _read_atoms(options.cell), _read_atoms(options.top) if options.top else None
    )
    if options.mn:
        twists = [
            twist_of(bottom, top, mn, pq)
            for mn, pq in zip(options.mn, options.pq or [None] * len(options.mn), strict=True)
        ]
    else:
        twists = list_twists(bottom, top, options.max_atoms or LISTED_ATOMS, options.max_strain)
    print(_twist_table(twists))
    if options.mn and not options.list:
        _build(options, twists, bottom, top, found)
    return Twists(
        [
            {
                "mn": t.bottom,
                "pq": t.top,
                "angle_deg": t.angle,
                "strain": t.strain,
                "atoms": t.atoms,
            }
            for t in twists
        ]
    )


def _build(
    options: TwistOptions, twists: Sequence[Twist], bottom: Any, top: Any, found: float | None
) -> None:
    """Build and write what :func:`run_twist` listed.

    Args:
        options: of the verb.
        twists: the cells.
        bottom: layer.
        top: layer.
        found: distance of the layers in the cell, Å.

    Raises:
        ConfigError: they do not fit, or options are missing.
    """
    from ..overlap.twist import twist_bilayer

    strained = [t for t in twists if abs(t.strain) > options.max_strain]
    if strained:
        first = strained[0]
        raise ConfigError(
            f"cell {first.bottom} with {first.top} strains the top layer by "
            f"{100 * first.strain:.2f} %; choose --pq so that it fits "
            "(without --mn the fitting cells are listed), or allow it with --max-strain"
        )
    distance = options.distance or found
    if distance is None:
        raise ConfigError(
            "the cell holds one layer: name the distance between the layers with --distance (Å)"
        )
    if options.output is None:
        raise ConfigError(
            "name the file (or, for several cells, the folder) to write with --output"
        )
    target = options.output
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
    _require_new(paths, options.overwrite)
    for twist in twists:
        _require_size(twist.atoms, options.max_atoms)
    for twist, path in zip(twists, paths, strict=True):
        atoms = twist_bilayer(bottom, top, twist, distance, options.vacuum, options.shift)
        _write_atoms(path, atoms)
        print(f"{path}: {len(atoms)} atoms, {twist.angle:.4f} degrees")


def run_supercell(options: SupercellOptions) -> None:
    """Repeat a cell."""
    import numpy as np
    from ase.build import make_supercell

    _require_new([options.output], options.overwrite)
    atoms = _read_atoms(options.cell)
    matrix = (
        np.diag(np.array(options.size, dtype=float))
        if options.size
        else np.array(options.matrix, dtype=float).reshape(3, 3)
    )
    if round(float(np.linalg.det(matrix))) <= 0 or (options.size and min(options.size) < 1):
        raise ConfigError(
            "the repeats span no volume, or turn the cell inside out; "
            "the determinant must be positive"
        )
    if abs(np.linalg.det(atoms.cell[:])) < 1e-6:
        raise DataError(f"{options.cell}: has no full cell to repeat")
    _require_size(len(atoms) * round(float(np.linalg.det(matrix))), options.max_atoms)
    big = make_supercell(atoms, matrix.astype(int))
    _write_atoms(options.output, big[np.argsort(big.numbers, kind="stable")])
    print(f"{options.output}: {len(big)} atoms")


VERBS = (
    Verb(
        "build",
        "data",
        "twisted bilayers and supercells",
        actions=(
            Verb(
                "twist",
                "",
                "commensurate twisted bilayers of hexagonal or square layers",
                TwistOptions,
                run_twist,
                results=(Twists,),
                examples=(
                    "build twist --cell layer.vasp --distance 3.35 --list",
                    "build twist --cell layer.vasp --distance 3.35 --mn 1,2 -o twist.vasp",
                ),
            ),
            Verb(
                "supercell",
                "",
                "repeat a cell",
                SupercellOptions,
                run_supercell,
                examples=("build supercell --cell cell.vasp --size 3,3,1 -o super.vasp",),
            ),
        ),
    ),
)
