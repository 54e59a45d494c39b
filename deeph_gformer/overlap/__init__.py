"""Overlaps and edges without a DFT run: two-centre tables, basis files, or the user's own S.

numpy, scipy and h5py only; no torch.
"""

from .atoms import check_shells, structure_from_atoms
from .basis import two_centre
from .basis_files import read_basis_file
from .fit import fit_table
from .neighbours import edge_keys, find_edges
from .provider import (
    BasisOverlap,
    FolderOverlap,
    OverlapProvider,
    TableOverlap,
    load,
)
from .table import load_table, save_table
from .twocentre import PairTable, TwoCentre

__all__ = [
    "BasisOverlap",
    "FolderOverlap",
    "OverlapProvider",
    "PairTable",
    "TableOverlap",
    "TwoCentre",
    "check_shells",
    "edge_keys",
    "find_edges",
    "fit_table",
    "load",
    "load_table",
    "read_basis_file",
    "save_table",
    "structure_from_atoms",
    "two_centre",
]
