"""``topology``: Z2 and Chern numbers, Berry curvature, Hall and spin Hall conductivities."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..results import TopologyResult
from ..terminal import figures
from .levels import fermi_of, valence_of
from .loading import echo, progress, single_problem
from .options import Number, Verb, option
from .positions import PositionOptions, positions_of
from .shared import LevelOptions, OneHamiltonian
from .single import figure_option

if TYPE_CHECKING:
    from ..bands import BlochProblem
    from ..bands.topology import HallConductivity, Links, SpinHallConductivity

__all__ = ["VERBS"]

_LARGEST_ERROR = 0.1
"""Of a conductivity, from which on its error is called large."""
_LARGEST_SHARE = 0.1
"""Of all curvature, from which on one k-point with so much of it is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopologyOptions(OneHamiltonian, LevelOptions, PositionOptions):
    """Of ``topology``."""

    kind: Literal["z2", "chern", "berry", "ahc", "shc"] | None = option(
        shown="z2 with spin-orbit coupling, else chern",
        help="what is computed, see above",
    )
    mesh: str | None = option(
        metavar="12x12x1",
        shown="points 0.12 1/Å apart",
        help="Γ-centred k mesh: plaquettes of chern and berry, sums of ahc and shc, and where "
        "electrons are counted; z2 chooses its lines itself",
    )
    hall_width: float = option(
        type=Number(above=0),
        default=0.01,
        unit="eV",
        metavar="EV",
        help="ahc, shc: width of the Fermi function",
    )
    time_reversal: bool = option(
        default=False,
        help="take the time-reversal symmetric part of H (predictions of networks break it a "
        "little)",
    )
    output: pathlib.Path | None = figure_option("NAME_KIND.png; none for ahc and shc")


def _filled_bands(options: TopologyOptions, problem: BlochProblem) -> tuple[int, str]:
    """Number of filled bands, and where it comes from.

    Raises:
        ConfigError: the electrons do not fill whole bands.
    """
    from ..bands.electrons import electron_number
    from ..errors import ConfigError

    number = electron_number(problem.structure, options.electrons, valence_of(options, problem))
    if number is None:
        level = fermi_of(options, problem)
        if level.electrons is None:
            raise ConfigError(
                f"{problem.source}: the number of electrons is needed, not only the Fermi level; "
                "give --electrons N or --valence C=4,..."
            )
        number = level.electrons, level.electrons_source
    bands = number[0] / problem.electrons_per_band
    if abs(bands - round(bands)) > 1e-6:
        raise ConfigError(
            f"{problem.source}: {number[0]:g} electrons leave a band half filled "
            f"({problem.electrons_per_band} electrons a band): a metal, no invariant is defined"
        )
    return round(bands), number[1]


def _run(options: TopologyOptions) -> TopologyResult:
    from ..bands.kmesh import time_reversal_part
    from ..bands.topology import Links

    problem = single_problem(options, projects=False)
    if options.time_reversal:
        problem = time_reversal_part(problem)
        echo(problem.notes[-1])
    kind = options.kind or ("z2" if problem.spinful else "chern")
    positions = positions_of(
        options, options, problem, "integers do not depend on it, curvatures and centres do"
    )
    result: dict[str, Any] = {
        "structure": problem.structure.name,
        "hamiltonian": problem.source,
        "kind": kind,
    }
    if kind in ("ahc", "shc"):
        hall = _hall if kind == "ahc" else _spin_hall
        result |= hall(options, problem, positions)
    else:
        filled, source = _filled_bands(options, problem)
        said = f"{filled} filled bands: {source}"
        links = Links(problem, filled, positions)
        result |= {"filled_bands": filled, "electrons_source": source}
        result |= _z2(options, links, said) if kind == "z2" else _chern(options, links, kind, said)
        _echo_gap(links)
        result |= {
            "method": links.method,
            "smallest_gap_eV": links.smallest_gap_eV,
            "smallest_gap_k": links.smallest_gap_k.tolist(),
            "smallest_gap_points": links.smallest_gap_points,
            "indirect_gap_eV": links.bottom_eV - links.top_eV,
        }
    return TopologyResult.of(result)


