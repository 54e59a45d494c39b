"""DFT, stage 1 and refined have one colour each, whoever draws them and beside what."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from deeph_gformer import bands
from deeph_gformer.bands.palette import COLOURS, FURTHER, colours_of, drawable
from deeph_gformer.cli import main
from deeph_gformer.errors import ConfigError
from deeph_gformer.io.folder import write_matrix

from .conftest import graphene
from .test_files import write_folder

#: The role of each colour, as the docs' figures have them.
NAMES = {"#1a1a1a": "DFT", "#d55e00": "stage 1", "#0072b2": "refined"}


@pytest.fixture
def crystal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Folders: dft (with a file of DeepH-E3 beside), first and both (of refine), foreign."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "dft", graphene(mass=0.2), occupation=2)
    for name, t in (("dft", -2.72), ("first", -2.72), ("both", -2.71), ("foreign", -2.73)):
        problem = graphene(t, 0.2)
        if name != "dft":
            write_folder(tmp_path / name, problem, occupation=2)
            (tmp_path / name / "hamiltonians.h5").unlink()
        write_matrix(tmp_path / name, "prediction", problem.h, problem.structure)
    for name, record in (("first", {}), ("both", {"gformer": "b"})):
        path = tmp_path / name / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"deeph_gformer": record}))
    return tmp_path


def drawn(path: str) -> set[str]:
    """The roles whose colours an SVG file has as those of strokes."""
    colours = re.findall(r"stroke: (#[0-9a-f]{6})", pathlib.Path(path).read_text())
    return {NAMES[colour] for colour in colours if colour in NAMES}


@pytest.mark.parametrize(
    "folder, role", [("first", "stage 1"), ("both", "refined"), ("foreign", "stage 1")]
)
def test_a_prediction_looks_the_same_from_the_shell_and_from_python(
    crystal: pathlib.Path, folder: str, role: str
) -> None:
    common = ["--mesh", "3x3x1", "--npoints", "12"]
    assert main(["bands", folder, *common, "-o", "alone.svg"]) == 0
    assert main(["bands", "dft", folder, *common, "-o", "beside.svg"]) == 0
    assert main(["dos", folder, "--mesh", "3x3x1", "-o", "dos.svg"]) == 0
    problem = bands.load(folder, "prediction")
    level = bands.fermi_level(problem, mesh="3x3x1")
    bands.band_structure(problem, "GMKG", 12, fermi=level).plot("python.svg")
    bands.density_of_states(problem, "3x3x1", fermi=level).plot("python_dos.svg")
    for name in ("alone", "dos", "python", "python_dos"):
        assert drawn(f"{name}.svg") - {"DFT"} == {role}, name  # frames and text are black, too
    assert drawn("beside.svg") == {"DFT", "stage 1", role}  # the file in dft is DeepH-E3's


def test_colours_follow_labels_then_styles() -> None:
    dft, first, refined = COLOURS.values()
    assert colours_of(["refined", "DFT", "stage 1"]) == [refined, dft, first]
    assert colours_of(["out refined", "dft DFT", "prediction"]) == [refined, dft, first]
    assert colours_of(["a DFT", "b DFT", "c DFT"]) == [dft, FURTHER[0], FURTHER[1]]
    assert colours_of(["mine", "yours"], ["line", "dots"]) == [dft, refined]
    assert colours_of(["mine", "refined"], ["dots", "line"]) == [FURTHER[0], refined]
    assert colours_of(["", "", ""]) == [dft, first, refined]
    assert len({*COLOURS.values(), *FURTHER}) == len(COLOURS) + len(FURTHER)
    with pytest.raises(ConfigError, match="style 'wavy' is unknown"):
        colours_of(["x"], ["wavy"])  # type: ignore[list-item]


def test_reports_and_evaluations_have_the_same_colours() -> None:
    pytest.importorskip("plotly")
    from deeph_gformer.analysis import plots
    from deeph_gformer.report.figures import band_overlay, error_distance

    from ..report.test_report import evaluation, worst

    for figure in (
        band_overlay(worst()["bands"]),
        error_distance(evaluation()["distance"]),
    ):
        found = {t.name: t.line.color for t in figure.data if t.name in COLOURS}
        assert len(found) >= 2 and found == {name: COLOURS[name] for name in found}
    assert NAMES == {colour: role for role, colour in COLOURS.items()}
    assert (plots._STAGE1, plots._REFINED) == (COLOURS["stage 1"], COLOURS["refined"])


def test_every_title_can_be_drawn(crystal: pathlib.Path) -> None:
    """Formulae of Matplotlib are drawn as such; other text with dollars, and bytes, as text."""
    assert drawable("MoS$_2$") == "MoS$_2$" and drawable("5 $") == r"5 \$"
    for n, title in enumerate(("$x_{y}\\input{z}$", "a\udcff", "$", "$_$", "\x1b[2J")):
        words = ["bands", "dft", "--path", "GM", "--npoints", "2", "--mesh", "2x2x1"]
        assert main([*words, "-o", f"{n}.png", "--title", title]) == 0
        assert pathlib.Path(f"{n}.png").stat().st_size > 1000
