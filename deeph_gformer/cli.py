"""The command line: ``deeph-gformer VERB ...``; the verbs are in :mod:`deeph_gformer.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .errors import GFormerError

__all__ = ["main", "build_parser"]

_AREAS = ("core", "ablation", "interop", "overlap", "build", "bands", "spectra")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="deeph-gformer", description="Refine DeepH-E3 Hamiltonians with a non-linear 3D graph Transformer."
    )
    parser.add_argument("--version", action="version", version=f"deeph-gformer {__version__}")
    sub = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for area in _AREAS:
        importlib.import_module(f"{__package__}.commands.{area}").register(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 well, 2 the user's input, 130 interrupted)."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except GFormerError as error:
        print(f"deeph-gformer {args.verb}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"deeph-gformer {args.verb}: interrupted; finished files are whole, the one in work was discarded", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
