"""Results of verbs that take an H and give its physics.

Energies are absolute, on the scale of H, if nothing else is said.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .base import Result

__all__ = [
    "BandPlot",
    "Comparison",
    "ConductivityResult",
    "DosResult",
    "FermiResult",
    "GapResult",
    "LdosResult",
    "SurfaceResult",
    "TextureResult",
    "TopologyResult",
    "UnfoldedPlot",
]


@dataclasses.dataclass(eq=False, repr=False)
class Comparison(Result):
    """Of ``compare``."""

    structure: str
    """Name."""
    reference: str
    """File of DFT's H."""
    other: str
    """File of the other H."""
    hamiltonian: dict[str, Any]
    """Errors of H, see :class:`deeph_gformer.bands.compare.HamiltonianError`."""
    label: str | None = None
    """What it is by its ``info.json``: ``refined``, ``stage 1``, or a ``prediction`` of which
    nothing is known; ``other`` where it is no prediction."""
    states_error_meV: float | None = None
    """First-order errors of DFT's states near the Fermi level."""
    ghost_meV: float | None = None
    """Coupling of these states to others."""
    states: int | None = None
    """How many they are."""
    states_notes: list[str] | None = None
    """What was left out."""
    eigenvalues: dict[str, Any] | None = None
    """Errors of eigenvalues (``--eigenvalues``)."""
    ghosts: list[dict[str, Any]] | None = None
    """States in the gap that DFT has not (``--eigenvalues``)."""
    error_modes: list[dict[str, Any]] | None = None
    """The worst S-weighted error modes at Γ (``--modes``)."""
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Metrics of other packages."""


@dataclasses.dataclass(eq=False, repr=False)
class BandPlot(Result):
    """Of ``bands``."""

    structure: str
    """Name."""
    window_eV: tuple[float, float]
    """Energies of the figure and of the errors, from the Fermi level."""
    bands: list[dict[str, Any]]
    """Of each H, see :meth:`deeph_gformer.bands.Bands.to_json`."""
    errors: dict[str, dict[str, Any]]
    """Against the first, by label, see :class:`deeph_gformer.bands.compare.BandError`."""


@dataclasses.dataclass(eq=False, repr=False)
class UnfoldedPlot(Result):
    """Of ``bands --unfold``."""

    structure: str
    """Name."""
    window_eV: tuple[float, float]
    """Energies of the figure, from the Fermi level."""
    bands: list[dict[str, Any]]
    """Of each H, with ``unfolding``: which atoms became which site."""


@dataclasses.dataclass(eq=False, repr=False)
class FermiResult(Result):
    """Of ``fermi``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    fermi_eV: float
    """The level."""
    source: str
    """How it was found."""
    electrons: float | None
    """Per cell."""
    electrons_source: str
    """Where that comes from."""
    mesh: list[int] | None
    """Of the counting."""
    method: str
    """Smearing."""
    width_eV: float | None
    """Of the smearing."""
    insulating: bool | None
    """Whether the level lies in a gap."""


@dataclasses.dataclass(eq=False, repr=False)
class DosResult(Result):
    """Of ``dos``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    kind: str
    """``deeph-gformer dos``."""
    label: str
    """For figures."""
    energies_eV: list[float]
    """Grid."""
    dos_per_eV: list[float]
    """Both spins, per cell."""
    projected_per_eV: dict[str, list[float]]
    """By projection (``--fat``)."""
    fermi: dict[str, Any] | None
    """The level, as of ``fermi``."""
    method: str
    """``gaussian``, ``fermi`` or ``tetrahedron``."""
    width_eV: float | None
    """Of the first two."""
    mesh: list[int]
    """k-points."""


@dataclasses.dataclass(eq=False, repr=False)
class GapResult(Result):
    """Of ``gap``; k-points are fractional."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    electrons: float
    """Per cell."""
    electrons_source: str
    """Where that comes from."""
    gap_eV: float
    """Conduction minimum less valence maximum; negative in a metal."""
    direct: bool
    """Whether both lie at one k."""
    direct_gap_eV: float
    """Smallest vertical gap."""
    valence_maximum_eV: float
    """Band edge."""
    conduction_minimum_eV: float
    """Band edge."""
    k_valence: list[float]
    """Of the valence maximum."""
    k_conduction: list[float]
    """Of the conduction minimum."""
    k_direct: list[float]
    """Of the smallest vertical gap."""
    metallic: bool
    """Whether the bands overlap."""
    bands: int
    """Filled ones."""
    mesh: list[int]
    """k-points that were searched first."""
    refined: bool
    """Whether the edges were followed between them."""
    uncertain_eV: float | None
    """By how much an edge or the vertical gap may be better in parts of the zone that were not
    searched, going by a second mesh. If it is not 0, take a denser mesh. None: not known."""


