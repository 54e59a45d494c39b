"""Data of the interop tests."""

from __future__ import annotations

import pathlib

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"


def golden(name: str) -> pathlib.Path:
    """A folder of golden references; the test is skipped where it is absent."""
    path = SHARED / "golden" / name
    if not path.is_dir():
        pytest.skip(f"golden references are not beside the repository ({path})")
    return path


def orbital_file(element: str) -> pathlib.Path:
    """A numerical basis of the real data."""
    path = SHARED / "data" / "basis" / f"{element}.orb"
    if not path.is_file():
        pytest.skip(f"real data are not beside the repository ({path})")
    return path


@pytest.fixture(scope="session")
def carbon():
    """A stage 1 for carbon, alone."""
    import deeph_gformer

    return deeph_gformer.load(None, golden("graphene_small_f64") / "model")


@pytest.fixture(scope="session")
def carbon_overlap():
    """Overlaps of the basis that stage 1 was trained on."""
    from deeph_gformer import overlap

    return overlap.load(orbital_file("C"))
