"""Band files that other programs read: ``openmx.Band`` (OpenMX, DeepH-pack, bandgnu13) and
DeepH-dock's ``band.h5``."""

from __future__ import annotations

import os
import pathlib

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..io.files import write_json, write_text
from ..io.hdf5.writing import atomic_hdf5
from .result import Bands

__all__ = ["write_bands", "write_openmx_band", "write_dock_band"]

_HARTREE_EV = 27.211386245988
_BOHR_ANGSTROM = 0.529177210903


def _known(bands: Bands, what: str) -> tuple[NDArray[np.float64], float]:
    """(K, B) of the bands known at every k-point, and the Fermi level, eV.

    Raises:
        ConfigError: there is none, or no Fermi level.
    """
    if bands.fermi_eV is None:
        raise ConfigError(
            f"{what} holds a Fermi level; give --electrons N, --fermi info or --fermi VALUE"
        )
    known = np.isfinite(bands.energies_eV).all(axis=0)
    if not known.any():
        raise ConfigError(
            f"{what}: no band of '{bands.label}' is known at every k-point; write .json instead"
        )
    return bands.energies_eV[:, known], bands.fermi_eV


def _segments(bands: Bands) -> list[tuple[int, int, str, str]]:
    """(start, stop, first label, last label) of each segment.

    The labels of OpenMX's file are plain words.
    """
    names = dict(bands.labels)
    return [
        (start, stop, names.get(start, "?"), names.get(stop - 1, "?"))
        for start, stop in bands.path.segments
    ]


def write_openmx_band(path: str | os.PathLike[str], bands: Bands) -> None:
    """OpenMX's band file: Hartree, reciprocal vectors in 1/Bohr, segments, then two lines a
    k-point.

    Raises:
        ConfigError: no Fermi level, or no band known at every k-point.
    """
    energies, fermi = _known(bands, str(path))
    reciprocal = 2 * np.pi * np.linalg.inv(bands.lattice).T * _BOHR_ANGSTROM
    lines = [
        f"{energies.shape[1]} 0 {fermi / _HARTREE_EV:.12f}",
        " ".join(f"{v:.12f}" for v in reciprocal.ravel()),
        str(len(bands.path.segments)),
    ]
    for start, stop, first, last in _segments(bands):
        ends = " ".join(
            f"{v:.12f}" for v in np.concatenate([bands.kpoints[start], bands.kpoints[stop - 1]])
        )
        lines.append(f"{stop - start} {ends} {first} {last}")
    for k, row in zip(bands.kpoints, energies, strict=True):
        lines.append(f"{energies.shape[1]} " + " ".join(f"{v:.12f}" for v in k))
        lines.append(" ".join(f"{v / _HARTREE_EV:.12f}" for v in row))
    write_text(path, "\n".join(lines) + "\n")


def write_dock_band(path: str | os.PathLike[str], bands: Bands) -> None:
    """DeepH-dock's band file, with its names and units: energies relative to E_F in eV (B, K), path
    lengths in 1/Å without 2π.

    Raises:
        ConfigError: no Fermi level, or no band known at every k-point.
    """
    absolute, fermi = _known(bands, str(path))
    energies = absolute - fermi
    pieces = _segments(bands)
    top, bottom = energies.max(axis=0), energies.min(axis=0)
    crossing = bool(((bottom <= 0) & (top >= 0)).any())
    gap = (
        0.0
        if crossing or not (top < 0).any() or not (bottom > 0).any()
        else float(bottom[bottom > 0].min() - top[top < 0].max())
    )
    ends = [bands.distances[s] for s, *_ in pieces] + [bands.distances[-1]]
    content = {
        "rlv": 2 * np.pi * np.linalg.inv(bands.lattice).T,
        "spinful": bands.electrons_per_band == 1,
        "band_quantity": energies.shape[1],
        "fermi_energy_before_shift_eV": fermi,
        "fermi_energy_eV": 0.0,
        "k_path_quantity": len(pieces),
        "k_path_density_list": [stop - start for start, stop, *_ in pieces],
        "hsk_vector_list": np.array(
            [[bands.kpoints[start], bands.kpoints[stop - 1]] for start, stop, *_ in pieces]
        ),
        "kpoints_quantity": len(bands.kpoints),
        "kpoints_frac_list": bands.kpoints,
        "kpoints_distance_list": bands.distances / (2 * np.pi),
        "hsk_distance_list": np.array(ends) / (2 * np.pi),
        "band_data": energies.T,
        "band_gap": gap,
        "is_metal": crossing,
    }
    symbols = [
        [("GAMMA" if name == "Γ" else name) for name in (first, last)]
        for _, _, first, last in pieces
    ]
    with atomic_hdf5(path, 2 * energies.nbytes + 128 * len(bands.kpoints) + 2**16) as handle:
        for name, value in content.items():
            handle.create_dataset(name, data=value)
        handle.create_dataset("hsk_symbol_list", data=symbols, dtype=h5py.string_dtype())


def write_bands(path: str | os.PathLike[str], bands: Bands) -> None:
    """Write bands in the format that the name asks for: ``*.ase.json``, ``*.json``, ``*.Band``,
    ``*.h5``, or a figure (.png, .svg, .pdf).

    Raises:
        ConfigError: no format belongs to the name, or it needs what the bands lack.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if path.name.lower().endswith(".ase.json"):
        from ase.io.jsonio import encode

        write_text(path, encode(bands.to_ase()))
    elif suffix == ".json":
        write_json(path, bands.to_json())
    elif suffix == ".band":
        write_openmx_band(path, bands)
    elif suffix in (".h5", ".hdf5"):
        write_dock_band(path, bands)
    elif suffix in (".png", ".svg", ".pdf"):
        bands.plot(path)
    else:
        raise ConfigError(
            f"{path}: no band format ends like this; there are .png, .svg, .pdf, .json, "
            f".ase.json (ASE), .Band (OpenMX, DeepH-pack) and .h5 (DeepH-dock)"
        )