@dataclasses.dataclass(eq=False, repr=False)
class TopologyResult(Result):
    """Of ``topology``; which keys there are depends on ``kind``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    kind: str
    """``z2``, ``chern``, ``berry``, ``ahc`` or ``shc``."""
    filled_bands: int | None = None
    """z2, chern, berry: how many."""
    electrons_source: str | None = None
    """Where that comes from."""
    z2: int | None = None
    """z2: of a slab, or the strong one of a crystal."""
    z2_weak: list[int] | None = None
    """z2: the three weak ones of a crystal."""
    wilson_centres: list[dict[str, Any]] | None = None
    """z2: Wannier charge centres of each plane."""
    chern: int | list[int] | None = None
    """chern, berry: of the film, or of the planes k3 = 0 and 1/2."""
    chern_normal: list[float] | None = None
    """chern, berry: the normal, Cartesian, about which its sign and that of the curvature count."""
    curvature_A2: list[Any] | None = None
    """berry: map of each plane."""
    curvature_k_fractional: list[Any] | None = None
    """berry: its k-points."""
    method: str | None = None
    """Which matrix elements of r were used."""
    smallest_gap_eV: float | None = None
    """z2, chern, berry: between filled and empty bands at the k-points met."""
    smallest_gap_k: list[float] | None = None
    """Where; of k-points with the same gap the first in lexical order."""
    smallest_gap_points: int | None = None
    """How many of the k-points met have it, within 1e-6 eV."""
    indirect_gap_eV: float | None = None
    """z2, chern, berry: at the k-points met, so at least that of ``gap``. Negative: a semimetal."""
    sigma_e2_per_h: dict[str, float] | None = None
    """ahc: of a film, by ``yz``, ``zx``, ``xy``."""
    sigma_S_per_cm: dict[str, float] | None = None
    """ahc: of a crystal."""
    spin_hall_e2_per_h: dict[str, float] | None = None
    """shc: of a film, in ħ/2e, by ``spin_current field``."""
    spin_hall_S_per_cm: dict[str, float] | None = None
    """shc: of a crystal."""
    fermi: dict[str, Any] | None = None
    """ahc, shc: the level, as of ``fermi``."""
    mesh: list[int] | None = None
    """ahc, shc: k-points."""
    width_eV: float | None = None
    """ahc, shc: of the occupations."""
    largest_share: float | None = None
    """ahc, shc: of one k-point in the sum."""
    estimated_error: float | None = None
    """ahc, shc: of the components, in their unit; generous, but blind to spikes that no k-point of
    the mesh shows."""
    moved_by_refinement: float | None = None
    """ahc, shc: by how much refining the mesh moved the component that it moved most."""
    kpoints: int | None = None
    """ahc, shc: solved in all."""


@dataclasses.dataclass(eq=False, repr=False)
class ConductivityResult(Result):
    """Of ``optics``; tensors as ``{"xx": {"real": [...], "imag": [...]}, ...}``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    fermi: dict[str, Any]
    """The level, as of ``fermi``."""
    photon_eV: list[float]
    """Grid."""
    joint_dos_per_eV: list[float]
    """Pairs of a filled and an empty state at one k, 1/eV per cell, both spins."""
    drude_weight: list[list[float]]
    """Tensor: of a crystal the squares of plasma frequencies, eV²; of a film eV² Å."""
    unit: str
    """Of the conductivity."""
    periodic_directions: int
    """3: a crystal, 2: a film, 1: a wire."""
    fermi_eV: float
    """The level."""
    broadening_eV: float
    """Of the transitions."""
    width_eV: float
    """Of the occupations."""
    scissor_eV: float
    """Added to the gap."""
    mesh: list[int]
    """k-points."""
    method: str
    """Which matrix elements of r were used."""
    smallest_gap_eV: float
    """At the k-points met."""
    metal: bool
    """Whether there are carriers."""
    sigma_S_per_cm: dict[str, Any] | None = None
    """Conductivity of a crystal, all of it."""
    intraband_sigma_S_per_cm: dict[str, Any] | None = None
    """The part of it that comes from the carriers."""
    dielectric: dict[str, Any] | None = None
    """Of a crystal."""
    plasma_frequency_eV: list[float] | None = None
    """Of a crystal, along x, y, z."""
    sigma_e2_per_h: dict[str, Any] | None = None
    """Conductivity of a film, all of it; of a wire or molecule times Å or Å², see ``unit``."""
    intraband_sigma_e2_per_h: dict[str, Any] | None = None
    """The part of it that comes from the carriers."""
    susceptibility: dict[str, Any] | None = None
    """Of a crystal."""
    susceptibility_A: dict[str, Any] | None = None
    """Of a film, Å."""
    susceptibility_A2: dict[str, Any] | None = None
    """Of a wire, Å²."""
    susceptibility_A3: dict[str, Any] | None = None
    """Of a molecule, Å³."""


