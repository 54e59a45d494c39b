"""``overlap fit|predict|info``: overlaps without a DFT run."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from ..errors import ConfigError, DataError
from ..results import OverlapPredictions, OverlapSource
from .loading import warn
from .options import Number, Verb, argument, option
from .shared import JsonOption
from .single import output_file, output_folder, overlap_source

__all__ = ["VERBS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions(JsonOption):
    """Of ``overlap fit``."""

    preprocessed: pathlib.Path = option(
        type=pathlib.Path,
        required=True,
        metavar="DIR",
        help="structure folders with overlaps, at or below DIR",
    )
    structures: tuple[str, ...] = option(
        nargs="+",
        metavar="NAME",
        help="only these folders; FIRST:LAST takes a range of names in sorted order",
    )
    tolerance: float = option(
        type=Number(above=0),
        default=1e-5,
        metavar="X",
        help="largest error of S at a distance that counts as known",
    )
    cutoff: tuple[str, ...] = option(
        action="append",
        metavar="A-B=R",
        help="edge cutoff of two elements in Å instead of the learned one, e.g. C-C=6.35; "
        "repeatable",
    )
    output: pathlib.Path = output_file("table to write (.npz)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(JsonOption):
    """Of ``overlap predict``."""

    overlap: tuple[str, ...] = overlap_source("where overlaps come from", required=True)
    input: tuple[str, ...] = option(
        nargs="+",
        required=True,
        metavar="PATH",
        help="structure folders (or a folder of them), or files that ASE reads",
    )
    output: pathlib.Path | None = output_folder(
        "where to write; of several structures a folder each", "into the structure folder"
    )
    format: str = option(
        default="same",
        metavar="FORMAT",
        help="folder format of the output: legacy, dock, the name of an installed one, or same as "
        "the source (legacy for files)",
    )
    positions: bool = option(
        default=False,
        help="also write the position matrix <i|r|j> (positions.h5, in DeepH-dock folders "
        "position_matrix.h5); needs basis files",
    )
    extrapolate: bool = option(
        default=False,
        help="allow distances that the table does not know, and cut structures that repeat against "
        "their pbc",
    )
    pbc: str | None = option(
        metavar="T,T,F",
        shown="as a file says; all for a folder",
        help="which lattice vectors repeat, T (true) or F; a slab across the boundary stays whole",
    )
    overwrite: bool = option(
        default=False,
        help="replace overlap files, or other structures with their matrices, that are there",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoOptions(JsonOption):
    """Of ``overlap info``."""

    overlap: tuple[str, ...] = argument(
        type=str,
        nargs="+",
        metavar="SOURCE",
        help="table (.npz), basis files, a folder of them (OpenMX: with C6.0-s2p2d1 ...), "
        "overlaps.h5 or its folder",
    )


def _cutoffs(entries: Sequence[str]) -> dict[tuple[int, int], float]:
    from ase.data import atomic_numbers

    known = {name: z for name, z in atomic_numbers.items() if z > 0}
    result: dict[tuple[int, int], float] = {}
    for entry in entries:
        try:
            pair, radius = entry.split("=")
            a, b = sorted(known[s] for s in pair.split("-"))
            value = float(radius)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--cutoff {entry}: write two elements and a radius in Å, e.g. C-C=6.35"
            ) from None
        if not 0 < value < math.inf:
            raise ConfigError(f"--cutoff {entry}: the radius must be positive")
        if result.setdefault((a, b), value) != value:
            raise ConfigError(f"--cutoff {entry}: gives these elements a second radius")
    return result


def _chosen(folders: list[pathlib.Path], names: Sequence[str]) -> list[pathlib.Path]:
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


def run_fit(options: FitOptions) -> OverlapSource:
    """Fit a table and print how good it is."""
    from ..io import find_structures
    from ..overlap import TableOverlap, fit_table, save_table
    from ..overlap.describe import describe, figures

    folders = _chosen(find_structures(options.preprocessed, ("overlap",)), options.structures)
    table = fit_table(folders, options.tolerance, _cutoffs(options.cutoff))
    path = save_table(options.output, table)
    print(f"{path}: fitted to {len(folders)} structures")
    print("\n".join(describe(TableOverlap(table))))
    return OverlapSource.of(figures(table))


def run_info(options: InfoOptions) -> OverlapSource:
    """Print what a source knows."""
    from ..overlap import TableOverlap, load
    from ..overlap.describe import describe, figures
    from ..overlap.neighbours import symbol

    provider = load(options.overlap)
    print("\n".join(describe(provider)))
    if isinstance(provider, TableOverlap):
        return OverlapSource.of(figures(provider.table))
    return OverlapSource(
        kind="folder",
        elements={symbol(z): list(s) for z, s in provider.orbital_types.items()},
        pairs=[
            {"pair": f"{symbol(a)}-{symbol(b)}", "cutoff_A": c}
            for (a, b), c in provider.cutoffs.items()
        ],
    )


def _sources(inputs: Sequence[str]) -> list[pathlib.Path]:
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


def _pbc(text: str | None) -> list[bool] | None:
    """``--pbc``.

    Raises:
        ConfigError: it is no three letters T or F.
    """
    if not text:
        return None
    letters = [p.strip().upper() for p in text.split(",")]
    if len(letters) != 3 or set(letters) - {"T", "F"}:
        raise ConfigError(f"--pbc {text}: write three letters, T or F, e.g. T,T,F")
    return [p == "T" for p in letters]


def run_predict(options: PredictOptions) -> OverlapPredictions:
    """Write overlaps."""
    from ..io.folder import require_names
    from ..overlap import TableOverlap, load
    from ..overlap.describe import verdict
    from ..overlap.predict import predict_overlap

    sources = _sources(options.input)
    provider = load(options.overlap, options.extrapolate, _known_shells(sources))
    if isinstance(provider, TableOverlap) and not provider.table.report.get("two_centre", True):
        warn(verdict(provider.table))
    names = [s.name if s.is_dir() else s.stem for s in sources]
    if options.output is not None:
        require_names(zip(names, sources, strict=True))
    form = None if options.format == "same" else options.format
    rows = []
    for source, name in zip(sources, names, strict=True):
        output = options.output
        if output is not None and len(sources) > 1:
            output = output / name
        done = predict_overlap(
            source, provider, output, form, _pbc(options.pbc), options.overwrite, options.positions
        )
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
    return OverlapPredictions(rows)


VERBS = (
    Verb(
        "overlap",
        "data",
        "overlaps of new structures without a DFT run: tables, basis files",
        actions=(
            Verb(
                "fit",
                "",
                "fit radial tables to the overlaps of training structures",
                FitOptions,
                run_fit,
                results=(OverlapSource,),
                examples=("overlap fit --preprocessed DATA -o table.npz",),
            ),
            Verb(
                "predict",
                "",
                "write overlaps of structures",
                PredictOptions,
                run_predict,
                results=(OverlapPredictions,),
                examples=(
                    "overlap predict --overlap table.npz --input twisted.vasp -o OUT",
                    "overlap predict --basis C6.0.pao C6.0-s2p2d1 --input NEW",
                ),
            ),
            Verb(
                "info",
                "",
                "what a table, basis files or overlaps.h5 know",
                InfoOptions,
                run_info,
                results=(OverlapSource,),
                examples=("overlap info table.npz",),
            ),
        ),
    ),
)
