from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from deeph_gformer.errors import DataError
from deeph_gformer.io.dock import LEGACY_TO_E3NN
from deeph_gformer.overlap.rotation import block_rotation, bond_rotation, harmonics, shell_rotation


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, 3))


@pytest.mark.parametrize("l", range(4))
def test_harmonics_are_those_of_e3nn_in_the_legacy_order(l: int, points: np.ndarray) -> None:
    o3 = pytest.importorskip("e3nn.o3")
    import torch

    # e3nn's (y, z, x): its first axis is y, second z, third x
    theirs = o3.spherical_harmonics(
        l, torch.tensor(points[:, [1, 2, 0]]), normalize=False, normalization="norm"
    ).numpy()
    assert np.allclose(harmonics(l, points)[:, list(LEGACY_TO_E3NN[l])], theirs, atol=1e-12)


@pytest.mark.parametrize("l", range(4))
def test_rotation_matrices_rotate_harmonics(l: int, points: np.ndarray) -> None:
    turns = Rotation.random(5, random_state=3).as_matrix()
    matrices = shell_rotation(l, turns)
    for turn, matrix in zip(turns, matrices):
        assert np.allclose(
            harmonics(l, points @ turn.T), harmonics(l, points) @ matrix.T, atol=1e-12
        )
    assert np.allclose(matrices @ np.swapaxes(matrices, 1, 2), np.eye(2 * l + 1), atol=1e-12)
    assert np.allclose(
        shell_rotation(l, turns[:1] @ turns[1:2]), matrices[:1] @ matrices[1:2], atol=1e-12
    )
    assert np.allclose(shell_rotation(l, -np.eye(3)[None])[0], (-1) ** l * np.eye(2 * l + 1))


def test_bond_rotation_turns_every_direction_up() -> None:
    vectors = np.concatenate(
        [
            np.random.default_rng(0).normal(size=(200, 3)),
            np.eye(3),
            -np.eye(3),
            [[1e-9, 0, -1], [1e-9, 1e-9, 1], [0, 0, 0]],
        ]
    )
    turns = bond_rotation(vectors)
    up = np.linalg.norm(vectors, axis=1)[:, None] * np.array([0, 0, 1.0])
    assert np.allclose(np.einsum("eab,eb->ea", turns, vectors), up, atol=1e-13)
    assert np.allclose(np.linalg.det(turns), 1) and np.allclose(
        turns @ np.swapaxes(turns, 1, 2), np.eye(3), atol=1e-14
    )


def test_block_rotation_is_block_diagonal() -> None:
    turn = Rotation.random(2, random_state=0).as_matrix()
    whole = block_rotation((0, 1, 2), turn)
    assert whole.shape == (2, 9, 9)
    assert (
        np.array_equal(whole[:, 1:4, 1:4], turn)
        and np.array_equal(whole[:, 4:, 4:], shell_rotation(2, turn))
        and not whole[:, :4, 4:].any()
    )


def test_l_above_three_is_refused() -> None:
    with pytest.raises(DataError, match="l = 4"):
        harmonics(4, np.ones((1, 3)))
