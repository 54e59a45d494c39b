"""An ASE calculator that knows the Hamiltonian instead of the energy.

>>> calc = HamiltonianCalculator("gformer/", stage1="stage1/", overlap="carbon.npz", valence={"C": 4})     # doctest: +SKIP
>>> atoms.calc = calc                                                                                       # doctest: +SKIP
>>> calc.get_fermi_level(), calc.get_hamiltonian(k=(0, 0, 0))                                               # doctest: +SKIP
>>> calc.band_structure("GMKG").plot()                                                                      # doctest: +SKIP
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.dft.kpoints import BandPath, monkhorst_pack
from numpy.typing import ArrayLike, NDArray

from ..bands import (
    BandGap,
    BlochProblem,
    Dos,
    FermiLevel,
    MeshSpectrum,
    band_gap,
    band_structure,
    density_of_states,
    fermi_level,
    mesh_spectrum,
    solve_dense,
)
from ..bands.fermi import electron_number, electrons_by_composition
from ..errors import ConfigError
from ..inference.source import require_seen, too_close
from ..io import BlockMatrix
from ..overlap import OverlapProvider, structure_from_atoms
from .ase_io import from_atoms, read_deeph, to_atoms, write_deeph
from .opening import bundle_table, open_model
from .sparse import real_space

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["HamiltonianCalculator", "from_atoms", "read_deeph", "to_atoms", "write_deeph"]

_IGNORED = {"initial_charges", "initial_magmoms"}
_PARAMETERS: dict[str, Any] = {
    "kpts": None,
    "electrons": None,
    "valence": None,
    "fermi": None,
    "smearing": "gaussian",
    "width": 0.02,
    "s_threshold": None,
}


class HamiltonianCalculator(Calculator):
    """ASE calculator: H from the model, S from an overlap source, physics from :mod:`deeph_gformer.bands`.

    ``atoms.calc = calc`` binds it; every ``get_...`` then speaks of the atoms as they are at the moment of the call. H and S are
    computed again when positions, cell, elements or boundary conditions changed, and kept otherwise. Energy and forces do not exist.

    Attributes:
        model: stage 1 and GFormer. overlap: where edges and S come from. seconds: of each step of the last computation.
    """

    implemented_properties: list[str] = []
    ignored_changes = _IGNORED

    def __init__(
        self,
        model: HamiltonianModel | str | os.PathLike[str] | None,
        stage1: str | os.PathLike[str] | None = None,
        overlap: OverlapProvider
        | str
        | os.PathLike[str]
        | Sequence[str | os.PathLike[str]]
        | None = None,
        *,
        frames: int = 1,
        hermitian: bool = True,
        extrapolate: bool = False,
        kpts: Any = None,
        electrons: float | None = None,
        valence: Mapping[str, float] | None = None,
        fermi: float | None = None,
        smearing: str = "gaussian",
        width: float = 0.02,
        s_threshold: float | None = None,
        atoms: Atoms | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            model: a GFormer bundle, or a loaded model; None runs stage 1 alone. stage1: a DeepH-E3 model folder.
            overlap: what ``--overlap`` takes (see :func:`deeph_gformer.overlap.load`): table, basis files, folder; or a provider. Default: the
                table in the bundle.
            frames: rotated frames to average. hermitian: ½(H + H†) in :meth:`get_hamiltonian` (bands use it always). extrapolate: allow distances that the table does
                not know, and pbc and distances that the training set does not have.
            kpts: Γ-centred mesh ("6x6x1", (6, 6, 1), {"size": ...}), default 0.12 1/Å apart; or a ``BandPath`` or (K, 3) array
                (the Fermi level stays that of the mesh before).
            electrons, valence, fermi: per cell; per element, e.g. {"C": 4}; or the Fermi level itself, eV. Default: electrons as
                counted in the bundle's training set, where they were.
            smearing, width: of the Fermi level, eV. s_threshold: see :func:`deeph_gformer.bands.solve_dense`.
            options: of :func:`deeph_gformer.load` (``device``, ``dtype``, ``backend``, ``deephe3_root``, ``generation``, ``fill_missing``).

        Raises:
            ConfigError: no overlap source, or the bundle's cannot make S. ModelError, DataError: a file cannot be used.
        """
        from ..overlap import load as load_overlap

        self.model = open_model(model, stage1, options)
        if overlap is None:
            overlap = bundle_table(self.model)
        basis = self.model.targets.basis
        self._shells = dict(zip(basis.elements, map(tuple, basis.orbital_types)))
        self.overlap = (
            overlap
            if isinstance(overlap, OverlapProvider)
            else load_overlap(overlap, extrapolate, self._shells)
        )
        self._frames, self._hermitian = frames, hermitian
        self._extrapolate = extrapolate or bool(getattr(self.overlap, "extrapolate", False))
        self._attached: Atoms | None = None
        self._problem: BlochProblem | None = None
        self._raw: BlockMatrix | None = None
        self._spectrum: MeshSpectrum | None = None
        self._points: dict[int, NDArray[np.float64]] = {}
        self._level: FermiLevel | None = None
        self._mesh: Any = None
        self.seconds: dict[str, float] = {}
        super().__init__(
            atoms=atoms,
            kpts=kpts,
            electrons=electrons,
            valence=valence,
            fermi=fermi,
            smearing=smearing,
            width=width,
            s_threshold=s_threshold,
        )

    # --- ASE's machinery -------------------------------------------------------------------------------------------
    def set_atoms(self, atoms: Atoms) -> None:
        """Called by ``atoms.calc = calc``."""
        self._attached = atoms

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change ``kpts``, ``electrons``, ``valence``, ``fermi``, ``smearing``, ``width`` or ``s_threshold``; H stays.

        Raises:
            ConfigError: another name.
        """
        unknown = sorted(set(kwargs) - set(_PARAMETERS))
        if unknown:
            raise ConfigError(
                f"HamiltonianCalculator: parameter {', '.join(unknown)} is unknown; there are {', '.join(_PARAMETERS)}"
            )
        changed = {
            key: value
            for key, value in kwargs.items()
            if key not in self.parameters or self.parameters[key] is not value
        }
        if "kpts" in changed and self._is_mesh(changed["kpts"]):
            self._mesh = changed["kpts"]
        self.parameters.update(changed)
        if changed:
            self._forget_spectrum()
        return changed

    def reset(self) -> None:
        """Forget H and everything from it."""
        super().reset()
        self._problem = self._raw = None
        self._forget_spectrum()

    def _forget_spectrum(self) -> None:
        self._spectrum, self._level, self._points = None, None, {}

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """There is no energy and there are no forces, whatever is asked.

        Raises:
            PropertyNotImplementedError: always, unless ``allow_calculation`` is False (then None).
        """
        if not allow_calculation:
            return None
        raise PropertyNotImplementedError(
            f"{name}: a Hamiltonian has no {name}; HamiltonianCalculator gives H, S, bands, Fermi level and density of states"
        )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute H and S of ``atoms`` now (normally done on demand).

        Raises:
            DataError: no atoms, no full cell, S of this geometry cannot be known, or the training set has no such pbc or distance.
            ModelError: elements that the model does not know.
        """
        atoms = self._current(atoms)
        super().calculate(atoms, list(properties), list(system_changes))
        self._problem = None
        self._forget_spectrum()
        unknown = sorted(
            {
                symbol
                for z, symbol in zip(atoms.numbers.tolist(), atoms.get_chemical_symbols())
                if z not in self._shells
            }
        )
        if unknown:
            from ase.data import chemical_symbols

            from ..errors import ModelError

            raise ModelError(
                f"atoms {atoms.get_chemical_formula()}: element {', '.join(unknown)} is unknown to the model; "
                f"it was trained on {', '.join(chemical_symbols[z] for z in self._shells)}"
            )
        structure = structure_from_atoms(
            atoms,
            self._shells,
            str(atoms.info.get("name") or atoms.get_chemical_formula()),
            self.model.targets.basis.spinful,
        )
        x, y, z = (bool(v) for v in atoms.pbc)
        marks = [time.perf_counter()]
        keys = self.overlap.edges(structure, (x, y, z))
        if not self._extrapolate:
            require_seen(self.model, structure, keys, (x, y, z))
            if close := too_close(self.model, structure, keys):
                warnings.warn(close, stacklevel=2)
        marks.append(time.perf_counter())
        s = self.overlap.overlap(structure, keys)
        marks.append(time.perf_counter())
        prediction = self.model.predict(
            structure, hermitian=self._hermitian, frames=self._frames, keys=keys
        )
        marks.append(time.perf_counter())
        self.seconds = dict(zip(("edges", "overlap", "hamiltonian"), np.diff(marks).tolist()))
        self._raw = prediction.hamiltonian
        h = self._raw if self._hermitian else self._raw.hermitian()
        self._problem = BlochProblem(
            structure, h, s, label="prediction", source=structure.name, predicted=True
        )

    def _current(self, atoms: Atoms | None) -> Atoms:
        atoms = (
            atoms
            if atoms is not None
            else self._attached
            if self._attached is not None
            else self.atoms
        )
        if atoms is None:
            raise ConfigError(
                "HamiltonianCalculator has no atoms yet; set atoms.calc = calc, or pass atoms"
            )
        return atoms

    def get_problem(self, atoms: Atoms | None = None) -> BlochProblem:
        """H and S as :class:`deeph_gformer.bands.BlochProblem`, for everything in :mod:`deeph_gformer.bands`."""
        atoms = self._current(atoms)
        if self._problem is None or self.atoms is None or self.check_state(atoms):
            self.calculate(atoms)
        if self._problem is None:
            raise ConfigError("HamiltonianCalculator: no Hamiltonian was computed")
        return self._problem

    # --- matrices --------------------------------------------------------------------------------------------------
    def get_hamiltonian(
        self, atoms: Atoms | None = None, *, R: ArrayLike | None = None, k: ArrayLike | None = None
    ) -> BlockMatrix | sp.csr_matrix:
        """H, eV: all blocks (legacy orbital order), or a sparse (n, n) matrix of one lattice vector ``R`` or at one ``k`` (fractional)."""
        problem = self.get_problem(atoms)
        if k is not None:
            return problem.sparse_at(k)[0]
        return self._matrix(self._raw if self._raw is not None else problem.h, problem.spin, R)

    def get_overlap(
        self, atoms: Atoms | None = None, *, R: ArrayLike | None = None, k: ArrayLike | None = None
    ) -> BlockMatrix | sp.csr_matrix:
        """S, as :meth:`get_hamiltonian`; spinless per ``R``, with spin (if any) at ``k``."""
        problem = self.get_problem(atoms)
        return problem.sparse_at(k)[1] if k is not None else self._matrix(problem.s, 1, R)

    def _matrix(
        self, matrix: BlockMatrix, spin: int, cell: ArrayLike | None
    ) -> BlockMatrix | sp.csr_matrix:
        if cell is None:
            return matrix
        structure = self.get_problem().structure
        wanted = np.asarray(cell)
        if (
            wanted.shape != (3,)
            or wanted.dtype.kind not in "iuf"
            or (wanted != np.round(wanted)).any()
        ):
            raise ConfigError(f"R = {cell}: write three integers, e.g. (1, 0, 0)")
        index = np.flatnonzero((matrix.keys[:, :3] == wanted).all(axis=1))
        size = int(structure.orbital_counts.sum()) * spin
        return (
            real_space(matrix.select(index), structure, spin)[1][0]
            if len(index)
            else sp.csr_matrix((size, size), dtype=matrix.values.dtype)
        )

    # --- k-points and eigenvalues ----------------------------------------------------------------------------------
    @staticmethod
    def _is_mesh(kpts: Any) -> bool:
        return not isinstance(kpts, BandPath) and (
            kpts is None or isinstance(kpts, (str, Mapping)) or np.ndim(kpts) != 2
        )

    def _explicit(self) -> NDArray[np.float64] | None:
        kpts = self.parameters["kpts"]
        return (
            None
            if self._is_mesh(kpts)
            else np.asarray(kpts.kpts if isinstance(kpts, BandPath) else kpts, dtype=float)
        )

    def get_spectrum(self, atoms: Atoms | None = None) -> MeshSpectrum:
        """Eigenvalues on the Γ-centred mesh: that of ``kpts``, or, where ``kpts`` are explicit points, the mesh set before them."""
        problem = self.get_problem(atoms)
        if self._spectrum is None:
            kpts = self._mesh
            if isinstance(kpts, Mapping):
                if (
                    "size" not in kpts
                    or set(kpts) - {"size", "gamma"}
                    or kpts.get("gamma") is False
                ):
                    raise ConfigError(
                        f"kpts = {dict(kpts)}: only Γ-centred meshes by size, {{'size': (6, 6, 1)}} or '6x6x1'; for a path call band_structure('GMKG')"
                    )
                kpts = kpts["size"]
            self._spectrum = mesh_spectrum(
                problem, kpts, s_threshold=self.parameters["s_threshold"]
            )
        return self._spectrum

    def get_ibz_k_points(self) -> NDArray[np.float64]:
        """(K, 3), fractional: the mesh's points up to time reversal, or the explicit ones."""
        explicit = self._explicit()
        return self.get_spectrum().kpoints if explicit is None else explicit

    def get_k_point_weights(self) -> NDArray[np.float64]:
        """(K,), sum 1."""
        explicit = self._explicit()
        return (
            self.get_spectrum().weights
            if explicit is None
            else np.full(len(explicit), 1.0 / len(explicit))
        )

    def get_bz_k_points(self) -> NDArray[np.float64]:
        """(K, 3): every point of the mesh, in the order of ``ase.dft.kpoints.monkhorst_pack``."""
        explicit = self._explicit()
        if explicit is not None:
            return explicit
        mesh = np.array(self.get_spectrum().mesh)
        return monkhorst_pack(mesh) + np.where(mesh % 2 == 0, 0.5 / mesh, 0.0)

    def get_bz_to_ibz_map(self) -> NDArray[np.int64]:
        """(K,): which of :meth:`get_ibz_k_points` each point of :meth:`get_bz_k_points` is equivalent to."""
        explicit = self._explicit()
        if explicit is not None:
            return np.arange(len(explicit))
        spectrum = self.get_spectrum()
        mesh = np.array(spectrum.mesh)
        index = np.round(self.get_bz_k_points() * mesh).astype(np.int64) % mesh
        return np.asarray(spectrum.full[tuple(index.T)])

    def get_number_of_spins(self) -> int:
        """1: no collinear spin. With spin-orbit coupling bands hold one electron each, so use ``DOS(calc).get_dos(spin=0)``, not the sum."""
        return 1

    def get_spin_polarized(self) -> bool:
        """False."""
        return False

    def get_number_of_bands(self) -> int:
        """Orbitals, spin included."""
        return self.get_problem().size

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> NDArray[np.float64]:
        """(B,), eV on the scale of H, ascending, at k-point number ``kpt`` of :meth:`get_ibz_k_points`.

        Raises:
            ConfigError: no such k-point or spin.
        """
        points = self.get_ibz_k_points()
        if spin != 0 or not 0 <= kpt < len(points):
            raise ConfigError(
                f"eigenvalues of k-point {kpt}, spin {spin} asked; there are {len(points)} k-points and one spin"
            )
        problem = self.get_problem()
        if self._explicit() is None:
            return self.get_spectrum().energies[kpt].copy()
        if kpt not in self._points:
            h, s = problem.at(points[kpt])
            self._points[kpt] = solve_dense(
                h,
                s,
                s_threshold=self.parameters["s_threshold"],
                where=f"{problem.source}, k-point {kpt}",
            ).energies
        return self._points[kpt].copy()

    # --- physics ---------------------------------------------------------------------------------------------------
    def _electrons(self) -> float | None:
        """Per cell: as given, else from what the bundle's training set taught."""
        structure = self.get_problem().structure
        found = electron_number(structure, self.parameters["electrons"], self.parameters["valence"])
        if found is not None:
            return found[0]
        return (
            electrons_by_composition(structure, self.model.bundle.training.get("electrons", ()))
            if self.model.bundle
            else None
        )

    def _need_electrons(self, what: str) -> float:
        found = self._electrons()
        if found is None:
            raise ConfigError(
                f"{what} needs the number of electrons; give HamiltonianCalculator electrons=N per cell, or valence={{'C': 4, ...}} per element"
            )
        return found

    def _known_level(self) -> FermiLevel | None:
        return (
            self.get_fermi()
            if self.parameters["fermi"] is not None or self._electrons() is not None
            else None
        )

    def get_fermi(self, atoms: Atoms | None = None) -> FermiLevel:
        """The Fermi level and how it was found.

        Raises:
            ConfigError: neither ``fermi``, ``electrons`` nor ``valence`` is set.
        """
        problem = self.get_problem(atoms)
        if self._level is None:
            given = self.parameters["fermi"]
            self._level = (
                FermiLevel(float(given), "given")
                if given is not None
                else fermi_level(
                    problem,
                    self._need_electrons("the Fermi level"),
                    smearing=self.parameters["smearing"],
                    width_eV=self.parameters["width"],
                    spectrum=self.get_spectrum(),
                )
            )
        return self._level

    def get_fermi_level(self) -> float:
        """eV, on the scale of H; see :meth:`get_fermi`."""
        return self.get_fermi().energy_eV

    def get_band_gap(self, atoms: Atoms | None = None, refine: bool = True) -> BandGap:
        """The gap by electron counting, see :func:`deeph_gformer.bands.band_gap`."""
        problem = self.get_problem(atoms)
        return band_gap(
            problem,
            self._need_electrons("the gap"),
            spectrum=self.get_spectrum(),
            refine=refine,
            s_threshold=self.parameters["s_threshold"],
        )

    def get_dos(self, **options: Any) -> Dos:
        """Both spins, see :func:`deeph_gformer.bands.density_of_states`; options override the calculator's mesh."""
        spectrum = None if {"mesh", "projections"} & set(options) else self.get_spectrum()
        return density_of_states(
            self.get_problem(), spectrum=spectrum, fermi=self._known_level(), **options
        )

    def band_structure(
        self, path: str | BandPath | None = None, npoints: int = 120, **options: Any
    ) -> Any:
        """``ase.spectrum.band_structure.BandStructure`` along a path, with the Fermi level (0 where it is unknown) as reference.

        Args:
            path: special points such as "GMKG", a ``BandPath``, or None for the lattice's standard path. npoints: of the path.
            options: of :func:`deeph_gformer.bands.band_structure`, not with a ``BandPath``.
        """
        from ase.spectrum.band_structure import BandStructure

        problem = self.get_problem()
        level = self._known_level()
        if not isinstance(path, BandPath):
            return band_structure(problem, path, npoints, fermi=level, **options).to_ase()
        energies = [
            solve_dense(
                *problem.at(k), s_threshold=self.parameters["s_threshold"], where=problem.source
            ).energies
            for k in path.kpts
        ]
        return BandStructure(
            path, np.array(energies)[None], reference=level.energy_eV if level else 0.0
        )
