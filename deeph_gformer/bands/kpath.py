"""Paths through the Brillouin zone: of the Bravais lattice, seekpath's, a string, DeepH's files."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, DataError, MissingDependencyError
from ..io import Structure
from ..io.files import read_json, read_text
from ..io.periodicity import upright
from .bravais import LOOSE, IdealLattice, ideal_lattice

__all__ = [
    "KPath",
    "automatic_path",
    "seekpath_path",
    "read_path_file",
    "path_from_segments",
    "periodic_directions",
    "find_path",
]

#: Who chooses a lattice's own path.
PathEngine = Literal["auto", "ase", "seekpath"]
_GAMMA = {"GAMMA", "G", "Γ", "\\GAMMA", "$\\GAMMA$"}
_LITTLE_SYMMETRY = 4
"""Largest point group of what may be a distorted better lattice: up to rectangular, monoclinic."""
VACUUM_A = 8.0
"""Å: images that are so far apart do not count as a crystal."""
MOST_KPOINTS = 2_000_000
"""Largest path or mesh; more would fill the memory before the first is solved, and is a slip."""


@dataclasses.dataclass(frozen=True)
class KPath:
    """K points along straight segments.

    Attributes:
        kpoints: (K, 3), fractional coordinates of the reciprocal lattice.
        distances: (K,), length along the path, 1/Å (2π included); it does not grow over a jump.
        segments: (start, stop) index ranges of unbroken pieces, one per straight segment.
        labels: (index of the k-point, name) of the special points.
        source: where the path comes from, for reports.
    """

    kpoints: NDArray[np.float64]
    distances: NDArray[np.float64]
    segments: tuple[tuple[int, int], ...]
    labels: tuple[tuple[int, str], ...]
    source: str = ""

    def __repr__(self) -> str:
        return f"KPath({' '.join(name for _, name in self.ticks)}, {len(self)} k-points)"

    def __len__(self) -> int:
        return len(self.kpoints)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(distance, name) for an axis; names at the same place are joined as ``U|K``."""
        ticks: list[tuple[float, str]] = []
        for index, name in self.labels:
            place = float(self.distances[index])
            if ticks and abs(ticks[-1][0] - place) < 1e-9:
                if name not in ticks[-1][1].split("|"):
                    ticks[-1] = (place, f"{ticks[-1][1]}|{name}")
            else:
                ticks.append((place, name))
        return ticks


def path_from_segments(
    lattice: NDArray[np.float64],
    ends: Sequence[tuple[ArrayLike, ArrayLike]],
    names: Sequence[tuple[str, str]],
    counts: Sequence[int],
    source: str,
) -> KPath:
    """Straight segments with given numbers of points; each has both of its ends, as in OpenMX's and
    DeepH's band files.

    Args:
        lattice: (3, 3), rows, Å.
        ends: (start, end) of each segment, fractional.
        names: their labels.
        counts: points of each segment, >= 2.
        source: where the path comes from, for messages.

    Raises:
        ConfigError: a segment has fewer than two points, or all together have more than anyone can
            compute.
    """
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    points: list[NDArray[np.float64]] = []
    distances: list[NDArray[np.float64]] = []
    segments: list[tuple[int, int]] = []
    labels: list[tuple[int, str]] = []
    travelled = 0.0
    if sum(counts) > MOST_KPOINTS:
        raise ConfigError(
            f"{source}: {sum(counts)} k-points on the path; at most {MOST_KPOINTS} are computed, "
            f"take fewer"
        )
    for (start, end), (first, last), count in zip(ends, names, counts, strict=True):
        if count < 2:
            raise ConfigError(
                f"{source}: segment {first}-{last} has {count} point(s); each needs at least 2, "
                f"its two ends"
            )
        start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        t = np.linspace(0.0, 1.0, count)
        offset = segments[-1][1] if segments else 0
        segments.append((offset, offset + count))
        labels += [(offset, first), (offset + count - 1, last)]
        length = float(np.linalg.norm((end - start) @ reciprocal))
        points.append(start + t[:, None] * (end - start))
        distances.append(travelled + t * length)
        travelled += length
    return KPath(
        np.concatenate(points), np.concatenate(distances), tuple(segments), tuple(labels), source
    )


def periodic_directions(structure: Structure) -> tuple[bool, bool, bool]:
    """Lattice vectors along which no vacuum wider than :data:`VACUUM_A` separates the images.

    For a structure without H; where there is one, see ``BlochProblem.periodic``.
    """
    fractional = structure.positions @ np.linalg.inv(structure.lattice)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(structure.lattice), axis=0)
    result = []
    for axis in range(3):
        places = np.sort(fractional[:, axis] % 1.0)
        gaps = np.diff(np.concatenate([places, places[:1] + 1.0]))
        result.append(bool(gaps.max() * heights[axis] < VACUUM_A))
    return (result[0], result[1], result[2])


