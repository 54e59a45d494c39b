"""Overlaps of Gaussian orbitals without any code of the package.

Products of polynomials and Gaussians, integrated exactly by Gauss-Hermite rules.
"""

from __future__ import annotations

import math

import numpy as np

#: Cartesian polynomials of the real solid harmonics in the order of legacy files, unnormalised,
#: signs positive.
POLYNOMIALS = {
    0: [lambda x, y, z: 1 + 0 * x],
    1: [lambda x, y, z: x, lambda x, y, z: y, lambda x, y, z: z],
    2: [
        lambda x, y, z: 2 * z * z - x * x - y * y,
        lambda x, y, z: x * x - y * y,
        lambda x, y, z: x * y,
        lambda x, y, z: x * z,
        lambda x, y, z: y * z,
    ],
    3: [
        lambda x, y, z: z * (2 * z * z - 3 * x * x - 3 * y * y),
        lambda x, y, z: x * (4 * z * z - x * x - y * y),
        lambda x, y, z: y * (4 * z * z - x * x - y * y),
        lambda x, y, z: z * (x * x - y * y),
        lambda x, y, z: x * y * z,
        lambda x, y, z: x * (x * x - 3 * y * y),
        lambda x, y, z: y * (3 * x * x - y * y),
    ],
}


def overlap_block(shells_a, shells_b, vector) -> np.ndarray:
    """<a at 0 | b at vector> of normalised orbitals r^l Y exp(-α r²).

    Shells are (l, α) pairs, lengths in one unit.
    """
    x, w = np.polynomial.hermite.hermgauss(12)
    grid = np.stack(np.meshgrid(x, x, x, indexing="ij")).reshape(3, -1)
    weight = (w[:, None, None] * w[None, :, None] * w[None, None, :]).reshape(-1)
    vector = np.asarray(vector, float)

    def integral(f, alpha, g, beta, shift):
        total = alpha + beta
        points = grid / math.sqrt(total) + (beta * shift / total)[:, None]
        factor = math.exp(-alpha * beta / total * float(shift @ shift)) / total**1.5
        return factor * float((weight * f(*points) * g(*(points - shift[:, None]))).sum())

    def norm(f, alpha):
        return math.sqrt(integral(f, alpha, f, alpha, np.zeros(3)))

    rows = [(f, a) for l, a in shells_a for f in POLYNOMIALS[l]]
    columns = [(g, b) for l, b in shells_b for g in POLYNOMIALS[l]]
    return np.array(
        [
            [integral(f, a, g, b, vector) / norm(f, a) / norm(g, b) for g, b in columns]
            for f, a in rows
        ]
    )
