"""DeepH-E3's evaluation ini: every key of ``[basic]`` and ``[data]``, its comments and its
defaults, and a message with the line for each mistake.
"""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import os
import pathlib
import re

from ..errors import ConfigError
from ..io.files import read_text

__all__ = ["EvalIni", "read_eval_ini"]

#: Keys of DeepH-E3's evaluation ini (lower case, as configparser sees them) and their defaults;
#: None marks those that must be filled in.
_KEYS: dict[str, dict[str, str | None]] = {
    "basic": {
        "device": "cpu",
        "dtype": "float",
        "trained_model_dir": None,
        "output_dir": None,
        "target": "hamiltonian",
        "inference": "True",
        "test_only": "False",
    },
    "data": {
        "graph_dir": "",
        "dft_data_dir": "",
        "processed_data_dir": None,
        "save_graph_dir": "",
        "target_data": "hamiltonian",
        "dataset_name": "",
        "get_overlap": "True",
    },
}
_SPELLING = {"dft_data_dir": "DFT_data_dir"}
_DTYPES = {"float": "float32", "double": "float64"}
_SECTION = re.compile(r"\[(?P<name>[^]]+)\]")
_OPTION = re.compile(r"(?P<name>[^\s#;=:\[][^=:]*?)\s*[=:]")


