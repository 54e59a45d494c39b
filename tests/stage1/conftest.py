"""Nothing of stage 1's tests may leave torch's default type changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def untouched_default_dtype() -> Iterator[None]:
    """The default floating type is what it was."""
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == before