def _distribute(lengths: Sequence[float], npoints: int) -> list[int]:
    if npoints < 1:
        raise ConfigError(f"{npoints} k-points asked for the path; at least 1 is needed")
    total = sum(lengths)
    return [
        max(2, int(round(npoints * length / total)) + 1) if total > 0 else 2 for length in lengths
    ]


def _lattices(structure: Structure, periodic: tuple[bool, bool, bool]) -> list[IdealLattice]:
    """What the cell counts as: a nearly ideal lattice where it has little symmetry, and itself.

    Raises:
        ConfigError: no lattice is known.
    """
    try:
        exact = ideal_lattice(structure.lattice, periodic)
        if exact.order > _LITTLE_SYMMETRY or sum(periodic) == 1:
            return [exact]
        loose = ideal_lattice(structure.lattice, periodic, LOOSE)
    except ConfigError as error:
        raise ConfigError(
            f"structure '{structure.name}': {error}; give --path-file, or --path-from seekpath"
        ) from None
    return [exact] if loose.order == exact.order else [loose, exact]


def automatic_path(
    structure: Structure,
    periodic: tuple[bool, bool, bool],
    path: str | None = None,
    npoints: int = 120,
) -> KPath:
    """The path of the Bravais lattice, or ``path`` in its special points.

    A lattice of little symmetry may be a distorted better one, within a strain of 2 %; ``source``
    says so.

    Args:
        structure: the crystal, in any description: reduced or not, of either handedness.
        periodic: along which lattice vectors; others get no k (slab: in-plane path only).
        path: names of special points, ``GMKG``; a comma jumps: ``GMK,AL``. None: the lattice's
            standard path.
        npoints: points over the whole path, shared out by length.

    Raises:
        ConfigError: a name in ``path`` is no special point of this lattice.
    """
    from ase.dft.kpoints import parse_path_string

    if not any(periodic):
        if path and path.strip().upper() not in _GAMMA:
            raise ConfigError(
                f"path '{path}': structure '{structure.name}' couples no cells, it is a molecule; "
                "its bands are levels at Γ, leave --path away"
            )
        return KPath(np.zeros((1, 3)), np.zeros(1), ((0, 1),), ((0, "Γ"),), "molecule: Γ only")
    lattices = _lattices(structure, periodic)
    wanted = path and path.replace("Γ", "G").replace("Gamma", "G").replace("-", "").replace(
        "|", ","
    ).replace(" ", "")
    asked = {name for piece in parse_path_string(wanted) for name in piece} if wanted else set()
    chosen = next((lattice for lattice in lattices if asked <= set(lattice.special)), lattices[0])
    special, default = chosen.special, chosen.path
    note = (
        f" (within a strain of {chosen.strain:.1%}; exactly it is {lattices[-1].name})"
        if chosen is not lattices[-1]
        else ""
    )
    source = f"ASE, {chosen.name} lattice{note}, periodic in {sum(periodic)}D"
    pieces = parse_path_string(wanted or default)
    unknown = [name for piece in pieces for name in piece if name not in special]
    if unknown:
        raise ConfigError(
            f"path '{path}': {', '.join(dict.fromkeys(unknown))} is no special point of "
            f"structure '{structure.name}' ({source}); "
            f"it has {', '.join(sorted(special))}, its standard path is {default}"
        )
    names = [(a, b) for piece in pieces for a, b in zip(piece[:-1], piece[1:], strict=True)]
    if not names:
        raise ConfigError(f"path '{path}': at least two special points are needed, e.g. {default}")
    ends = [(special[a], special[b]) for a, b in names]
    lattice = upright(structure.lattice, periodic)
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    counts = _distribute([float(np.linalg.norm((b - a) @ reciprocal)) for a, b in ends], npoints)
    return path_from_segments(
        lattice, ends, [(_pretty(a), _pretty(b)) for a, b in names], counts, source
    )


def _pretty(name: str) -> str:
    return "Γ" if name.upper() in _GAMMA else name


