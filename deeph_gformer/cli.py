"""The command line: ``deeph-gformer VERB ...``; the verbs are in :mod:`deeph_gformer.commands`."""

from __future__ import annotations

import argparse
import difflib
import errno
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from . import __version__
from .commands.options import Verb, add_options, collect
from .commands.shared import write_result
from .errors import ConfigError, DataError, GFormerError, lacks_memory, printable
from .logs import LOGGER, log_to
from .results import Result
from .stopping import SIGNALS, Stopped, stoppable
from .terminal import close_bars, keep_numbers, plain_streams

__all__ = ["build_parser", "command", "main", "verbs"]

#: Modules with verbs, in the order of the list.
_AREAS = (
    "refine",
    "deephe3",
    "train",
    "onsite",
    "ablation",
    "evaluate",
    "compare",
    "report",
    "convert",
    "overlap",
    "build",
    "derivative",
    "bands",
    "spectra",
    "topology",
    "optics",
    "ldos",
    "surface",
    "texture",
)
#: Headings of the list of verbs.
SECTIONS = {
    "predict": "predict",
    "train": "train",
    "judge": "errors and reports",
    "data": "data",
    "physics": "physics of a Hamiltonian",
}

#: What to do where memory does not suffice.
ADVICE = {
    "refine": "give less to --max-memory than there is, --spill DIR for what does not fit, "
    "--device cpu where a GPU is too small, or share the work with torchrun",
    "bands": "use the sparse solver (--solver sparse, --window) and fewer --processes",
}
OTHER_ADVICE = "use a smaller structure, or a machine with more memory"

#: What reads and writes of a disk, or of standard output, fail with; they name no file.
_DISK = tuple(
    getattr(errno, n) for n in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE", "EPIPE")
)
_UNNAMED = "a file could not be read or written; finished files are whole"

#: Verbs that end at SIGTERM and Ctrl-C with a line on how to go on.
STOPPABLE = ("train", "train-stage1", "ablate")


class _Help(argparse.HelpFormatter):
    """argparse's, with examples as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        examples = text.startswith("example")
        return text if examples else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """argparse, with one line for bad input."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; the words are kept for :meth:`error`."""
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line; exit code 2.

        Where an option is missing and another one is unknown, the line is on the latter: most
        likely it is the former with a typing error.
        """
        if message.startswith("the following arguments are required"):
            for word in self._words:
                option = word.partition("=")[0]
                if word[:2] == "--" and not any(
                    known.startswith(option) for known in self._option_string_actions
                ):
                    message = _unknown(word, self)
                    break
        print(f"{self.prog}: error: {printable(message)} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def verbs() -> list[Verb]:
    """Every sub-command, in the order of the list."""
    areas = (importlib.import_module(f"{__package__}.commands.{area}") for area in _AREAS)
    return [verb for area in areas for verb in area.VERBS]


def _listing(every: Sequence[Verb]) -> str:
    """The verbs under their headings."""
    width = max(len(verb.name) for verb in every) + 2
    lines = []
    for section, title in SECTIONS.items():
        lines.append(f"\n{title}:")
        lines += [f"  {v.name:<{width}}{v.help}" for v in every if v.section == section]
    return "\n".join([*lines, "\n'deeph-gformer VERB --help' explains a verb."]).lstrip("\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    every = verbs()
    parser = _Parser(
        prog="deeph-gformer",
        usage="deeph-gformer VERB ...",
        description="Refine DeepH-E3 Hamiltonians with a non-linear 3D graph Transformer.",
        epilog=_listing(every),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deeph-gformer {__version__}")
    # the list is the epilog: argparse knows no headings among sub-commands
    sub = parser.add_subparsers(
        dest="verb", prog="deeph-gformer", metavar="VERB", help=argparse.SUPPRESS
    )
    _add_verbs(sub, every)
    return parser


def _add_verbs(sub: Any, every: Iterable[Verb], **words: str) -> None:
    for verb in every:
        text = verb.description or f"{verb.help[0].upper()}{verb.help[1:]}."
        listed = {} if verb.section else {"help": verb.help}
        parser = sub.add_parser(
            verb.name,
            description=text,
            epilog=_examples(verb),
            formatter_class=_Help,
            **listed,
        )
        if verb.actions:
            _add_verbs(
                parser.add_subparsers(dest="action", metavar="ACTION", required=True), verb.actions
            )
        else:
            add_options(parser, verb.options)
            parser.set_defaults(run=functools.partial(_call, verb), parser=parser)


def _examples(verb: Verb) -> str | None:
    """The end of a verb's help."""
    if not verb.examples:
        return None
    title = "example:" if len(verb.examples) == 1 else "examples:"
    return "\n".join([title, *(f"  deeph-gformer {line}" for line in verb.examples)])


