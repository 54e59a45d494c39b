"""Strong and weak scaling over a network with a delay, on one machine.

    python benchmarks/network.py --overlap TABLE [--sizes 1,2,4,8] [--delays 0,10] [--json FILE]

Linux, as root: each process gets a network namespace of its own (``ip netns``), joined by TUN
devices. This script carries their packets: each waits for the delay before it arrives, and bytes
are counted. (``tc netem`` does the first in the kernel, where that was built with it.) Processes
share the cores that there are, so what counts is processor time, bytes and memory of each; the
clock tells what the delay adds. Strong: one twisted bilayer, ``--mn``. Weak: a smaller one,
``--weak-mn``, repeated as often as there are processes.
"""

from __future__ import annotations

import argparse
import fcntl
import heapq
import json
import os
import pathlib
import selectors
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from large import build

MODELS = pathlib.Path(__file__).parents[1] / "examples/systems/models/bilayer_graphene"
MTU = 32_000
_SET_NAME, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001  # ioctl TUNSETIFF; IFF_TUN | IFF_NO_PI


def ip(*words: object) -> None:
    """``ip`` of iproute2."""
    subprocess.run(["ip", *map(str, words)], check=True)


class Network:
    """Namespaces ``dhg0``, ``dhg1``, ... with addresses 10.77.0.1, 10.77.0.2, ...

    Args:
        size: how many.
        delay: of each packet, s.

    Attributes:
        sent: bytes that each one sent, headers of TCP and IP included.
    """

    def __init__(self, size: int, delay: float) -> None:
        self.size, self.delay, self.sent = size, delay, [0] * size
        self._files: list[int] = []
        self._end = threading.Event()
        self._carrier = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Network:
        for n in range(self.size):
            name = f"dhg{n}"
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self._files.append(device)
            fcntl.ioctl(device, _SET_NAME, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
            ip("netns", "add", name)
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{n + 1}/24", "dev", name)
            ip("-n", name, "link", "set", name, "mtu", MTU, "txqueuelen", 10_000, "up")
            ip("-n", name, "link", "set", "lo", "up")
        self._carrier.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._carrier.is_alive():
            self._carrier.join()
        for n, device in enumerate(self._files):
            os.close(device)
            subprocess.run(["ip", "netns", "del", f"dhg{n}"], check=False)

    def _carry(self) -> None:
        """Packets from one device to another, each after its delay."""
        chooser, waiting, number = selectors.DefaultSelector(), [], 0
        for n, device in enumerate(self._files):
            chooser.register(device, selectors.EVENT_READ, n)
        while not self._end.is_set():
            pause = 0.05 if not waiting else max(0.0, waiting[0][0] - time.monotonic())
            for key, _ in chooser.select(min(pause, 0.05)):
                for _ in range(64):
                    try:
                        packet = os.read(key.fd, MTU)
                    except BlockingIOError:
                        break
                    if packet[0] >> 4 != 4 or not 1 <= packet[19] <= self.size:
                        continue  # neighbour discovery of IPv6
                    self.sent[key.data] += len(packet)
                    number += 1
                    due = time.monotonic() + self.delay
                    heapq.heappush(waiting, (due, number, packet[19] - 1, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(waiting)
                try:
                    os.write(self._files[target], packet)
                except BlockingIOError:
                    pass  # lost, as on a network; TCP sends it again


def refine(
    args: argparse.Namespace, cell: pathlib.Path, size: int, delay: float, folder: pathlib.Path
) -> dict[str, Any]:
    """One run: seconds, and of each process processor time, bytes sent and peak memory."""
    record = folder / "record.json"
    words = ["-m", "deeph_gformer", "refine", "--preprocessed", str(cell), "--device", "cpu"]
    words += ["--overlap", str(args.overlap), "--stage1", str(args.model / "stage1"), "--model"]
    words += [str(args.model / "gformer"), "--output", str(folder / "out"), "--overwrite"]
    children: list[int] = []
    start = time.perf_counter()
    with Network(size, delay / 1e3) as network:
        for rank in range(size):
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "10.77.0.1",
                "MASTER_PORT": "29577",
                "GLOO_SOCKET_IFNAME": f"dhg{rank}",
            }
            if size == 1:
                del environment["RANK"], environment["WORLD_SIZE"]
            command = ["ip", "netns", "exec", f"dhg{rank}", sys.executable, *words]
            command += ["--json", str(record)] if rank == 0 else []
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            children.append(process.pid)
        used = [os.wait4(child, 0) for child in children]
        seconds = time.perf_counter() - start
        sent = list(network.sent)
    if any(status for _, status, _ in used):
        raise SystemExit("a process failed")
    found = json.loads(record.read_text())["structures"][0]
    return {
        "atoms": found["atoms"],
        "edges": found["edges"],
        "processes": size,
        "delay_ms": delay,
        "clock_seconds": seconds,
        "steps_clock_seconds": found["seconds"],
        "steps_processor_seconds": found["step_processor_seconds"],
        "processor_seconds": [use.ru_utime + use.ru_stime for _, _, use in used],
        "sent_bytes": sent,
        "peak_bytes": [use.ru_maxrss * 1024 for _, _, use in used],
    }


def show(row: dict[str, Any]) -> None:
    """A line of the table: steps are those of the first process, the rest the most of any."""
    steps = sum(row["steps_processor_seconds"].values())
    print(
        f"{row['kind']:<7}{row['atoms']:>6}{row['edges']:>9}{row['processes']:>4}"
        f"{row['delay_ms']:>7.1f}{row['steps_clock_seconds']:>9.1f}{steps:>9.1f}"
        f"{max(row['processor_seconds']):>9.1f}{max(row['sent_bytes']) / 1e6:>9.1f}"
        f"{max(row['peak_bytes']) / 1e9:>7.2f}",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--overlap", type=pathlib.Path, required=True, help="table of bilayers")
    parser.add_argument("--model", type=pathlib.Path, default=MODELS, help="stage1/ and gformer/")
    parser.add_argument("--sizes", default="1,2,4,8", help="processes")
    parser.add_argument("--delays", default="0,10", help="ms each way, strong scaling")
    parser.add_argument("--weak-delays", default="10", help="ms each way, weak scaling")
    parser.add_argument("--mn", default="10,11", help="the cell of strong scaling")
    parser.add_argument("--weak-mn", default="5,6", help="the cell of weak scaling")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    from ase.io import read, write

    rows = []
    print("kind    atoms    edges   N  delay  clock/s  steps/s    all/s  sent/MB   GB")
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        strong, small = build([args.mn, args.weak_mn], folder)
        runs = []
        for size in map(int, args.sizes.split(",")):
            each = folder / f"repeated_{size}.vasp"
            write(each, read(small).repeat((size, 1, 1)), format="vasp")
            # without a network there is no delay
            runs += [("strong", strong, size, d) for d in map(float, args.delays.split(","))]
            runs += [("weak", each, size, d) for d in map(float, args.weak_delays.split(","))]
        runs.sort(key=lambda run: (run[0], run[3], run[2]))
        for kind, cell, size, delay in runs:
            if size == 1 and delay != float(args.delays.split(",")[0]) and kind == "strong":
                continue
            row = {"kind": kind, **refine(args, cell, size, delay, folder)}
            rows.append(row)
            show(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
