"""Structure folders and block-sparse matrices on disk and in memory (numpy and h5py only)."""

from .blocks import BlockMatrix
from .files import atomic_path
from .folder import find_structures, read_folder, read_matrix
from .structure import Structure

__all__ = [
    "BlockMatrix",
    "Structure",
    "atomic_path",
    "find_structures",
    "read_folder",
    "read_matrix",
]
