"""Basis files: one wrong value is told, kinks are not taken for one."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from deeph_gformer.errors import DataError
from deeph_gformer.overlap.ion import read_ion, read_ion_xml
from deeph_gformer.overlap.pao import read_pao
from deeph_gformer.overlap.smooth import require_fitting, require_uniform

from .test_basis import ion_xml_text
from .test_basis_files import ion_text, pao_text

RADIUS = np.linspace(0, 5, 500)
LOGARITHMIC = np.exp(np.linspace(-7.5, np.log(9), 500))


def split(radius: np.ndarray, l: int, match: float) -> np.ndarray:
    """R / r^l of a second zeta as SIESTA makes it: a first one, inside ``match`` less a parabola
    that fits value and slope; the curvature jumps there, and the file ends with zeros."""
    first = np.exp(-0.8 * radius**2) * (5.01 - radius) ** 2
    value, slope = (
        np.interp(match, radius, first),
        np.interp(match, radius, np.gradient(first, radius)),
    )
    b = -slope / (2 * match)
    inside = first - (value + b * match**2 - b * radius**2)
    return np.array([float(f"{v:.12e}") for v in np.where(radius < match, inside, 0.0)])


@pytest.mark.parametrize(("radius", "least"), [(RADIUS, 1e-4), (LOGARITHMIC, 1e-3)])
@pytest.mark.parametrize("l", [0, 2])
def test_kinks_are_right_and_a_digit_is_not(
    radius: np.ndarray, least: float, l: int, tmp_path: pathlib.Path
) -> None:
    weight, rng = radius ** (l + 1), np.random.default_rng(l)
    told = 0
    for match in np.linspace(2.1, 3.9, 19):
        values = split(radius, l, match)
        require_fitting(radius, values, weight, 1e-5, 3, tmp_path / "x")
        size = np.abs(values * weight)
        at = int(rng.choice(np.flatnonzero(size > 0.01 * size.max())[10:-6]))
        for off in (-least, least, 1e-2):
            wrong = values.copy()
            wrong[at] += off * size.max() / weight[at]
            with pytest.raises(
                DataError, match=rf"x: a value of orbital 3 at {radius[at]:.4g} bohr"
            ):
                require_fitting(radius, wrong, weight, 1e-5, 3, tmp_path / "x")
        wrong = values.copy()
        wrong[[at, at + 1]] = wrong[[at + 1, at]]
        if np.abs((wrong - values) * weight).max() > 4 * least * size.max():
            told += 1
            with pytest.raises(DataError, match="does not fit those beside it"):
                require_fitting(radius, wrong, weight, 1e-5, 3, tmp_path / "x")
    assert told


def changed(text: str, row: int, column: int, factor: float) -> str:
    """A text with one number of one line another."""
    lines = text.splitlines()
    words = lines[row].split()
    words[column] = repr(float(words[column]) * factor)
    lines[row] = "  ".join(words)
    return "\n".join(lines)


def test_one_number_of_a_file(tmp_path: pathlib.Path) -> None:
    """A value by 1e-4 of itself, and a radius by a hundredth of a step."""
    ion, pao, xml = (
        ion_text(6, ((0, 0.6), (1, 0.7))),
        pao_text(6),
        ion_xml_text(6, ((2, 0, 1, 0, 0.6),)),
    )
    for name, text, mark, read in (
        ("C.ion", ion, "#orbital l, n, z", read_ion),
        ("C.ion.xml", xml, "<data>", read_ion_xml),
        ("C.pao", pao, "<pseudo.atomic.orbitals.L=0", lambda p: read_pao(p, "s1")),
    ):
        if name.endswith("xml"):
            pytest.importorskip("sisl")
        path, lines = tmp_path / name, text.splitlines()
        path.write_text(text)
        read(path)  # type: ignore[operator]
        rows = len(lines)
        start = next(n for n, line in enumerate(lines) if mark in line)
        row = start + (min(150, rows - start - 20) if not name.endswith("pao") else 320)
        columns = (1, 2) if name.endswith("pao") else (0, 1)
        for column, factor, words in zip(
            columns, (1 + 1e-4, 1 + 1e-3), ("no equal steps", "does not fit"), strict=True
        ):
            path.write_text(changed(text, row, column, factor))
            with pytest.raises(DataError, match=rf"{name}: .*{words}"):
                read(path)  # type: ignore[operator]


def test_steps() -> None:
    require_uniform(RADIUS, RADIUS, "x")
    wrong = RADIUS.copy()
    wrong[77] += 1e-4 * RADIUS[1]
    with pytest.raises(
        DataError, match=f"x: its radii have no equal steps at {wrong[77]:.4g} bohr"
    ):
        require_uniform(wrong, wrong, "x")