@dataclasses.dataclass(frozen=True)
class EvalIni:
    """What an evaluation ini asks for.

    Attributes:
        path: the file.
        device: torch device.
        device_place: file and line, for messages.
        dtype: ``float32`` or ``float64`` (the ini says float or double).
        trained_model_dir, output_dir, processed_data_dir: as given; relative paths count from the
            working directory, as in DeepH-E3.
        inference: edges from ``overlaps.h5`` (True) or ``hamiltonians.h5`` (False, with a test
            result).
        test_only: write no predictions.
        notes: sentences about keys that have no effect here.
    """

    path: pathlib.Path
    device: str
    dtype: str
    trained_model_dir: pathlib.Path
    output_dir: pathlib.Path
    processed_data_dir: pathlib.Path
    inference: bool
    test_only: bool
    notes: tuple[str, ...] = ()
    device_place: str = ""


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Line number (from 1) of each section, under (section, ""), and of each option, under
    (section, option).
    """
    places: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        head, option = _SECTION.match(line), _OPTION.match(line)
        if head:
            section = head["name"]
            places.setdefault((section, ""), number)
        elif option:
            places.setdefault((section, option["name"].lower()), number)
    return places


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return (
        f"; did you mean {_SPELLING.get(close[0], close[0])}?"
        if close
        else f"; there are {', '.join(_SPELLING.get(k, k) for k in known)}"
    )


class _Reader:
    """The values of one file, with the place of each for messages."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        text = read_text(
            path,
            2**20,
            "this is DeepH-E3's evaluation ini, with the sections [basic] and [data]",
            ConfigError,
        )
        self.places = _lines(text)
        self.parser = configparser.ConfigParser(inline_comment_prefixes=(";",))
        try:
            self.parser.read_string(text, source=str(path))
            for section in self.parser.sections():
                self._check_section(section)
        except configparser.Error as error:
            raise ConfigError(f"{path}: not an ini file ({' '.join(str(error).split())})") from None

    def where(self, section: str, key: str = "") -> str:
        """``file, line N``, as near as there is one."""
        number = self.places.get((section, key)) or self.places.get((section, ""))
        return f"{self.path}, line {number}" if number else str(self.path)

    def _check_section(self, section: str) -> None:
        if section not in _KEYS:
            raise ConfigError(
                f"{self.where(section)}: section [{section}] is unknown to DeepH-E3's "
                "evaluation; there are [basic] and [data]"
            )
        for key in self.parser[section]:
            if key not in _KEYS[section]:
                other = next((s for s in _KEYS if key in _KEYS[s]), None)
                hint = (
                    f"; it belongs into [{other}]" if other else _suggest(key, list(_KEYS[section]))
                )
                raise ConfigError(
                    f"{self.where(section, key)}: key '{key}' is unknown in [{section}]{hint}"
                )

    def text(self, section: str, key: str) -> str:
        """A value or its default."""
        default = _KEYS[section][key]
        try:
            value = self.parser.get(section, key, fallback=default or "").strip()
        except configparser.InterpolationError:
            raise ConfigError(
                f"{self.where(section, key)}: {_SPELLING.get(key, key)} holds a %, which in "
                "DeepH-E3's ini stands for %(name)s, another key of "
                "its section; write %% for a plain %"
            ) from None
        if "\n" in value:
            raise ConfigError(
                f"{self.where(section, key)}: {_SPELLING.get(key, key)} goes on in the next "
                "line, because that is indented; start each key at "
                "the beginning of its line"
            )
        if not value and default is None:
            state = "is empty" if (section, key) in self.places else f"is missing in [{section}]"
            raise ConfigError(
                f"{self.where(section, key)}: {_SPELLING.get(key, key)} {state}; it must name a "
                "folder"
            )
        return value

    def flag(self, section: str, key: str) -> bool:
        """A boolean, in the spellings that configparser knows."""
        value = self.text(section, key) or str(_KEYS[section][key])
        if value.lower() not in self.parser.BOOLEAN_STATES:
            raise ConfigError(f"{self.where(section, key)}: {key} = {value}: write True or False")
        return self.parser.BOOLEAN_STATES[value.lower()]

    def choice(self, section: str, key: str, allowed: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self.text(section, key) or str(_KEYS[section][key])
        if value not in allowed:
            raise ConfigError(
                f"{self.where(section, key)}: {key} = {value}: only {' or '.join(allowed)} is "
                "supported"
            )
        return value


def _refuse_graphs(reader: _Reader) -> list[str]:
    """Refuse cached graphs and DFT preprocessing; notes about keys that have no effect."""
    graph, dft, save = (
        reader.text("data", key) for key in ("graph_dir", "dft_data_dir", "save_graph_dir")
    )
    if graph:
        raise ConfigError(
            f"{reader.where('data', 'graph_dir')}: graph_dir = {graph}: a cached graph is a "
            "pickle of PyTorch Geometric objects; it runs code when it is loaded and fits one "
            "PyG version only, so it is refused. Leave graph_dir empty and set "
            "processed_data_dir: edges are built from it in seconds"
        )
    if dft:
        raise ConfigError(
            f"{reader.where('data', 'dft_data_dir')}: DFT_data_dir = {dft}: reading raw DFT "
            "output is not part of this program. Preprocess it with DeepH-pack's "
            "deeph-preprocess or with DeepH-dock, then set "
            "processed_data_dir and leave DFT_data_dir empty"
        )
    cached = (
        sorted(pathlib.Path(save).glob("HGraph-*.pkl"))
        if save and not save.endswith(".pkl")
        else []
    )
    processed = (
        reader.parser.get("data", "processed_data_dir", fallback="", raw=True) or ""
    ).strip()
    if (cached or save.endswith(".pkl")) and not processed:
        raise ConfigError(
            f"{reader.where('data', 'save_graph_dir')}: {cached[0] if cached else save} is a "
            "cached graph, a pickle that runs code when it is loaded; refused. Set "
            "processed_data_dir to the structure folders it was made from"
        )
    notes = [
        f"save_graph_dir holds {path.name}: not read, edges come from processed_data_dir"
        for path in cached[:1]
    ]
    if save and not cached:
        notes.append(
            "save_graph_dir and dataset_name have no effect: no graph file is needed or written"
        )
    return notes


def read_eval_ini(path: str | os.PathLike[str]) -> EvalIni:
    """Read DeepH-E3's evaluation ini.

    Raises:
        ConfigError: no such file, no ini, an unknown or missing key (with its line), a cached graph
            or raw DFT data instead of structure folders.
    """
    reader = _Reader(pathlib.Path(path))
    notes = _refuse_graphs(reader)
    reader.choice("basic", "target", ("hamiltonian",))
    reader.choice("data", "target_data", ("hamiltonian",))
    reader.flag("data", "get_overlap")
    inference, test_only = reader.flag("basic", "inference"), reader.flag("basic", "test_only")
    if test_only and inference:
        raise ConfigError(
            f"{reader.where('basic', 'test_only')}: test_only = True needs inference = False: a "
            "test compares with hamiltonians.h5"
        )
    return EvalIni(
        reader.path,
        reader.text("basic", "device") or "cpu",
        _DTYPES[reader.choice("basic", "dtype", tuple(_DTYPES))],
        pathlib.Path(reader.text("basic", "trained_model_dir")),
        pathlib.Path(reader.text("basic", "output_dir")),
        pathlib.Path(reader.text("data", "processed_data_dir")),
        inference,
        test_only,
        tuple(notes),
        reader.where("basic", "device"),
    )
