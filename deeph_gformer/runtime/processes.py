"""``torchrun --nproc-per-node N -m deeph_gformer refine ...``.

Processes that share structures, or take one each.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, DataError, GFormerError
from ..io.structure import Structure
from .communicator import Communicator

__all__ = [
    "start_processes",
    "end_processes",
    "process_device",
    "same_device",
    "same_input",
    "same_structure",
    "agree",
    "agreed",
    "local_processes",
]


def _environment() -> tuple[int, int]:
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(
            "RANK and WORLD_SIZE must be integers; they are set by torchrun"
        ) from None


def process_device(name: str) -> str:
    """The device of this process: with several processes and GPUs, each has its own.

    Raises:
        ConfigError: fewer GPUs than processes on this machine (NCCL wants one each), or a torch
            without NCCL.
    """
    if _environment()[1] == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if not torch.distributed.is_nccl_available():
        raise ConfigError(
            f"torch {torch.__version__} has no NCCL, through which processes on GPUs talk: "
            "install a build that has it, start one process, "
            "or give --device cpu"
        )
    if name not in ("auto", "cuda"):
        return name
    processes, devices = local_processes(), torch.cuda.device_count()
    if processes > devices:
        raise ConfigError(
            f"{processes} processes share {devices} GPU(s): start one per GPU "
            f"(--nproc-per-node {devices}), or give --device cpu"
        )
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"


def same_device(comm: Communicator, device: torch.device) -> None:
    """All processes work on GPUs, each on its own, or all on CPUs.

    Raises:
        ConfigError: they do not.
    """
    if comm.size == 1:
        return
    kinds = comm.objects(device.type)
    if len(set(kinds)) > 1:
        without = ", ".join(str(rank) for rank, kind in enumerate(kinds) if kind == "cpu")
        raise ConfigError(
            f"processes {without} have no GPU and the others do: start processes on machines "
            "with GPUs only, or give --device cpu"
        )
    if device.type == "cuda":
        places = comm.objects((os.uname().nodename, str(device)))
        if len(set(places)) < comm.size:
            raise ConfigError(
                f"several processes would use {device} of one machine: give --device cuda "
                "without a number, and each takes its own"
            )


def local_processes() -> int:
    """How many processes share this machine's memory."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if _environment()[1] > 1 else 1


def start_processes() -> Communicator:
    """Join the processes that torchrun started; without it there is one.

    A process that is told to stop (torchrun does so when another one dies) removes its temporary
    files first, and one of them says what happened.
    """
    rank, size = _environment()
    if size == 1:
        return Communicator()
    if not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(
                int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            )
        nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
        first = Communicator(rank, size).objects(os.getpid())[0]

        def stop(number: int, frame: object) -> None:
            """Say so once, by the first process or, where that is the dead one, by the second.

            Leave through the ``finally`` blocks.
            """
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_IGN)  # the keyboard's is followed by torchrun's
            if rank == 0 or (rank == 1 and not os.path.exists(f"/proc/{first}")):
                print(
                    "deeph-gformer: stopped, another process ended or the run was cancelled "
                    "(memory?); finished structures are whole, go on "
                    "with --skip-existing",
                    file=sys.stderr,
                    flush=True,
                )
            sys.exit(128 + number)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    return Communicator(rank, size)


def end_processes() -> None:
    """Leave the processes that :func:`start_processes` joined.

    Without it NCCL complains at the end.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def same_input(comm: Communicator, what: str, values: Mapping[str, Any]) -> None:
    """Every process must have read the same.

    Args:
        comm: the processes.
        what: for the message.
        values: arrays and plain values by name.

    Raises:
        DataError: names the first difference.
    """
    if comm.size == 1:
        return
    digests = {}
    for name, value in values.items():
        data = (
            np.ascontiguousarray(value).tobytes()
            if isinstance(value, np.ndarray)
            else repr(value).encode()
        )
        digests[name] = hashlib.sha256(data).hexdigest()
    for rank, other in enumerate(comm.objects(digests)):
        different = [name for name in digests if other.get(name) != digests[name]]
        if different:
            raise DataError(
                f"{what}: processes {comm.rank} and {rank} read different {different[0]}; all "
                "must see the same files (one shared folder, nobody writing to it)"
            )


def same_structure(comm: Communicator, structure: Structure) -> None:
    """:func:`same_input` for one structure."""
    same_input(
        comm,
        f"structure '{structure.name}'",
        {
            "lattices": structure.lattice,
            "positions": structure.positions,
            "elements": structure.numbers,
        },
    )


def agree(comm: Communicator, error: GFormerError | None) -> None:
    """Stop everywhere when one process met an error: it is raised on rank 0, the others end with
    exit code 2.

    Raises:
        GFormerError: the error of the first process that has one.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return
    found = next((e for e in comm.objects(error) if e is not None), None)
    if found is not None:
        if comm.rank == 0:
            raise found
        raise SystemExit(2)


@contextlib.contextmanager
def agreed(comm: Communicator) -> Iterator[None]:
    """What every process does for itself; an error in the block is told once, see :func:`agree`."""
    error: GFormerError | None = None
    try:
        yield
    except GFormerError as raised:
        error = raised
    agree(comm, error)
