"""Output files of DFT codes -> structure folders.

>>> from deeph_gformer.interop.dft import read_run
>>> run = read_run("run/graphene.scfout")                               # doctest: +SKIP
>>> run.hamiltonian, run.overlap, run.structure.info["fermi_level"]     # doctest: +SKIP
"""

from .registry import DFTReader, readers
from .run import DFTRun
from .runs import convert_runs, find_runs, read_run

__all__ = ["DFTReader", "DFTRun", "convert_runs", "find_runs", "read_run", "readers"]
