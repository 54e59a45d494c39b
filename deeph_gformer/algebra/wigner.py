"""Wigner-3j symbols and path normalisations of every e3nn generation.

The only place of the package that knows them.

A DeepH-E3 checkpoint means something only together with the e3nn it was trained with. Three things
changed between releases (found by comparing the official network layer by layer):

==========  ====================  =============================  =================================
generation  path normalisation    stored ``_w3j`` buffers        sign of some symbols, l1+l2+l3 odd
==========  ====================  =============================  =================================
``0.3``     every path alike      factor sqrt(2 l3 + 1)          old (:data:`FLIPPED`)
``0.4``     every element alike   norm 1                         old
``>=0.5``   every element alike   norm 1                         today's
==========  ====================  =============================  =================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from e3nn import o3

from ..errors import ConfigError, ModelError

__all__ = [
    "Generation",
    "GENERATIONS",
    "FLIPPED",
    "wigner_3j",
    "path_weights",
    "detect_generation",
    "parse_generation",
]

Generation = Literal["0.3", "0.4", ">=0.5"]
GENERATIONS: tuple[Generation, ...] = get_args(Generation)

#: Sorted (l1, l2, l3) up to l = 11 whose symbol has the opposite sign before e3nn 0.5, in every
#: order of the three.
# fmt: off
FLIPPED: frozenset[tuple[int, int, int]] = frozenset({
    (1, 2, 2), (1, 3, 3), (1, 4, 4), (1, 5, 5), (4, 4, 5), (5, 5, 5), (1, 6, 6), (3, 4, 6),
    (4, 5, 6), (5, 6, 6), (1, 7, 7), (3, 5, 7), (4, 6, 7), (5, 7, 7), (1, 8, 8), (3, 6, 8),
    (4, 7, 8), (5, 8, 8), (1, 9, 9), (3, 7, 9), (4, 8, 9), (5, 9, 9), (6, 6, 9), (7, 7, 9),
    (8, 8, 9), (9, 9, 9), (1, 10, 10), (3, 8, 10), (4, 9, 10), (5, 6, 10), (5, 10, 10),
    (6, 7, 10), (7, 8, 10), (8, 9, 10), (9, 10, 10), (1, 11, 11), (3, 9, 11), (4, 10, 11),
    (5, 7, 11), (5, 11, 11), (6, 8, 11), (7, 9, 11), (8, 10, 11), (9, 11, 11)})
# fmt: on

_BUFFER = "_w3j_"


def parse_generation(text: str) -> Generation:
    """A generation from what a user writes: ``0.3``, ``0.4``, ``>=0.5`` or ``0.5`` / ``0.6``.

    Raises:
        ConfigError: anything else.
    """
    for generation in GENERATIONS:
        if text == generation:
            return generation
    if text in ("0.5", "0.6"):
        return ">=0.5"
    raise ConfigError(
        f"e3nn generation '{text}' is unknown; choose 0.3 (e3nn 0.3.x), 0.4 (0.4.x) or '>=0.5'"
    )


@functools.lru_cache(maxsize=4096)
def _symbol(l1: int, l2: int, l3: int, old_sign: bool) -> torch.Tensor:
    symbol = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return -symbol if old_sign and tuple(sorted((l1, l2, l3))) in FLIPPED else symbol


def wigner_3j(
    l1: int, l2: int, l3: int, generation: Generation, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    r"""Real Wigner-3j symbol, Frobenius norm 1, in the sign convention of a generation.

    Args:
        l1: degree, at most 11.
        l2: degree, at most 11.
        l3: degree, \|l1 - l2\| <= l3 <= l1 + l2, at most 11.
        generation: whose sign.
        dtype: of the result.

    Returns:
        (2 l1 + 1, 2 l2 + 1, 2 l3 + 1); a fresh tensor.
    """
    if max(l1, l2, l3) > 11:
        raise ModelError(
            f"Wigner-3j symbols are provided up to l = 11, asked for ({l1}, {l2}, {l3})"
        )
    return _symbol(l1, l2, l3, generation != ">=0.5").to(dtype, copy=True)


def path_weights(fan_in: Sequence[int], generation: Generation) -> list[float]:
    """Factor of each path that ends in the same output irrep, for weights of unit variance.

    Args:
        fan_in: for each of these paths, the number of products it sums (mul1 * mul2 for ``uvw``,
            mul_in for ``Linear``).
        generation: whose normalisation.

    Returns:
        One factor per path: ``1/sqrt(sum(fan_in))``, and ``1/sqrt(n_paths * fan_in)`` for
        generation ``0.3`` (today's ``path_normalization="path"``).
    """
    if generation == "0.3":
        return [1 / math.sqrt(len(fan_in) * n) for n in fan_in]
    return [1 / math.sqrt(sum(fan_in)) for _ in fan_in]


def detect_generation(
    state_dict: Mapping[str, torch.Tensor], where: str = "checkpoint"
) -> Generation | None:
    """The e3nn generation of a DeepH-E3 checkpoint, from its own ``_w3j_l1_l2_l3`` buffers (prefix,
    norm and sign).

    Args:
        state_dict: parameters and buffers.
        where: named in errors.

    Returns:
        The generation; None where the checkpoint cannot tell: it has no such buffer, or a unit-norm
        set that holds no symbol whose sign ever changed (``0.4`` and ``>=0.5`` would then predict
        alike inside the network, but not in the assembly of H).

    Raises:
        ModelError: a buffer fits no generation, or buffers of different generations are mixed.
    """
    votes: dict[Generation, str] = {}
    undecided = False
    for name, buffer in state_dict.items():
        if _BUFFER not in name:
            continue
        try:
            l1, l2, l3 = (int(v) for v in name.rsplit(_BUFFER, 1)[1].split("_"))
            if not (abs(l1 - l2) <= l3 <= l1 + l2 and 0 <= min(l1, l2) and max(l1, l2, l3) <= 11):
                raise ValueError  # before anything of that size is made
        except ValueError:
            raise ModelError(
                f"{where}: buffer '{name}' is no Wigner-3j symbol that e3nn ever stored"
            ) from None
        value = buffer.to(torch.float64)
        today = _symbol(l1, l2, l3, False)
        if value.shape != today.shape:
            raise ModelError(
                f"{where}: buffer '{name}' has shape {tuple(value.shape)} instead of "
                f"{tuple(today.shape)}"
            )
        tolerance = 1e-5
        flips = tuple(sorted((l1, l2, l3))) in FLIPPED
        scale = math.sqrt(2 * l3 + 1)
        old = -today if flips else today
        first = "_compiled_main_out." in name or "_compiled_main_right." in name
        if first and torch.allclose(value, old * scale, atol=tolerance * scale, rtol=0):
            votes.setdefault("0.3", name)
        elif not first and torch.allclose(value, today, atol=tolerance, rtol=0):
            if flips:
                votes.setdefault(">=0.5", name)
            else:
                undecided = True
        elif not first and torch.allclose(value, old, atol=tolerance, rtol=0):
            votes.setdefault("0.4", name)
        else:
            raise ModelError(
                f"{where}: Wigner-3j buffer '{name}' (norm {value.norm():.4f}) fits no e3nn "
                "generation in norm and sign; the checkpoint is "
                "damaged or was made by a modified e3nn"
            )
    if len(votes) > 1:
        raise ModelError(
            f"{where}: Wigner-3j buffers of different e3nn generations are mixed: "
            + ", ".join(f"{g} ({n})" for g, n in votes.items())
        )
    if votes and not (undecided and "0.3" in votes):
        return next(iter(votes))
    if votes:
        raise ModelError(f"{where}: Wigner-3j buffers of different e3nn generations are mixed")
    return None
