"""What a GPU makes of the package.

Speed, memory and equality with the CPU, part by part, in a few minutes.

    python benchmarks/gpu.py --out DIR                  # on a machine with a GPU
    python benchmarks/gpu.py --out DIR --rehearse   # tiny sizes on a CPU: does every part run?

Each part runs in a process of its own with its own time limit; after every measurement DIR/gpu.json
and DIR/gpu.md are written anew, so what was measured stays whatever happens later. ``gpu.sh``
unpacks carried wheels first. The table of twisted bilayers' overlaps that the part ``refine`` needs
(``overlap fit`` on untwisted bilayers makes it) is named by ``--overlap``.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
#: Part -> seconds that it may take, in the order of their worth.
LIMITS = {
    "machine": 40,
    "stage1_inference": 45,
    "stage1_training": 45,
    "refine": 60,
    "gformer": 30,
    "screening": 20,
    "many": 30,
    "tests": 75,
    "epochs": 45,
    "profile": 30,
    "bands": 25,
    "nccl": 25,
    "cpu": 60,
}
#: Parts for which DIR gets a text file.
TEXTS = {"profile": "gpu_profile.txt", "tests": "gpu_tests.txt"}


def show(value: Any) -> str:
    """A number as the table has it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tables(result: dict[str, Any]) -> str:
    """All rows as Markdown tables, one for each part and set of columns."""
    lines = []
    for part, found in result["parts"].items():
        lines += ["", f"## {part} ({found['state']}, {found['seconds']:.0f} s)", ""]
        columns: tuple[str, ...] = ()
        for row in found["rows"]:
            if tuple(row) != columns:
                columns = tuple(row)
                lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines.append("| " + " | ".join(show(v) for v in row.values()) + " |")
    return "\n".join(lines) + "\n"


def write(out: pathlib.Path, result: dict[str, Any]) -> None:
    """Both files, each in one step."""
    for name, text in (("gpu.json", json.dumps(result, indent=1)), ("gpu.md", tables(result))):
        temporary = out / f"{name}.part"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Whole lines of a part's file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    process.wait()


def run(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """All parts, one after the other."""
    result: dict[str, Any] = {"rehearsal": args.rehearse, "parts": {}}
    end = time.monotonic() + args.total
    for part in args.parts.split(","):
        limit = min(LIMITS[part] * args.patience, end - time.monotonic())
        found = result["parts"][part] = {"state": "no time left", "seconds": 0.0, "rows": []}
        if limit < 5:
            write(args.out, result)
            continue
        rows, start = folder / f"{part}.jsonl", time.monotonic()
        command = [sys.executable, str(HERE / "gpu_parts.py"), part, str(rows), str(limit)]
        command += ["--overlap", str(args.overlap)] if args.overlap else []
        command += ["--text", str(args.out / TEXTS[part])] if part in TEXTS else []
        command += ["--rehearse"] if args.rehearse else []
        with (args.out / "gpu.log").open("ab") as log:
            log.write(f"\n===== {part}\n".encode())
            log.flush()
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            while process.poll() is None and time.monotonic() - start < limit:
                time.sleep(0.25)
                if len(now := read_rows(rows)) > len(found["rows"]):
                    found.update(rows=now, state="running", seconds=time.monotonic() - start)
                    write(args.out, result)
            state = "done" if process.poll() == 0 else f"failed ({process.poll()})"
            state = "stopped at its limit" if process.poll() is None else state
            stop(process)
        found.update(rows=read_rows(rows), state=state, seconds=time.monotonic() - start)
        write(args.out, result)
        print(
            f"{part:<18}{state:<22}{found['seconds']:6.1f} s {len(found['rows']):4d} rows",
            flush=True,
        )
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--parts", default=",".join(LIMITS), help="default: %(default)s")
    parser.add_argument("--overlap", type=pathlib.Path, help="table for twisted bilayers")
    parser.add_argument("--total", type=float, default=300.0, help="seconds for all parts")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="times the limit of each part (busy machines)"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on the CPU")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result = run(args, pathlib.Path(folder))
    print(tables(result))
    if any(found["state"] != "done" for found in result["parts"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
