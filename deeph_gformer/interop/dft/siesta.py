"""SIESTA: ``.TSHS``, ``.nc`` and ``.HSX`` through sisl ->
:class:`~deeph_gformer.interop.dft.run.DFTRun`."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np

from ...errors import DataError
from ...io import BlockMatrix
from ...io.files import read_text
from .run import UNCONVERGED, DFTRun, describe

__all__ = ["Siesta", "spin_of"]

#: The surest first: a .TSHS knows its geometry, an old .HSX does not.
_SUFFIXES = (".TSHS", ".nc", ".HSX")
#: How versions 4 and 5 tell that the density converged, or that it did not.
_ENDED = r"(SCF cycle converged|SCF Convergence by|SCF_NOT_CONV|SCF did not converge)"
_ASK = "set 'SaveHS true' (.HSX) or 'TS.HS.Save true' (.TSHS) in the .fdf and run SIESTA again"


class Siesta:
    """Reader of SIESTA runs."""

    name = "siesta"

    def find(self, path: pathlib.Path) -> list[pathlib.Path]:
        """The matrix file of each run at ``path``; the folder where there is an ``.fdf`` alone."""
        if path.is_file():
            return [path] if path.suffix in _SUFFIXES else []
        stems: dict[str, pathlib.Path] = {}
        for suffix in _SUFFIXES:
            for file in sorted(path.glob(f"*{suffix}")):
                if "." not in file.stem:  # not C.ion.nc, Rho.grid.nc, run.TBT.nc
                    stems.setdefault(file.stem, file)
        if not stems and any(path.glob("*.fdf")):
            return [path]
        return list(stems.values())

    def read(
        self,
        run: pathlib.Path,
        unconverged: bool = False,
        fdf: str | os.PathLike[str] | None = None,
    ) -> DFTRun:
        """Read one run.

        Args:
            run: a matrix file, or the folder of a run.
            unconverged: read runs whose density did not converge, too.
            fdf: the input, which gives the basis; default: the only ``.fdf`` beside the matrix.

        Raises:
            DataError: see :func:`deeph_gformer.interop.sisl.from_siesta`; or the run did not
                converge.
            MissingDependencyError: sisl is not installed.
        """
        from ..sisl import from_siesta

        if run.is_dir():
            files = [file for file in self.find(run) if file.is_file()]
            if len(files) != 1:
                names = ", ".join(file.name for file in files)
                raise DataError(
                    f"{run}: holds {names}; name one of them"
                    if files
                    else f"{run}: a SIESTA run without .TSHS, .HSX or .nc; {_ASK}"
                )
            run = files[0]
        problem = from_siesta(run, fdf)
        output = _output(run.parent)
        notes: list[str] = []
        if output is None:
            notes.append(f"no .out beside {run.name}: whether the run converged is unknown")
        elif not _found(_ENDED, output):
            notes.append(f"the .out beside {run.name} does not tell whether the run converged")
        failed = bool(_found(r"(SCF_NOT_CONV|SCF did not converge)", output))
        if failed:
            if not unconverged:
                raise DataError(f"{run}: the run did not converge; {UNCONVERGED}")
            notes.append("the density did not converge")
        spin = spin_of(problem.h, problem.spinful)
        if spin == "collinear":
            notes.append("collinear spin: H is [[up, 0], [0, down]]")
        info = describe(
            "SIESTA",
            _found(r"^\s*(?:Siesta )?Version\s*:\s*(?:siesta-)?(\S+)", output) or "unknown",
            fermi_level=problem.structure.info.get("fermi_level"),
            electrons=_electrons(output),
            functional=_found(r"^redata: XC\.?\s*[Aa]uthors?\s*=?\s*(\S+)", output)
            or _functional(run.parent, fdf),
            spin=spin,
            converged=False if failed else None,
        )
        problem.structure.info.update(info)
        return DFTRun(problem.structure, problem.h, problem.s, tuple(notes), (run,))


def spin_of(h: BlockMatrix, spinful: bool) -> str:
    """``none``, ``collinear`` (nothing between up and down) or ``non-collinear``.

    Args:
        h: H(R).
        spinful: whether it is spin-doubled.
    """
    if not spinful:
        return "none"
    for _, blocks in h.groups():
        rows, columns = blocks.shape[1] // 2, blocks.shape[2] // 2
        if np.abs(blocks[:, :rows, columns:]).max(initial=0) > 0:
            return "non-collinear"
    return "collinear"


def _output(folder: pathlib.Path) -> str | None:
    """SIESTA's standard output, where it was kept beside the matrix."""
    for path in sorted(folder.glob("*.out")):
        if path.is_file() and path.stat().st_size < 2**28:
            text = read_text(path, strict=False)
            if re.search(r"siesta", text[:20000], re.IGNORECASE):
                return text
    return None


def _found(pattern: str, text: str | None) -> str | None:
    found = re.search(pattern, text or "", re.MULTILINE | re.IGNORECASE)
    return found.group(1) if found else None


def _electrons(text: str | None) -> float | None:
    number = _found(r"Total number of electrons:\s*(\S+)", text)
    return None if number is None else float(number)


def _functional(folder: pathlib.Path, fdf: str | os.PathLike[str] | None) -> str | None:
    """``XC.authors`` of the input."""
    files = (
        [pathlib.Path(fdf)] if isinstance(fdf, (str, os.PathLike)) else list(folder.glob("*.fdf"))
    )
    if len(files) != 1 or not files[0].is_file():
        return None
    return _found(r"^\s*XC[._-]?authors\s+([A-Za-z]\S*)", read_text(files[0], strict=False))