@dataclasses.dataclass(eq=False, repr=False)
class LdosResult(Result):
    """Of ``ldos``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    volumes: list[dict[str, Any]]
    """Each file, its grid, its integral, and what it should be."""
    fermi: dict[str, Any] | None = None
    """The level, as of ``fermi``."""
    window_eV: list[float] | None = None
    """From the Fermi level."""
    stm: dict[str, Any] | None = None
    """Image of constant height and of constant current (``--stm``)."""


@dataclasses.dataclass(eq=False, repr=False)
class SurfaceResult(Result):
    """Of ``surface``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    fermi: dict[str, Any]
    """The level, as of ``fermi``."""
    principal_layer_cells: int
    """Cells that couple to their neighbours only."""
    surface_along: int
    """Lattice vector, from 1."""
    kpoints_fractional: list[list[float]]
    """Path."""
    distances_per_angstrom: list[float]
    """Along it."""
    labels: list[list[Any]]
    """Of its special points."""
    energies_eV: list[float]
    """Grid."""
    bottom_per_eV: list[list[float]]
    """Spectral function of the lower surface, by k and energy."""
    top_per_eV: list[list[float]]
    """That of the upper one."""
    bulk_per_eV: list[list[float]]
    """That of the crystal."""
    fermi_eV: float | None
    """The level."""
    broadening_eV: float
    """In energy."""


@dataclasses.dataclass(eq=False, repr=False)
class TextureResult(Result):
    """Of ``spin-texture``."""

    structure: str
    """Name."""
    hamiltonian: str
    """File."""
    centre_fractional: list[float]
    """Of the square of k-points."""
    offsets_per_angstrom: list[Any]
    """From the centre, both directions."""
    bands: list[int]
    """Numbers, from 1."""
    energies_eV: list[Any]
    """By band and k-point."""
    spin_expectation: list[Any]
    """<σ> by band, k-point and x, y, z."""
    degenerate_share: list[float]
    """Part of the k-points where a band has no spin of its own."""
    fermi_eV: float | None
    """The level."""