def seekpath_path(structure: Structure, npoints: int = 120) -> KPath:
    """The HPKOT path of seekpath, for a three-dimensional crystal, in the cell as it is.

    Raises:
        MissingDependencyError: seekpath is not installed.
        ConfigError: the cell is not a primitive one (use ASE's path, which needs none).
    """
    try:
        import seekpath
    except ImportError:
        raise MissingDependencyError("seekpath", "seekpath", "the seekpath k-path") from None
    import warnings

    scaled = structure.positions @ np.linalg.inv(structure.lattice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = seekpath.get_path_orig_cell((structure.lattice, scaled, structure.numbers))
        except (ValueError, seekpath.hpkot.SymmetryDetectionError) as error:
            raise ConfigError(
                f"structure '{structure.name}': seekpath found no path ({error}); use "
                f"--path-from ase"
            ) from None
    if result["is_supercell"]:
        raise ConfigError(
            f"structure '{structure.name}' is a supercell of the primitive cell, for which "
            f"seekpath defines no path; use --path-from ase"
        )
    points = {k: np.asarray(v, dtype=float) for k, v in result["point_coords"].items()}
    ends = [(points[a], points[b]) for a, b in result["path"]]
    counts = _distribute(
        [float(np.linalg.norm((b - a) @ structure.reciprocal)) for a, b in ends], npoints
    )
    names = [(_pretty(a), _pretty(b)) for a, b in result["path"]]
    return path_from_segments(
        structure.lattice, ends, names, counts, f"seekpath, {result['bravais_lattice_extended']}"
    )


def _segment_line(
    line: str, where: str
) -> tuple[int, tuple[NDArray[np.float64], NDArray[np.float64]], tuple[str, str]]:
    words = line.split()
    try:
        count = int(words[0])
        numbers = np.array([float(w) for w in words[1:7]])
        first, last = words[7:9]
        if len(numbers) != 6 or len(words) != 9:
            raise ValueError("nine entries are needed")
        if not np.isfinite(numbers).all():
            raise ValueError("a coordinate is NaN or infinite")
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{where}: '{line.strip()}' is no path segment ({error}); it reads 'points kx ky kz "
            f"kx ky kz start end', e.g. '46 0 0 0 0.5 0 0 Γ M'"
        ) from None
    return count, (numbers[:3], numbers[3:]), (_pretty(first), _pretty(last))


def read_path_file(
    path: str | os.PathLike[str],
    structure: Structure,
    periodic: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[KPath, dict[str, Any]]:
    """Read DeepH-dock's ``K_PATH`` (a segment a line) or DeepH-pack's ``band_config.json``
    (``k_data``: the same lines).

    Args:
        path: the file.
        structure: gives the lattice.
        periodic: along which lattice vectors it repeats; lengths on the path do not depend on where
            the others point.

    Returns:
        The path, and the other settings of the file (``fermi_level``, ``num_band``, ...; empty for
        K_PATH).

    Raises:
        DataError: the file is missing or a line is no segment; the message quotes it.
    """
    path = pathlib.Path(path)
    settings: dict[str, Any] = {}
    if path.suffix == ".json":
        settings = read_json(path)
        lines = settings.get("k_data") if isinstance(settings, dict) else None
        if not isinstance(lines, list) or not lines:
            raise DataError(
                f"{path}: no 'k_data' list; DeepH's band_config.json has one, e.g. [\"46 0 0 0 "
                f'0.5 0 0 Γ M"]'
            )
        settings = {k: v for k, v in settings.items() if k != "k_data"}
    else:
        lines = [
            line
            for line in read_text(path, 2**20).splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not lines:
            raise DataError(f"{path}: holds no path segment")
    parsed = [_segment_line(str(line), str(path)) for line in lines]
    return path_from_segments(
        upright(structure.lattice, periodic),
        [p[1] for p in parsed],
        [p[2] for p in parsed],
        [p[0] for p in parsed],
        path.name,
    ), settings


def find_path(
    structure: Structure,
    periodic: tuple[bool, bool, bool],
    path: str | KPath | None = None,
    npoints: int = 120,
    engine: PathEngine = "auto",
) -> KPath:
    """A path from whatever is given: a :class:`KPath`, special points, or nothing (``engine``).

    ``auto`` is ASE's lattice detection: it needs no primitive cell and knows slabs and wires;
    seekpath when asked for.

    Raises:
        ConfigError, MissingDependencyError: see :func:`automatic_path` and :func:`seekpath_path`.
    """
    if engine not in get_args(PathEngine):
        raise ConfigError(
            f"path engine '{engine}' is unknown; there are {', '.join(get_args(PathEngine))}"
        )
    if isinstance(path, KPath):
        return path
    if engine == "seekpath":
        if path is not None:
            raise ConfigError(
                "--path names points of ASE's lattice, it cannot be combined with --path-from "
                "seekpath"
            )
        if not all(periodic):
            raise ConfigError(
                f"structure '{structure.name}' is periodic in {sum(periodic)} directions; "
                f"seekpath knows three-dimensional crystals only, use --path-from ase"
            )
        return seekpath_path(structure, npoints)
    return automatic_path(structure, periodic, path, npoints)
