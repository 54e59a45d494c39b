"""The command line: ``deeph-gformer VERB ...``; the verbs are in :mod:`deeph_gformer.commands`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import GFormerError, lacks_memory, printable
from .stopping import Stopped, stoppable
from .terminal import plain_streams

__all__ = ["main", "build_parser"]

_AREAS = (
    "core",
    "ablation",
    "interop",
    "overlap",
    "build",
    "bands",
    "spectra",
    "topology",
    "report",
)


#: What to do where memory does not suffice.
ADVICE = {
    "refine": "give less to --max-memory than there is, --spill DIR for what does not fit, "
    "--device cpu where a GPU is too small, or share the work with torchrun",
    "bands": "use the sparse solver (--solver sparse, --window) and fewer --processes",
}
OTHER_ADVICE = "use a smaller structure, or a machine with more memory"


#: Verbs that end at SIGTERM and Ctrl-C with a line on how to go on.
STOPPABLE = ("train", "train-stage1", "ablate")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="deeph-gformer",
        description="Refine DeepH-E3 Hamiltonians with a non-linear 3D graph Transformer.",
    )
    parser.add_argument("--version", action="version", version=f"deeph-gformer {__version__}")
    sub = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for area in _AREAS:
        importlib.import_module(f"{__package__}.commands.{area}").register(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 well, 2 the user's input, 130 Ctrl-C, 143 SIGTERM."""
    words = sys.argv[1:] if argv is None else argv
    verb = next((word for word in words if not word.startswith("-")), "")
    with plain_streams(), stoppable() if verb in STOPPABLE else contextlib.nullcontext():
        try:
            return _run(build_parser().parse_args(argv))
        except Stopped as stop:
            if os.environ.get("RANK", "0") == os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"deeph-gformer {verb}: {printable(str(stop))}", file=sys.stderr)
            return stop.code


def _short(text: str) -> str:
    """One line of a length that can be read, whatever a file put into it."""
    return text if len(text) <= 1200 else f"{text[:700]} ... {text[-400:]}"


def _run(args: argparse.Namespace) -> int:
    try:
        return int(args.run(args) or 0)
    except GFormerError as error:
        print(f"deeph-gformer {args.verb}: error: {_short(printable(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"deeph-gformer {args.verb}: interrupted; finished files are whole, the one in "
            "work was discarded",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0][:160]
        print(
            f"deeph-gformer {args.verb}: error: out of memory ({reason}); "
            f"{ADVICE.get(args.verb, OTHER_ADVICE)}",
            file=sys.stderr,
        )
        return 2
