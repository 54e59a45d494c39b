"""``convert``: DFT runs into folders, and folders into other formats."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Literal

from ..results import Conversion
from .loading import print_line
from .options import Number, Verb, argument, option
from .shared import JsonOption

__all__ = ["VERBS"]

_RUNS, _FOLDERS = "DFT runs", "structure folders"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(JsonOption):
    """Of ``convert``."""

    source: pathlib.Path = argument(
        metavar="SOURCE",
        help="a DFT run (its folder, or a .scfout, .TSHS, .HSX, .nc), a structure folder, a folder "
        "of either, or a .npz that '--to npz' wrote",
    )
    target: pathlib.Path = argument(
        metavar="TARGET",
        help="folder (legacy, dock, wannier90, wannierberri, kwant, pyatb) or file (sisl: .TSHS or "
        ".nc, npz, poscar) to write",
    )
    to: str | None = option(
        metavar="FORMAT",
        shown="the other one of legacy and dock",
        help="legacy or dock (DeepH's folders), wannier90, wannierberri, kwant, pyatb, sisl, npz, "
        "poscar, or the name of an installed one",
    )
    overwrite: bool = option(
        default=False, one_of="existing", help="replace a structure that is there"
    )
    skip_existing: bool = option(
        default=False,
        one_of="existing",
        help="leave what is there and go on, e.g. after an interruption",
    )
    code: str | None = option(
        "--from",
        metavar="CODE",
        group=_RUNS,
        shown="DFT runs where there are no structure folders",
        help="SOURCE is a run of this DFT code or a folder of them: openmx, abacus, siesta, gpaw, "
        "aims, pyscf, the name of an installed reader, or auto",
    )
    form: str | None = option(
        "--format",
        metavar="FORMAT",
        group=_RUNS,
        shown="legacy",
        help="folder format for DFT runs: legacy, dock, or the name of an installed one",
    )
    unconverged: bool = option(
        default=False,
        group=_RUNS,
        help="read DFT runs that did not converge, too (otherwise refused)",
    )
    processes: int | None = option(
        type=Number(int, least=1),
        metavar="N",
        group=_RUNS,
        shown="one per CPU",
        help="DFT runs read at a time",
    )
    fdf: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="FILE",
        group=_RUNS,
        shown="the only .fdf beside the matrix",
        help="SIESTA's input, which gives the basis",
    )
    kind: Literal["hamiltonian", "prediction"] | None = option(
        group=_FOLDERS,
        shown="DFT's, else the prediction",
        help="which H goes to other programs",
    )
    overlap: pathlib.Path | None = option(
        type=pathlib.Path,
        metavar="DIR",
        group=_FOLDERS,
        help="folder with S, or its overlaps.h5, where S is not beside H (other programs)",
    )
    mesh: str | None = option(
        metavar="9x9x1",
        group=_FOLDERS,
        shown="four times the range of H, plus one; kwant: H and S as they are",
        help="wannier90, wannierberri, kwant: k mesh of the Löwdin orthogonalisation",
    )


def _run(options: ConvertOptions) -> Conversion:
    from ..interop.convert import convert

    records = convert(
        options.source,
        options.target,
        options.to,
        code=options.code,
        form=options.form,
        unconverged=options.unconverged,
        fdf=options.fdf,
        processes=options.processes,
        progress=not options.quiet,
        overwrite=options.overwrite,
        skip_existing=options.skip_existing,
        echo=print_line,
        kind=options.kind,
        overlap_folder=options.overlap,
        mesh=options.mesh,
    )
    return Conversion(records)


VERBS = (
    Verb(
        "convert",
        "data",
        "DFT output into training folders; folders into other formats",
        ConvertOptions,
        _run,
        "Output of DFT codes into training folders; legacy and DeepH-dock folders into each other, "
        "and into files of Wannier90, WannierBerri, kwant, PYATB, sisl, SciPy (npz) or a POSCAR. "
        "What each DFT code must write: docs/howto/dft.md. A folder of DFT runs or of "
        "structure folders is converted one by one into TARGET/<name>. Runs are read several at a "
        "time; those that are there already, from the same files, are left as they are. Legacy to "
        "DeepH-dock groups atoms by element, says so, and remembers the order for the way back.",
        results=(Conversion,),
        examples=(
            "convert RUNS DATA --from auto",
            "convert out/0030 dock/0030 --to dock",
            "convert out/0030 wannier --to wannier90 --kind prediction",
        ),
    ),
)
