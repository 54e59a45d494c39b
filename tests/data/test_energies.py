"""One on-site energy that is another one, among those of a set."""

from __future__ import annotations

import numpy as np
import pytest

from deeph_gformer.data.energies import Energies, odd_energy, odd_error, onsite_energies

from ..conftest import random_structure

LEVELS = {16: (-12.0, -3.0, -2.8, -2.6, 5.0), 42: (-6.0, -1.5, 0.0, 0.3, 8.0)}


def energies(seed: int, atoms: int = 6, zero: float = 0.0) -> Energies:
    """Energies in a potential that has a value, and a gradient that splits p: they move by 1 eV,
    and by 0.01 eV from what that says. ``zero``: of energy."""
    rng = np.random.default_rng(seed)
    numbers = np.array([16, 42] * (atoms // 2))
    values = []
    for z in numbers.tolist():
        common, split = rng.normal(0, 0.5, 2)
        value = np.array(LEVELS[z]) + common * np.array([1, 0.8, 0.8, 0.8, 0.6])
        values.append(value + split * np.array([0, 1, 0, -1, 0.2]) + rng.normal(0, 0.01, 5) + zero)
    return Energies(f"s{seed}", numbers, tuple(values))


def with_value(one: Energies, atom: int, value: np.ndarray) -> Energies:
    return one._replace(values=(*one.values[:atom], value, *one.values[atom + 1 :]))


@pytest.mark.parametrize(("off", "least"), [(-1.5, 8), (6.0, 9), (-50.0, 10)])
def test_one_energy(off: float, least: int) -> None:
    """Of ten tries: a value within the scatter of 24 atoms may be right."""
    right = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        whole = [energies(10 * seed + n, zero=3.0 * n) for n in range(8)]
        assert odd_energy(whole) == ""
        at, atom, orbital = (int(rng.integers(n)) for n in (8, 6, 5))
        value = whole[at].values[atom].copy()
        value[orbital] += off
        found = odd_energy([*whole[:at], with_value(whole[at], atom, value), *whole[at + 1 :]])
        element = "Mo" if atom % 2 else "S"
        words = f"{whole[at].name}: on-site energy {orbital + 1} of atom {atom + 1} ({element}) is "
        right += found.startswith(f"{words}{value[orbital]:.3f} eV, ")
    assert right >= least


def test_blocks_of_two_elements_that_changed_places() -> None:
    whole = [energies(n) for n in range(8)]
    one = whole[3]
    swapped = one._replace(values=(one.values[1], one.values[0], *one.values[2:]))
    found = odd_energy([*whole[:3], swapped, *whole[4:]])
    assert found.startswith("s3: on-site energy ") and "of atom " in found


def test_few_atoms_and_other_environments_tell_nothing() -> None:
    few = [energies(n, 2) for n in range(6)]
    value = few[0].values[0] + np.array([0, 9.0, 0, 0, 0])
    assert odd_energy([with_value(few[0], 0, value), *few[1:]]) == ""  # 6 atoms of an element
    # a second kind of atoms, 4 eV away, in every structure
    kinds = [energies(n) for n in range(8)]
    other = np.array([4.0, 3.5, 3.5, 3.5, 1.0])
    kinds = [with_value(one, 0, one.values[0] + other) for one in kinds]
    assert odd_energy(kinds) == ""


@pytest.mark.parametrize(("off", "told"), [(0.0, False), (0.1, False), (0.5, True), (-9.0, True)])
def test_one_error_among_few_atoms(off: float, told: bool) -> None:
    rng = np.random.default_rng(0)
    truth = [energies(n, 4) for n in range(3)]
    errors = [one._replace(values=tuple(rng.normal(0, 0.01, (4, 5)))) for one in truth]
    assert odd_error(errors, truth) == ""
    errors[1].values[2][3] -= off
    words = f"s1: on-site energy 4 of atom 3 (S) is {truth[1].values[2][3]:.3f} eV, the prediction "
    assert odd_error(errors, truth).startswith(words) == told
    assert bool(odd_error(errors, truth)) == told
    assert odd_error(errors[1:2], truth[1:2]) == ""  # 20 errors say little


def test_diagonals_of_the_blocks() -> None:
    structure, h, _ = random_structure(2, spinful=True)
    found = onsite_energies("x", structure.numbers, h)
    e = next(n for n, key in enumerate(h.keys.tolist()) if key == [0, 0, 0, 1, 1])
    assert np.array_equal(found.values[1], np.diag(h.block(e)).real)
    assert [len(v) for v in found.values] == (2 * structure.orbital_counts).tolist()
