"""The files of an ABACUS run, of the layouts of its versions 3.0 to 3.11."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from ...errors import DataError
from ...io.files import real_path
from .stru import read_input

__all__ = ["ASK", "Files", "RunPaths", "is_output", "matrix_files", "run_paths"]

_H = (("hrs1_nao.csr", "hrs2_nao.csr"), ("data-HR-sparse_SPIN0.csr", "data-HR-sparse_SPIN1.csr"))
_H_STEPS = (r"hrs1g\d+_nao\.csr", r"\d+_data-HR-sparse_SPIN0\.csr")
_S = ("srs1_nao.csr", "sr_nao.csr", "data-SR-sparse_SPIN0.csr", "SR.csr")
#: What to do where matrices are missing.
ASK = (
    "set 'out_mat_hs2 1' and 'gamma_only 0' in INPUT (overlaps alone: "
    "'calculation get_s') and run ABACUS again"
)


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where the files of a run are.

    Attributes:
        run: its folder.
        out: its ``OUT.*``.
        stru: the structure.
        settings: of INPUT.
    """

    run: pathlib.Path
    out: pathlib.Path
    stru: pathlib.Path
    settings: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Files:
    """The matrix files of a run.

    Attributes:
        h: H(R); one, or up and down.
        s: S(R).
    """

    h: tuple[pathlib.Path, ...]
    s: pathlib.Path | None


def is_output(folder: pathlib.Path) -> bool:
    """Whether a folder is the ``OUT.*`` of a run."""
    names = (*_H[0], *_H[1], *_S)
    return folder.is_dir() and (
        any((folder / name).is_file() for name in names)
        or (folder.name.startswith("OUT.") and any(folder.glob("running_*.log")))
    )


def run_paths(run: pathlib.Path) -> RunPaths:
    """Where the run's files are.

    Raises:
        DataError: no output, several, or one of a run that moves atoms.
    """
    if is_output(run) and not any(is_output(folder) for folder in run.glob("OUT.*")):
        out, run = run, real_path(run).parent if run.name.startswith("OUT.") else run
    else:
        settings = read_input(run / "INPUT")
        named = run / f"OUT.{settings.get('suffix', 'ABACUS')}"
        found = [named] if named.is_dir() else sorted(f for f in run.glob("OUT.*") if f.is_dir())
        if len(found) > 1:
            raise DataError(f"{run}: holds {', '.join(f.name for f in found)}; name one of them")
        if not found:
            raise DataError(f"{run}: an ABACUS run without {named.name}; run ABACUS there, {ASK}")
        out = found[0]
    settings = read_input(run / "INPUT") | read_input(out / "INPUT")
    name = settings.get("stru_file", "STRU").split("#")[0].strip() or "STRU"
    stru = next((p for p in (run / name, run / "STRU", out / "STRU") if p.is_file()), run / name)
    kind = settings.get("calculation", "scf").split()[0]
    if kind in ("relax", "cell-relax", "md"):
        raise DataError(
            f"{run}: 'calculation {kind}' moves atoms, and STRU holds the first structure; make a "
            "single-point run (calculation scf) of the one that is wanted"
        )
    return RunPaths(run, out, stru, settings | {"calculation": kind})


def matrix_files(place: RunPaths) -> Files:
    """The files of H (one, or up and down) and S.

    Raises:
        DataError: there is none, or files of two versions of ABACUS.
    """
    sets = [
        tuple(place.out / n for n in names if (place.out / n).is_file())
        for names in _H
        if (place.out / names[0]).is_file()
    ]
    if len(sets) > 1:
        raise DataError(
            f"{place.out}: holds {sets[0][0].name} and {sets[1][0].name}, of two versions of "
            "ABACUS; remove those of the older run"
        )
    s_places = [place.out / name for name in _S] + [place.run / name for name in _S[1::2]]
    s = [path for path in s_places if path.is_file()]
    if len(s) > 1:
        raise DataError(f"{s[0]} and {s[1]}: overlaps of two runs; remove those of the older run")
    if not sets and not s:
        steps = [
            p.name
            for p in (*place.out.glob("*.csr"), *place.out.glob("matrix/*.csr"))
            if any(re.fullmatch(pattern, p.name) for pattern in _H_STEPS)
        ]
        hint = f" but those of ionic steps ({steps[0]})" if steps else ""
        raise DataError(f"{place.out}: no H(R) and no S(R){hint}; {ASK}")
    if sets and not s:
        raise DataError(f"{place.out}: H(R) without S(R) ({_S[0]}); {ASK}")
    return Files(sets[0] if sets else (), s[0])
