"""Single options that several verbs have; groups of them are in :mod:`.shared`."""

from __future__ import annotations

import pathlib
from typing import Any

from .options import FIGURES, Ending, Number, option

__all__ = [
    "DEVICES",
    "dtype_option",
    "stage1_only_option",
    "frames_option",
    "overlap_source",
    "output_file",
    "figure_option",
    "output_folder",
    "every_option",
]


def dtype_option(default: str | None, shown: str = "") -> Any:
    """``--dtype``; arguments as those of :func:`option`."""
    return option(default=default, group="model", shown=shown, help="precision of the network")


def stage1_only_option() -> Any:
    """``--stage1-only``."""
    return option(default=False, help="predict with DeepH-E3 alone, without a GFormer")


def frames_option(when: str) -> Any:
    """``--frames``.

    Args:
        when: what it needs.
    """
    return option(
        type=Number(int, least=1),
        default=1,
        metavar="K",
        help=f"average the predictions in K rotated frames; {when}",
    )


def overlap_source(what: str, required: bool = False, shown: str = "") -> Any:
    """``--overlap`` of the verbs that make S.

    Args:
        what: becomes of it.
        required: whether it is needed.
        shown: what is taken without it.
    """
    return option(
        "--overlap",
        "--basis",
        nargs="+",
        metavar="SOURCE",
        shown=shown,
        help=f"{what}: a table (.npz), basis files (.orb, .ion, .ion.xml, .pao) or a folder of "
        "them (for .pao files also what the calculation takes of them, e.g. C6.0-s2p2d1), or a "
        "folder with overlaps",
        required=required,
    )


#: Help of ``--device``.
DEVICES = "where to run: auto, cpu, cuda, cuda:1, ..."


def output_file(help: str) -> Any:
    """``--output`` of the verbs that write one file and need its name.

    Args:
        help: what is written.
    """
    return option(
        "-o",
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        writes="file",
        help=help,
    )


def figure_option(shown: str) -> Any:
    """``--output`` of the verbs that draw.

    Args:
        shown: name of the figure without it.
    """
    return option(
        "-o",
        "--output",
        type=Ending(*FIGURES),
        metavar="FILE",
        writes="file",
        shown=shown,
        help="figure: .png, .svg, .pdf",
    )


def output_folder(help: str, shown: str, writes: str = "folder") -> Any:
    """``-o``: the folder that is written.

    Args:
        help: what goes there.
        shown: where that is, where the option is not given.
        writes: see :func:`.options.option`.
    """
    return option(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="DIR",
        writes=writes,
        shown=shown,
        help=help,
    )


def every_option(default: int) -> Any:
    """``--every``, of trainings."""
    return option(
        type=Number(int, least=1), default=default, metavar="N", help="print every N-th epoch"
    )