def _call(verb: Verb, args: argparse.Namespace) -> int:
    """Collect the options of a verb and run it, with messages as they ask for."""
    options = collect(verb.options, args)
    start, end = time.perf_counter(), "stopped"
    with log_to(options.level, options.log_file):
        LOGGER.debug("deeph-gformer %s: %s %s", __version__, verb.name, options.given())
        try:
            found = verb.run(options) if verb.run else None
            if isinstance(found, Result):
                write_result(options, verb, found)
                failure, found = getattr(found, "failure", ""), 0
                if failure:
                    raise DataError(failure)
            code = int(found or 0)
            end = f"exit code {code}"
            return code
        except GFormerError as error:
            end = f"error: {_short(printable(str(error)))}"
            raise
        finally:
            close_bars()
            LOGGER.debug("after %.2f s: %s", time.perf_counter() - start, end)


def _require_verbs(words: Sequence[str]) -> None:
    """The verb, and its action, are known.

    Raises:
        ConfigError: with the closest one.
    """
    known, what = {verb.name: verb for verb in verbs()}, "verb"
    for word in words:
        if word.startswith("-") or not known:
            return
        if word not in known:
            close = difflib.get_close_matches(word, known, 1, 0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"unknown {what} '{word}'; {hint}Known: {', '.join(known)}")
        known, what = {verb.name: verb for verb in known[word].actions}, f"action of {word}"


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    """What to say of a word that a verb does not know, e.g. an option with a typing error."""
    options = list(parser._option_string_actions)
    close = difflib.get_close_matches(word.partition("=")[0], options, 1, 0.7)
    hint = f"; did you mean {close[0]}?" if close and word.startswith("-") else ""
    kind = "unknown option" if word.startswith("-") else "one word too many:"
    return f"{kind} {word}{hint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``deeph-gformer``; default: those of this process.

    Returns:
        0 well, 2 the user's input, 130 Ctrl-C, 143 SIGTERM.
    """
    return _main(sys.argv[1:] if argv is None else argv, last=False)


def command() -> int:
    """:func:`main` as a process, ``deeph-gformer``, that has nothing else to do."""
    keep_numbers()
    return _main(sys.argv[1:], last=True)


def _main(argv: Sequence[str], last: bool) -> int:
    """See :func:`main`; ``last`` is that of :func:`.stopping.stoppable`."""
    words = list(map(str, argv))
    verb = next((word for word in words if not word.startswith("-")), "")
    # others take Ctrl-C as Python does
    signals = SIGNALS if verb in STOPPABLE else (signal.SIGTERM,)
    with plain_streams(), stoppable(signals, last):
        try:
            if not words:
                build_parser().print_help()
                return 0
            return _run(words, verb)
        except Stopped as stop:
            if verb not in STOPPABLE:
                stop.note = "; finished files are whole, the one in work was discarded"
            if os.environ.get("RANK", "0") == os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"deeph-gformer {verb}: {printable(str(stop))}", file=sys.stderr)
            return stop.code


def _short(text: str) -> str:
    """One line of a length that can be read, whatever a file put into it."""
    return text if len(text) <= 1200 else f"{text[:700]} ... {text[-400:]}"


def _run(words: Sequence[str], verb: str) -> int:
    name = "deeph-gformer"
    try:
        _require_verbs(words)
        args, unknown = build_parser().parse_known_args(words)
        name = args.parser.prog
        if unknown:
            args.parser.error(_unknown(unknown[0], args.parser))
        code = int(args.run(args) or 0)
        sys.stdout.flush()
        return code
    except GFormerError as error:
        print(f"{name}: error: {_short(printable(str(error)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{name}: interrupted; finished files are whole, the one in work was discarded",
            file=sys.stderr,
        )
        return 130
    except OSError as error:
        if error.filename is None and error.errno not in _DISK:
            raise
        text = printable(f"{error.filename or _UNNAMED}: {error.strerror or error}")
        print(f"{name}: error: {text}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0][:160]
        advice = ADVICE.get(verb, OTHER_ADVICE)
        print(f"{name}: error: out of memory ({reason}); {advice}", file=sys.stderr)
        return 2
