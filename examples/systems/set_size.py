"""Errors of H, states and bands against the number of training structures, from the JSON files of
``deeph-gformer evaluate``, or of ``benchmarks/more_structures.py``, which hold bands, too.

    python examples/systems/set_size.py 3=mos2_3.json 7=mos2.json --output set_size.png [--noise
    0.002]

Each argument is NUMBER=FILE. Errors of H are without μS where the models are in the gauge H - μS.
--noise: meV, of the DFT labels.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from deeph_gformer.bands.palette import COLOURS


def errors(path: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Errors of stage 1 and refined in meV, of H and of what else the file holds."""
    table = json.loads(path.read_text())
    total = table["total"]
    found = {"H": (total["stage1"]["mae_all_meV"], total["refined"]["mae_all_meV"])}
    if total.get("states_error_meV") is not None:
        found["states"] = (total["stage1_states_error_meV"], total["states_error_meV"])
    if "bands" in table:
        first, both = np.mean(list(table["bands"].values()), axis=0)
        found["bands"] = (float(first), float(both))
    return found


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "points",
        nargs="+",
        metavar="NUMBER=FILE",
        help="training structures and the JSON of evaluate",
    )
    parser.add_argument(
        "--output", required=True, type=pathlib.Path, metavar="PNG", help="figure to write"
    )
    parser.add_argument("--noise", type=float, metavar="MEV", help="noise of the labels")
    args = parser.parse_args()
    try:
        points = sorted(
            (int(n), pathlib.Path(f)) for n, f in (text.split("=", 1) for text in args.points)
        )
    except ValueError:
        parser.error("write each point as NUMBER=FILE, e.g. 7=mos2.json")
    numbers = [n for n, _ in points]
    found = [errors(path) for _, path in points]
    kinds = [kind for kind in found[0] if all(kind in one for one in found)]
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.7 * len(kinds), 3.5), constrained_layout=True, squeeze=False
    )
    print("structures         stage 1 / meV  refined / meV  ratio")
    for axis, kind in zip(axes[0], kinds, strict=True):
        first, both = zip(*(one[kind] for one in found), strict=True)
        for n, a, b in zip(numbers, first, both, strict=True):
            print(f"{n:10d}  {kind:6}  {a:12.3f}  {b:13.3f}  {b / a:.3f}")
        axis.loglog(numbers, first, "o--", color=COLOURS["stage 1"], label="stage 1")
        axis.loglog(numbers, both, "s-", color=COLOURS["refined"], label="refined")
        if args.noise and kind == "H":
            axis.axhline(args.noise, color="0.6", linewidth=1, label="noise of the labels")
        axis.set_xticks(numbers, [str(n) for n in numbers], minor=False)
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6))
        axis.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_xlabel("training structures")
        axis.set_ylabel(f"{'MAE of H' if kind == 'H' else kind}, test / meV")
    axes[0, 0].legend(frameon=False)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
