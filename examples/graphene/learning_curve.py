"""Draw the learning curve of training runs, one after the other where they continue each other.

    python examples/graphene/learning_curve.py RUN [RUN ...] --output FIGURE

``RUN`` is the output folder of ``deeph-gformer train`` or ``train-stage1``.
"""

from __future__ import annotations

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_curve(run: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """(epoch, MAE in meV) of training and validation, from the run's CSV log."""
    curves: dict[str, list[tuple[int, float]]] = {"train_mae_meV": [], "val_mae_meV": []}
    with open(run / "logs" / "csv" / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, curve in curves.items():
                if row.get(name):
                    curve.append((int(row["epoch"]), float(row[name])))
    return curves


def draw(runs: list[pathlib.Path], output: pathlib.Path) -> float:
    """Write the figure; returns the lowest validation MAE, meV."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    start, best = 0, float("inf")
    for number, run in enumerate(runs):
        curves = read_curve(run)
        for (name, curve), color in zip(curves.items(), ("tab:gray", "tab:blue"), strict=False):
            label = (
                {"train_mae_meV": "training", "val_mae_meV": "validation"}[name]
                if not number
                else None
            )
            axes.plot(
                [start + e + 1 for e, _ in curve],
                [v for _, v in curve],
                color=color,
                lw=1.0,
                label=label,
            )
        best = min(best, *(v for _, v in curves["val_mae_meV"]))
        start += max(e for e, _ in curves["val_mae_meV"]) + 1
        if number < len(runs) - 1:
            axes.axvline(start, color="k", lw=0.7, ls=":")
    axes.axhline(best, color="tab:red", lw=0.8, ls="--", label=f"lowest validation: {best:.3f} meV")
    axes.set(xlabel="epoch", ylabel="MAE of H (meV)", yscale="log", xlim=(0, start))
    axes.yaxis.set_major_formatter("{x:g}")  # 2, not 2 x 10^0
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(output, dpi=150)
    plt.close(figure)
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Draw the learning curve of training runs, one after the other."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=pathlib.Path,
        metavar="RUN",
        help="output folder of train or train-stage1",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("learning_curve.png"),
        help="figure to write",
    )
    arguments = parser.parse_args()
    print(
        f"lowest validation MAE {draw(arguments.runs, arguments.output):.4f} meV; figure: "
        f"{arguments.output}"
    )
