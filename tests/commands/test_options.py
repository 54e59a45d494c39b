"""Options of all verbs: help, words that nobody knows, and what goes together."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex

import pytest

from deeph_gformer.cli import SECTIONS, build_parser, main, verbs
from deeph_gformer.commands.options import Number, Options, Verb, add_options, collect, option
from deeph_gformer.errors import ConfigError

NAMES = [verb.name for verb in verbs()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Below(Options):
    """Shared options."""

    width: float = option(type=Number(above=0), default=0.5, unit="eV", metavar="EV", help="of it")
    table: pathlib.Path | None = option(type=pathlib.Path, writes="file", help="result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Above(Below):
    """Options of a verb."""

    many: tuple[int, ...] = option(type=int, nargs="+", help="numbers")
    each: tuple[str, ...] = option(action="append", help="words")
    on: bool = option(default=False, help="a switch")
    out: pathlib.Path | None = option("-o", "--out", type=pathlib.Path, writes="folder", help="d")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on and self.many:
            raise ConfigError("--on and --many")


def parsed(*words: str) -> Above:
    parser = argparse.ArgumentParser()
    add_options(parser, Above)
    return collect(Above, parser.parse_args(words))


def test_an_object_with_the_options() -> None:
    assert parsed() == Above(width=0.5, many=(), each=(), on=False, table=None, out=None)
    words = "--each a --many 1 2 --each b --width 1e-1 --out new".split()
    assert parsed(*words) == Above(width=0.1, many=(1, 2), each=("a", "b"), out=pathlib.Path("new"))
    with pytest.raises(ConfigError, match="--on and --many"):
        parsed("--on", "--many", "1")


def test_defaults_and_units_are_told() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Above)
    text = " ".join(parser.format_help().split())
    assert "of it (default: 0.5 eV)" in text and "a switch -" in text
    assert text.index("--many") < text.index("--width")  # its own first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--table here", "--table .*here: is a folder; name a file"),
        ("--table file/x", "--table .*file/x: .*file is a file, not a folder"),
        ("-o file", "--out .*file: is a file; name a folder"),
        ("-o file/below/x", "--out .*x: .*file is a file, not a folder"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    words: str, message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message):
        parsed(*words.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "here"]


def test_nothing_prints_the_verbs_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert [line.rstrip(":") for line in text.splitlines() if line.rstrip(":") in SECTIONS.values()]
    for verb in verbs():
        assert f"\n  {verb.name} " in text and verb.help in text and verb.section in SECTIONS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bandz x", "unknown verb 'bandz'; did you mean bands?"),
        ("zzz", "unknown verb 'zzz'; Known: refine"),
        ("overlap fitt", "unknown action of overlap 'fitt'; did you mean fit?"),
        ("gap x --mehs 1", "unknown option --mehs; did you mean --mesh?"),
        ("gap x y", "one word too many: y"),
        ("bands nowhere -o x.gif", "--output: 'x.gif': the name must end in .png, .svg"),
        ("topology nowhere --kind z2 -o z2", "'z2': the name must end in .png, .svg or .pdf"),
        ("refine --preprocesed x", "unknown option --preprocesed; did you mean --preprocessed?"),
        ("refine --preprocesed=x --mod y", "unknown option --preprocesed=x; did you mean"),
        ("refine --mod y", "required: --preprocessed"),
        ("gap", "required: DIR"),
        ("dos x --fermi high", "argument --fermi: 'high': auto, info, or an energy in eV"),
        ("dos x --smearing cold", "argument --smearing: invalid choice: 'cold'"),
        ("refine --preprocessed x --overwrite --skip-existing", "not allowed with"),
    ],
)
def test_wrong_words_are_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words.split())
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2 and not out and len(err.splitlines()) == 1 and message in err


@pytest.mark.parametrize("name", NAMES)
def test_every_option_says_what_it_is(name: str) -> None:
    """Each option has a text, and a value has a name other than its option's in capitals."""

    def walk(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    walk(below)
            else:
                assert action.help and len(action.help) > 5, action.option_strings
                named = action.nargs == 0 or action.choices or action.metavar
                assert named, action.option_strings

    (sub,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    walk(sub.choices[name])


def leaves() -> list[tuple[str, Verb]]:
    """Every verb with options, by what is typed."""
    return [
        (
            f"{verb.name} {one.name}".removesuffix(f" {verb.name}") if verb.actions else verb.name,
            one,
        )
        for verb in verbs()
        for one in verb.actions or (verb,)
    ]


@pytest.mark.parametrize("name, verb", leaves(), ids=[name for name, _ in leaves()])
def test_help_has_examples_that_are_right(
    name: str, verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each example parses, with options that go together, and stands in the help as it is."""
    assert verb.examples
    for example in verb.examples:
        words = shlex.split(example.replace("\\\n", " "))
        assert " ".join(words).startswith(f"{name} ")
        args, unknown = build_parser().parse_known_args(words)
        assert not unknown
        collect(verb.options, args)
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert all(f"  deeph-gformer {example}\n" in text for example in verb.examples)


@pytest.mark.parametrize("name, verb", leaves(), ids=[name for name, _ in leaves()])
def test_help_of_an_option_stands_by_itself(name: str, verb: Verb) -> None:
    """It names the thing, and does not go on where the option's name ends ("of the grid")."""
    for field in dataclasses.fields(verb.options):
        if "argparse" in field.metadata:
            words = str(field.metadata["argparse"]["help"])
            assert not words.startswith(("of ", "between ", "from ")), (name, field.name, words)
