"""Error against the number of training structures, from the JSON files of ``deeph-gformer
evaluate``.

    python examples/systems/set_size.py 3=mos2_3.json 7=mos2.json --output set_size.png [--noise
    0.002]

Each argument is NUMBER=FILE. Errors are without μS where the models are in the gauge H - μS.
--noise: meV, of the DFT labels.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deeph_gformer.bands.palette import COLOURS


def errors(path: pathlib.Path) -> tuple[float, float]:
    """MAE_all of stage 1 and refined, meV."""
    total = json.loads(path.read_text())["total"]
    return total["stage1"]["mae_all_meV"], total["refined"]["mae_all_meV"]


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    first, both = zip(*(errors(path) for _, path in points), strict=True)
    print("structures  stage 1 / meV  refined / meV  ratio")
    for n, a, b in zip(numbers, first, both, strict=True):
        print(f"{n:10d}  {a:13.3f}  {b:13.3f}  {b / a:.3f}")
    figure, axis = plt.subplots(figsize=(5, 3.8), constrained_layout=True)
    axis.loglog(numbers, first, "o--", color=COLOURS["stage 1"], label="stage 1")
    axis.loglog(numbers, both, "s-", color=COLOURS["refined"], label="refined")
    if args.noise:
        axis.axhline(args.noise, color="0.6", linewidth=1, label="noise of the labels")
    axis.set_xticks(numbers, [str(n) for n in numbers], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("training structures")
    axis.set_ylabel("MAE of H, test / meV")
    axis.legend(frameon=False)
    figure.savefig(args.output, dpi=150)


if __name__ == "__main__":
    main()