def _echo_gap(links: Links) -> None:
    equal = f", one of {links.smallest_gap_points} equal ones" * (links.smallest_gap_points > 1)
    print(
        f"smallest gap met {figures(links.smallest_gap_eV * 1e3)} meV at k = "
        f"{[round(float(v), 4) for v in links.smallest_gap_k]}{equal}"
    )
    if links.bottom_eV < links.top_eV:
        echo(
            f"bands overlap by {figures((links.top_eV - links.bottom_eV) * 1e3)} meV or more (at "
            "the k-points met): a semimetal, whose filled bands are apart at every k met; the "
            "invariant is theirs. 'gap' searches for gaps and band edges between these points"
        )


def _z2(options: TopologyOptions, links: Links, said: str) -> dict[str, Any]:
    from ..bands.topology import z2_of_crystal
    from ..bands.topology.plot import plot_centres

    numbers, planes = z2_of_crystal(links, progress("Wilson loop"))
    print(said)
    if len(numbers) == 1:
        print(f"Z2 = {numbers[0]}")
    else:
        print(f"Z2 = {numbers[0]}; ({' '.join(map(str, numbers[1:]))})")
    output = options.output or pathlib.Path(f"{links.problem.structure.name}_z2.png")
    plot_centres(planes, output)
    print(f"written: {output}")
    return {
        "z2": numbers[0],
        "z2_weak": numbers[1:] or None,
        "wilson_centres": [
            {
                "loop_along": plane.loop + 1,
                "k_along": plane.pump + 1,
                "plane_fractional": list(plane.fixed),
                "k_fractional": plane.k.tolist(),
                "centres_fractional": plane.centres.tolist(),
                "z2": plane.z2,
                "steps": plane.steps,
            }
            for plane in planes
        ],
    }


def _chern(options: TopologyOptions, links: Links, kind: str, said: str) -> dict[str, Any]:
    from ..bands.kmesh import parse_mesh
    from ..bands.topology import berry_curvature, upward_plane
    from ..bands.topology.plot import plot_curvature
    from ..errors import ConfigError

    problem = links.problem
    axes = [axis for axis in range(3) if problem.periodic[axis]]
    if len(axes) < 2:
        raise ConfigError(
            f"{problem.source}: Chern numbers need two or three periodic directions, "
            f"'{problem.structure.name}' has {len(axes)}"
        )
    mesh = parse_mesh(options.mesh, problem)
    maps, lines = [], [said]
    plane, normal = upward_plane(problem)
    for value in (0.0,) if len(axes) == 2 else (0.0, 0.5):
        fixed = (0.0, 0.0, value)
        counts = (max(mesh[plane[0]], 2), max(mesh[plane[1]], 2))
        maps.append(berry_curvature(links, plane, counts, fixed, progress("plaquette")))
        where = "" if len(axes) == 2 else f" at k3 = {value:g}"
        lines.append(f"Chern number{where} = {maps[-1].chern} ({counts[0]}x{counts[1]} plaquettes)")
    towards = ", ".join(f"{v + 0.0:.4g}" for v in normal.round(6))
    lines.append(f"signs are those along the normal ({towards})")
    print("\n".join(lines))
    output = options.output or pathlib.Path(f"{problem.structure.name}_{kind}.png")
    plot_curvature(maps, problem.reciprocal, output)
    print(f"written: {output}")
    result: dict[str, Any] = {
        "chern": maps[0].chern if len(maps) == 1 else [m.chern for m in maps],
        "chern_normal": normal.tolist(),
    }
    if kind == "berry":
        result["curvature_A2"] = [one.curvature_A2.tolist() for one in maps]
        result["curvature_k_fractional"] = [one.k.tolist() for one in maps]
    return result


Conductivity = TypeVar("Conductivity", "HallConductivity", "SpinHallConductivity")


