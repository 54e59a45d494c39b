"""Small networks of every variant, random graphs, and where the reference data lie."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import torch
from e3nn.o3 import Irreps

from deeph_gformer.algebra.orbitals import Basis, TargetBlocks, make_target_blocks
from deeph_gformer.algebra.wigner import Generation
from deeph_gformer.data.graph import Graph, build_graph
from deeph_gformer.io.blocks import BlockMatrix
from deeph_gformer.io.folder import find_structures, read_folder, read_matrix
from deeph_gformer.io.structure import Structure
from deeph_gformer.stage1.embedded.network import DeepHE3Net
from deeph_gformer.stage1.net_config import NetConfig

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden"
GOLDEN_FOLDERS = {
    "graphene_small_f64": 1e-10,
    "graphene_e3nn044_f64": 1e-10,
    "graphene_e3nn06_f64": 1e-10,
    "bismuthene_soc_f64": 1e-10,
    "graphene_default_f32": 2e-5,
}

needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(),
    reason="needs ../shared/golden beside the repository (official DeepH-E3 predictions)",
)
needs_official = pytest.mark.skipif(
    not os.environ.get("DEEPHE3_ROOT"),
    reason="needs the official DeepH-E3: set DEEPHE3_ROOT to a clone",
)

CARBON = Basis((6,), ((0, 0, 1),), False)
MOTE2 = Basis((42, 52), ((0, 1, 2), (0, 0, 1)), False)
HEAVY = Basis((83,), ((0, 1),), True)
MOS2 = Basis((42, 16), ((0, 2), (0, 1)), True)


def config_for(
    targets: TargetBlocks,
    mid: str = "8x0e+4x1o+3x2e",
    sh: int | str = 2,
    blocks: int = 2,
    parity: bool = True,
    post_node: str | None = None,
    embed: int = 8,
    **options: object,
) -> NetConfig:
    """The arguments DeepH-E3 would write for these targets."""
    sbf = isinstance(sh, str)
    harmonics = (
        sh
        if sbf
        else "+".join(
            f"1x{l}{'e' if l % 2 == 0 or not parity else 'o'}" for l in range(int(sh) + 1)
        )
    )
    if not parity:
        mid = mid.replace("o", "e")
    out = targets.irreps(parity)
    values = dict(
        num_species=len(targets.basis.elements),
        irreps_embed_node=f"{embed}x0e",
        irreps_edge_init=f"{embed}x0e",
        irreps_sh=harmonics,
        irreps_mid_node=mid,
        irreps_post_node=post_node or mid,
        irreps_out_node="1x0e",
        irreps_mid_edge=mid,
        irreps_post_edge=str(out.sort().irreps.simplify()),
        irreps_out_edge=str(out),
        num_block=blocks,
        r_max=6.0,
        no_parity=not parity,
        use_sbf=sbf,
        num_basis=16,
    )
    return NetConfig(**{**values, **options})  # type: ignore[arg-type]


def _all(basis: Basis) -> TargetBlocks:
    return make_target_blocks(basis, "all")


VARIANTS: dict[str, tuple[NetConfig, TargetBlocks]] = {
    "plain": (config_for(_all(CARBON)), _all(CARBON)),
    "one_block": (config_for(_all(CARBON), blocks=1), _all(CARBON)),
    "four_blocks": (
        config_for(_all(CARBON), blocks=4, sh=3, mid="6x0e+3x1o+2x2e+2x3o"),
        _all(CARBON),
    ),
    "lmax6": (
        config_for(_all(CARBON), sh=6, mid="4x0e+2x1o+2x2e+2x3o+2x4e+2x5o+2x6e"),
        _all(CARBON),
    ),
    "bessel": (config_for(_all(CARBON), sh="3x0e+2x1o+3x2e+1x3o"), _all(CARBON)),
    "bessel_no_parity": (config_for(_all(CARBON), sh="2x0e+2x1e+2x2e", parity=False), _all(CARBON)),
    "no_parity": (config_for(_all(CARBON), parity=False), _all(CARBON)),
    "two_elements": (config_for(_all(MOTE2), sh=4, mid="6x0e+4x1o+3x2e+2x3o+2x4e"), _all(MOTE2)),
    "spin_orbit": (
        config_for(
            _all(HEAVY),
            sh=3,
            mid="6x0e+4x1o+3x2e+2x3o",
            post_node="6x0e+4x1o+3x2e+2x3o+2x0o+2x1e+2x2o+2x3e",
        ),
        _all(HEAVY),
    ),
    "spin_orbit_two_elements": (
        config_for(
            _all(MOS2),
            sh=4,
            mid="6x0e+3x1o+3x2e+2x3o+2x4e",
            post_node="6x0e+3x1o+3x2e+2x3o+2x4e+2x0o+2x1e+2x2o+2x3e+2x4o+1x5e",
        ),
        _all(MOS2),
    ),
    "spin_orbit_no_parity": (
        config_for(_all(HEAVY), sh=3, mid="6x0e+4x1o+3x2e+2x3o", parity=False),
        _all(HEAVY),
    ),
    "duplicate_slots": (
        config_for(_all(CARBON), mid="4x0e+2x1o+3x0e+3x1o+2x2e+1x2e"),
        _all(CARBON),
    ),
    "any_order": (config_for(_all(CARBON), mid="3x2e+2x1o+5x0e+2x2e"), _all(CARBON)),
    "both_parities": (config_for(_all(CARBON), mid="4x0e+3x0o+3x1o+2x1e+2x2e+2x2o"), _all(CARBON)),
    "odd_scalars_first": (
        config_for(_all(CARBON), mid="2x2o+3x0o+3x1e+4x0e+2x1o+2x2e", blocks=3),
        _all(CARBON),
    ),
    "high_l_late": (
        config_for(_all(CARBON), sh=1, mid="4x0e+3x1o+2x2e+2x3o", blocks=4),
        _all(CARBON),
    ),
    "diag": (config_for(make_target_blocks(MOTE2, "diag")), make_target_blocks(MOTE2, "diag")),
    "off_diag": (
        config_for(make_target_blocks(MOTE2, "off-diag")),
        make_target_blocks(MOTE2, "off-diag"),
    ),
    "element_pairs": (
        config_for(make_target_blocks(MOTE2, "all", ["42 52", "52 42"])),
        make_target_blocks(MOTE2, "all", ["42 52", "52 42"]),
    ),
    "specify": (
        config_for(
            make_target_blocks(
                MOTE2, "specify", specified=[{"42 52": [2, 2], "42 42": [2, 1]}, {"52 52": [0, 1]}]
            )
        ),
        make_target_blocks(
            MOTE2, "specify", specified=[{"42 52": [2, 2], "42 42": [2, 1]}, {"52 52": [0, 1]}]
        ),
    ),
}


def random_structure(basis: Basis, atoms: int = 5, seed: int = 0) -> Structure:
    """Atoms at least 1.2 Å apart in a skew cell."""
    rng = np.random.RandomState(
        seed
    )  # its stream never changes, and stored reference numbers rest on it
    lattice = np.array([[5.0, 0.3, 0.0], [-0.7, 5.2, 0.4], [0.2, 0.1, 6.0]])
    numbers = np.array([basis.elements[n % len(basis.elements)] for n in range(atoms)])
    images = (
        np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]) @ lattice
    )
    places: list[np.ndarray] = []
    while len(places) < atoms:
        trial = rng.rand(3) @ lattice
        if all(np.linalg.norm(trial - p + images, axis=1).min() > 1.2 for p in places):
            places.append(trial)
    types = tuple(tuple(basis.orbital_types[basis.elements.index(z)]) for z in numbers.tolist())
    return Structure(
        name=f"random{seed}",
        lattice=lattice,
        positions=np.array(places),
        numbers=numbers,
        orbital_types=types,
    )


def random_keys(structure: Structure, radius: float = 4.0) -> np.ndarray:
    """Every pair within ``radius`` (Å), self-loops included; (E, 5), 0-based."""
    cells = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)])
    n = len(structure.numbers)
    keys = np.array([[*cell, i, j] for cell in cells for i in range(n) for j in range(n)])
    return keys[np.linalg.norm(structure.edge_vectors(keys), axis=1) < radius]


def random_graph(
    basis: Basis, atoms: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Graph:
    """A small periodic graph."""
    structure = random_structure(basis, atoms, seed)
    return build_graph(structure, random_keys(structure), basis, dtype)


def random_net(
    config: NetConfig, generation: Generation, seed: int = 0, dtype: torch.dtype = torch.float64
) -> DeepHE3Net:
    """The engine with random parameters, norms and biases included.

    The same numbers on every machine.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        net = DeepHE3Net(config, generation)
    finally:
        torch.set_default_dtype(before)
    rng = np.random.RandomState(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            values = rng.standard_normal(tuple(parameter.shape))
            if ".fc." in name and parameter.dim() == 2:
                values /= parameter.shape[1] ** 0.5
            elif name.endswith("bias") or ".norm." in name:
                values = values * 0.3 + (1.0 if name.endswith("norm.weight") else 0.0)
            parameter.copy_(torch.as_tensor(values, dtype=dtype))
    return net


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) if b.numel() else 0.0


def golden_case(name: str) -> tuple[Structure, np.ndarray, BlockMatrix]:
    """(structure, overlap keys, official prediction) of the first structure of a golden folder."""
    folder = find_structures(GOLDEN / name / "structures")[0]
    structure = read_folder(folder)
    spinful = name.startswith("bismuthene")
    return (
        structure,
        read_matrix(folder, "overlap").keys,
        read_matrix(GOLDEN / name / "predictions" / folder.name, "prediction", structure, spinful),
    )


def irreps_of(text: str) -> Irreps:
    """Shorthand."""
    return Irreps(text)
