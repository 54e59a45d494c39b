"""H and S of an ASE calculator: what it takes to compute them, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import ArrayLike

from ..bands import BlochProblem
from ..errors import ConfigError
from ..io import BlockMatrix
from ..overlap import OverlapProvider, structure_from_atoms
from ..prediction.reading import item_of
from .opening import bundle_table, open_model
from .sparse import real_space

if TYPE_CHECKING:
    from ..pipeline import HamiltonianModel

__all__ = ["MatrixCalculator"]

_IGNORED = {"initial_charges", "initial_magmoms"}
_PARAMETERS = ("kpts", "electrons", "valence", "fermi", "smearing", "width", "s_threshold")


class MatrixCalculator(Calculator):
    """H from the model and S from an overlap source, of the atoms as they are now.

    Attributes:
        model: stage 1 and GFormer.
        overlap: where edges and S come from.
        seconds: of each step of the last computation.
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
        any_basis: bool = False,
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
            model: a GFormer bundle, or a loaded model; None runs stage 1 alone.
            stage1: a DeepH-E3 model folder.
            overlap: what ``--overlap`` takes (see :func:`deeph_gformer.overlap.load`): table, basis
                files, folder; or a provider. Default: the table in the bundle.
            frames: rotated frames to average.
            hermitian: ½(H + H†) in :meth:`get_hamiltonian` (bands use it always).
            extrapolate: allow distances that the table does not know, and pbc and distances that
                the training set does not have.
            any_basis: warn of an S that is not in the basis of the training set, instead of
                refusing it.
            kpts: Γ-centred mesh ("6x6x1", (6, 6, 1), {"size": ...}), default 0.12 1/Å apart; or a
                ``BandPath`` or (K, 3) array (the Fermi level stays that of the mesh before).
            electrons: per cell; default: as counted in the bundle's training set, where they were.
            valence: electrons of each element instead, e.g. {"C": 4}.
            fermi: the Fermi level itself instead, eV.
            smearing: ``gaussian``, ``fermi`` or ``tetrahedron``, of the occupations.
            width: of the smearing, eV.
            s_threshold: see :func:`deeph_gformer.bands.solve_dense`.
            atoms: to bind.
            options: of :func:`deeph_gformer.load` (``device``, ``dtype``, ``backend``,
                ``deephe3_root``, ``generation``, ``fill_missing``).

        Raises:
            ConfigError: no overlap source, or the bundle's cannot make S.
            ModelError, DataError: a file cannot be used.
        """
        from ..overlap import load as load_overlap

        self.model = open_model(model, stage1, options)
        if overlap is None:
            overlap = bundle_table(self.model)
        basis = self.model.targets.basis
        self._shells = dict(zip(basis.elements, map(tuple, basis.orbital_types), strict=True))
        self.overlap = (
            overlap
            if isinstance(overlap, OverlapProvider)
            else load_overlap(overlap, extrapolate, self._shells)
        )
        self._frames, self._hermitian = frames, hermitian
        self._extrapolate = extrapolate or bool(getattr(self.overlap, "extrapolate", False))
        self._any_basis = any_basis
        self._attached: Atoms | None = None
        self._problem: BlochProblem | None = None
        self._raw: BlockMatrix | None = None
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

    def set_atoms(self, atoms: Atoms) -> None:
        """Called by ``atoms.calc = calc``."""
        self._attached = atoms

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change ``kpts``, ``electrons``, ``valence``, ``fermi``, ``smearing``, ``width`` or
        ``s_threshold``; H stays.

        Raises:
            ConfigError: another name.
        """
        unknown = sorted(set(kwargs) - set(_PARAMETERS))
        if unknown:
            raise ConfigError(
                f"HamiltonianCalculator: parameter {', '.join(unknown)} is unknown; there are "
                f"{', '.join(_PARAMETERS)}"
            )
        changed = {
            key: value
            for key, value in kwargs.items()
            if key not in self.parameters or self.parameters[key] is not value
        }
        self.parameters.update(changed)
        if changed:
            self._forget()
        return changed

    def reset(self) -> None:
        """Forget H and everything from it."""
        super().reset()
        self._problem = self._raw = None
        self._forget()

    def _forget(self) -> None:
        """Forget what was computed from H; for classes below."""

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
            f"{name}: a Hamiltonian has no {name}; HamiltonianCalculator gives H, S, bands, "
            "Fermi level and density of states"
        )

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute H and S of ``atoms`` now (normally done on demand).

        Raises:
            DataError: no atoms, no full cell, S of this geometry cannot be known, or the training
                set has no such pbc or distance.
            ModelError: elements that the model does not know, or S of another basis.
        """
        atoms = self._current(atoms)
        super().calculate(atoms, list(properties), list(system_changes))
        self._problem = None
        self._forget()
        unknown = sorted(
            {
                symbol
                for z, symbol in zip(
                    atoms.numbers.tolist(), atoms.get_chemical_symbols(), strict=True
                )
                if z not in self._shells
            }
        )
        if unknown:
            from ase.data import chemical_symbols

            from ..errors import ModelError

            raise ModelError(
                f"atoms {atoms.get_chemical_formula()}: element {', '.join(unknown)} is unknown "
                "to the model; it was trained on "
                f"{', '.join(chemical_symbols[z] for z in self._shells)}"
            )
        structure = structure_from_atoms(
            atoms,
            self._shells,
            str(atoms.info.get("name") or atoms.get_chemical_formula()),
            self.model.targets.basis.spinful,
        )
        x, y, z = (bool(v) for v in atoms.pbc)
        marks = [time.perf_counter()]
        seen = not self._extrapolate
        item = item_of(self.model, structure, (x, y, z), self.overlap, seen=seen)
        marks.append(time.perf_counter())
        s = self.overlap.overlap(structure, item.edges.keys)
        marks.append(time.perf_counter())
        prediction = self.model.predict_items(
            [item], self._hermitian, self._frames, self._any_basis, s
        )[0]
        marks.append(time.perf_counter())
        self.seconds = dict(
            zip(("edges", "overlap", "hamiltonian"), np.diff(marks).tolist(), strict=True)
        )
        self._raw = prediction.hamiltonian
        h = self._raw if self._hermitian else self._raw.hermitian()
        self._problem = BlochProblem(
            structure, h, s, label=prediction.label, source=structure.name, predicted=True
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
        """H and S as :class:`deeph_gformer.bands.BlochProblem`, for everything in
        :mod:`deeph_gformer.bands`.
        """
        atoms = self._current(atoms)
        if self._problem is None or self.atoms is None or self.check_state(atoms):
            self.calculate(atoms)
        if self._problem is None:
            raise ConfigError("HamiltonianCalculator: no Hamiltonian was computed")
        return self._problem

    def get_hamiltonian(
        self, atoms: Atoms | None = None, *, R: ArrayLike | None = None, k: ArrayLike | None = None
    ) -> BlockMatrix | sp.csr_matrix:
        """H, eV: all blocks (legacy orbital order), or a sparse (n, n) matrix of one lattice vector
        ``R`` or at one ``k`` (fractional).
        """
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