def _fermi_sum(
    function: Callable[..., Conductivity],
    options: TopologyOptions,
    problem: BlochProblem,
    positions: Any,
) -> tuple[Conductivity, str, dict[str, Any]]:
    """A conductivity at the Fermi level.

    Args:
        function: ``anomalous_hall`` or ``spin_hall``.
        options: of the verb.
        problem: the Hamiltonian.
        positions: of the position matrix, or None.

    Returns:
        It, its unit for people, and how it was made, for JSON.
    """
    level = fermi_of(options, problem)
    found = function(
        problem,
        level.energy_eV,
        options.mesh,
        width_eV=options.hall_width,
        positions=positions,
        progress=progress(),
    )
    print(f"Fermi level {level.energy_eV:.4f} eV: {level.source}")
    unit = "e²/h" if found.unit == "e2/h" else found.unit
    mesh, moved = "x".join(map(str, found.mesh)), float(abs(found.sigma - found.on_mesh).max())
    print(f"{mesh} mesh, {found.points} k-points with those where it was refined", end="")
    print(f" (which moved the result by up to {moved:.2g} {unit})" * (moved > 0))
    print(f"estimated error {found.error.max():.2g} {unit}")
    if found.largest_share > _LARGEST_SHARE:
        echo(
            f"one k-point of the {mesh} mesh has {found.largest_share * 100:.0f} % of all "
            "curvature: too coarse, take a denser --mesh or a wider --hall-width"
        )
    elif found.error.max() > _LARGEST_ERROR * abs(found.sigma).max() and found.error.max() > 0.01:
        echo(
            f"the error may be more than {_LARGEST_ERROR * 100:.0f} % of the result: take a denser "
            "--mesh or a wider --hall-width"
        )
    result = {
        "fermi": level.to_json(),
        "mesh": list(found.mesh),
        "width_eV": found.width_eV,
        "method": found.method,
        "largest_share": found.largest_share,
        "estimated_error": float(found.error.max()),
        "moved_by_refinement": moved,
        "kpoints": found.points,
    }
    return found, unit, result


def _hall(options: TopologyOptions, problem: BlochProblem, positions: Any) -> dict[str, Any]:
    from ..bands.topology import anomalous_hall

    found, unit, result = _fermi_sum(anomalous_hall, options, problem, positions)
    table = dict(zip(("yz", "zx", "xy"), found.sigma.tolist(), strict=True))
    for name, value in table.items():
        print(f"sigma_{name} = {value + 0.0:.5g} {unit}")  # no -0
    return {"sigma_e2_per_h" if found.unit == "e2/h" else "sigma_S_per_cm": table, **result}


def _spin_hall(options: TopologyOptions, problem: BlochProblem, positions: Any) -> dict[str, Any]:
    from ..bands.topology import spin_hall

    found, unit, result = _fermi_sum(spin_hall, options, problem, positions)
    names = "xyz"
    table = {
        f"{names[s]}_{names[a]}{names[b]}": float(found.sigma[s, a, b])
        for s in range(3)
        for a in range(3)
        for b in range(3)
    }
    for name in ("z_xy", "z_yx", "x_yz", "y_zx"):
        print(f"sigma^{name} = {table[name]:.5g} (hbar/2e) {unit}")
    return {"spin_hall_e2_per_h" if found.unit == "e2/h" else "spin_hall_S_per_cm": table, **result}


VERBS = (
    Verb(
        "topology",
        "physics",
        "Z2 and Chern numbers, Berry curvature, anomalous and spin Hall conductivity",
        TopologyOptions,
        _run,
        "z2: Wannier charge centres and the Z2 number of a slab, or the four of a crystal. "
        "chern: Chern number of the filled bands, for a crystal on the planes k3 = 0 and 1/2. "
        "berry: the same with the map of the curvature. ahc: intrinsic anomalous Hall "
        "conductivity, of metals too; shc: that of spins. Position matrices come from basis files "
        "or the folder (positions.h5, position_matrix.h5), else orbitals sit on their atoms.",
        results=(TopologyResult,),
        examples=("topology film --kind z2", "topology magnet --kind ahc --mesh 100x100x1"),
    ),
)
