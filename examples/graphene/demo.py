"""The main job on real data: refine graphene structures that training never saw, print errors
against DFT, and plot bands.

    python examples/graphene/demo.py [--output DIR]

Reads the structures, the DeepH-E3 model folder and the GFormer bundle beside this file; writes
predictions and the figure to ``demo-output``.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys

from deeph_gformer.cli import main

HERE = pathlib.Path(__file__).resolve().parent


def run(output: pathlib.Path) -> int:
    """Refine, then stage 1 alone, then the bands of one structure; returns the exit code."""
    shutil.rmtree(output, ignore_errors=True)
    common = [
        "--preprocessed",
        str(HERE / "structures"),
        "--stage1",
        str(HERE / "stage1"),
        "--device",
        "cpu",
        "--edges",
        "overlaps",
    ]
    print("== Stage 1 (DeepH-E3) and GFormer on structures that training never saw ==", flush=True)
    code = main(
        [
            "refine",
            *common,
            "--model",
            str(HERE / "gformer"),
            "--output",
            str(output / "refined"),
            "--json",
            str(output / "refine.json"),
        ]
    )
    if code:
        return code
    print("\n== Stage 1 alone, for comparison in the figure ==", flush=True)
    code = main(["refine", *common, "--stage1-only", "--output", str(output / "stage1")])
    if code:
        return code
    name = sorted(p.name for p in (HERE / "structures").iterdir() if p.is_dir())[0]
    print(f"\n== Bands of structure {name}: DFT, stage 1 and refined ==", flush=True)
    code = main(
        [
            "bands",
            str(HERE / "structures" / name),
            "--stage1",
            str(output / "stage1" / name),
            "--refined",
            str(output / "refined" / name),
            "--path",
            "GMKG",
            "--npoints",
            "90",
            "-o",
            str(output / "bands.png"),
            "--json",
            str(output / "bands.json"),
        ]
    )
    if not code:
        print(
            f"\nfigure: {output / 'bands.png'}; refined Hamiltonians: "
            f"{output / 'refined'}/*/hamiltonians_pred.h5"
        )
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Refine graphene structures that training never saw, print errors against "
        "DFT, and "
        "plot bands."
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("demo-output"),
        help="where predictions and the figure go (default: demo-output)",
    )
    sys.exit(run(parser.parse_args().output))
