"""Reference pages made from the code: commands from the parser, settings from their docstrings."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from deeph_gformer import config
from deeph_gformer.cli import SECTIONS, build_parser, verbs
from deeph_gformer.commands.options import Verb

#: Headings of the modules of results.
TITLES = {
    "base": "What all have",
    "models": "Predictions, evaluations, trainings",
    "physics": "Physics of a Hamiltonian",
    "data": "Data",
}

SETTINGS = {
    "GFormerConfig": ("model", "`train`"),
    "TrainingConfig": ("training", "`train`, `train-stage1`"),
    "DataConfig": ("data", "`train`, `train-stage1`, `ablate`"),
    "Stage1Config": ("model", "`train-stage1`"),
}


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def commands_page() -> str:
    """Every sub-command with its help text, as the terminal shows it."""
    parts = [
        "# Commands",
        "",
        "Every command explains itself with `--help`; this page is made from the same text.",
        "Bad input ends with one line and exit code 2. Results go to standard output, notes and",
        "warnings to standard error. `-v` adds what is read and written and how long it takes.",
        "`-q` leaves notes and progress away. `--log-file FILE` keeps all of it, with times.",
        "",
    ]
    parsers = _verbs(build_parser())
    for section, title in SECTIONS.items():
        parts += [f"## {title[0].upper()}{title[1:]}", ""]
        for verb in (verb for verb in verbs() if verb.section == section):
            parser = parsers[verb.name]
            parts += [f"### {verb.name}", "", "```text", parser.format_help().rstrip(), "```", ""]
            for name, inner in _verbs(parser).items():
                parts += [f"#### {verb.name} {name}", ""]
                parts += ["```text", inner.format_help().rstrip(), "```", ""]
    return "\n".join(parts)


def _leaves(every: Iterable[Verb], before: str = "") -> Iterator[tuple[str, Verb]]:
    for verb in every:
        name = f"{before}{verb.name}"
        yield from _leaves(verb.actions, f"{name} ") if verb.actions else [(name, verb)]


def results_page() -> str:
    """Which class each verb's result is, and every key of ``--json``."""
    parts = [
        "# Results",
        "",
        "What a command finds is an object of Python, too: a dataclass, whose fields are the keys",
        "that `--json FILE` writes. `result.to_json()` gives the same plain values, and",
        "`Evaluation.of(json.load(file))` makes the object of them again. Functions of Python return",
        "the same objects: `refine` a `Refinement`, `evaluate` an `Evaluation`. An entry is had as",
        '`result.total` or as `result["total"]`. A key whose value may be missing has `= None`.',
        "",
        "| command | result |",
        "|---|---|",
    ]
    for name, verb in _leaves(verbs()):
        if verb.results:
            kinds = ", ".join(f"{{class}}`~{k.__module__}.{k.__name__}`" for k in verb.results)
            parts.append(f"| `{name}` | {kinds} |".replace("{class}", "{py:class}"))
    modules = ("base", "models", "physics", "data")
    for module in modules:
        parts += ["", f"## {TITLES[module]}", "", "```{eval-rst}"]
        parts += [
            f".. automodule:: deeph_gformer.results.{module}",
            "   :members:",
            "   :no-index:",
            "   :no-undoc-members:",
            "```",
        ]
    return "\n".join([*parts, ""])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "required"


def settings_page() -> str:
    """Every setting with its type, default and docstring."""
    parts = [
        "# Settings",
        "",
        "Settings come from a YAML file, from `--set KEY=VALUE`, or both (`--set` wins).",
        "`deeph-gformer train --list` and `train-stage1 --list` print the same in a terminal.",
        "",
    ]
    for name, (section, users) in SETTINGS.items():
        kind = getattr(config, name)
        parts += [f"## {section} ({users})", "", (kind.__doc__ or "").strip(), ""]
        docs = config.field_docs(kind)
        for field in dataclasses.fields(kind):
            limits = field.metadata.get("within")
            extra = f", within {limits}" if limits else ""
            parts += [
                f"`{section}.{field.name}`",
                f": `{field.type}`, default `{_default(field)}`{extra}",
                "",
                f"  {' '.join(docs.get(field.name, '').split())}",
                "",
            ]
    return "\n".join(parts)


def write_pages(app: Any) -> None:
    """Write the pages where they changed (so that an unchanged page is not read again)."""
    folder = pathlib.Path(app.srcdir) / "reference"
    pages = {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "results.md": results_page(),
    }
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write |x| for a size, which is no substitution of reStructuredText."""
    for number, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith((".. ", "|")):
            lines[number] = line.replace("\\|", "|").replace("|", "\\|")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_bars, priority=1000)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
