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
