"""Errors of H, states and bands against the number of training structures, at equal numbers of
steps ("More structures" of docs/measured/accuracy.md).

    python benchmarks/more_structures.py bi2te3 --structures 3 7 21 --steps 1200 --data DIR \\
        --work WORK [--splits FILE]

GFormers from random weights on parts of a training split, on the shipped stage 1 of the system,
are judged on the test structures and on the twisted cells. ``--data`` holds the unpacked DFT sets.
WORK/SET_N is the run with N structures, WORK/SET_N.json what came out; finished ones are read.
With ``--onsite`` each is judged again with on-site levels from the same structures, where these are
kept, as WORK/SET_N_onsite.json.
``python examples/systems/set_size.py`` draws them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
from typing import Any

from model_cards import ROOT, SYSTEMS, errors_of, folder_of, judged, splits_of

import deeph_gformer
from deeph_gformer.analysis.tables import text_table
from deeph_gformer.config import TrainConfig, load_yaml
from deeph_gformer.errors import DataError
from deeph_gformer.io.files import read_json, write_json
from deeph_gformer.pipeline import HamiltonianModel
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.levels import add_levels
from deeph_gformer.training.stage2 import train_gformer

#: Sets of edges of each structure in an epoch, those with blocks taken away and added included.
EDGE_SETS = 3


def part(names: list[str], number: int) -> list[str]:
    """So many of the names, evenly spread."""
    ordered = sorted(names)
    step = (len(ordered) - 1) / max(1, number - 1)
    return [ordered[round(i * step)] for i in range(min(number, len(ordered)))]


def point(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Train with so many structures and judge; read where that is done."""
    run = args.work / f"{args.set}_{number}"
    result = args.work / f"{args.set}_{number}.json"
    if result.is_file():
        return read_json(result)
    splits = args.work / f"{args.set}_{number}.splits.json"
    table = read_json(args.splits or splits_of(args.set))
    write_json(splits, {**table, "train": part(table["train"], number)})
    epochs = math.ceil(args.steps / (EDGE_SETS * number))
    config = load_yaml(TrainConfig, ROOT / "examples/systems/gformer.yaml")
    stage1 = folder_of(args.set) / "stage1"
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            preprocessed=str(own_set(args)),
            splits=str(splits),
            edge_variants=EDGE_SETS - 1,
        ),
        training=dataclasses.replace(
            config.training,
            epochs=epochs,
            monitor="both",
            warmup_steps=40,
            validate_every=epochs // 10 + 1,
        ),
        stage1=str(stage1),
        output=str(run),
    )
    resume = (run / "checkpoints" / "last.ckpt").is_file()
    model, _ = train_gformer(config, load_stage1(stage1), resume=resume, every=epochs // 10 + 1)
    record = judged_all(args, model, splits)
    write_json(result, record)
    return record


def own_set(args: argparse.Namespace) -> pathlib.Path:
    """The DFT set that it learns from."""
    folder: pathlib.Path = args.data / SYSTEMS[args.set]["sets"][0][0]
    return folder


def judged_all(
    args: argparse.Namespace, model: HamiltonianModel, splits: pathlib.Path
) -> dict[str, Any]:
    """What ``evaluate`` says of the test structures; ``twisted``: of the sets of other kinds."""
    test, *others = (
        judged(model, args.data / folder, splits if trained else None)
        for folder, trained in SYSTEMS[args.set]["sets"]
    )
    return {**test, "twisted": others}


def with_levels(args: argparse.Namespace, number: int) -> dict[str, Any] | None:
    """The same with on-site levels; None where ``onsite`` does not keep them."""
    run = args.work / f"{args.set}_{number}"
    result = args.work / f"{args.set}_{number}_onsite.json"
    if not result.is_file():
        splits = args.work / f"{args.set}_{number}.splits.json"
        stage1 = folder_of(args.set) / "stage1"
        model = deeph_gformer.load(run / "bundle", stage1=stage1)
        record: dict[str, Any] = {"kept": False}
        try:
            found = add_levels(model, own_set(args), splits, run / "onsite", overwrite=True)
            record["kept"] = found.kept
        except DataError as error:  # too few structures
            print(f"{number}: {error}")
        if record["kept"]:
            shifted = deeph_gformer.load(run / "onsite", stage1=stage1)
            record |= judged_all(args, shifted, splits)
        write_json(result, record)
    table = read_json(result)
    return table if table["kept"] else None


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("set", choices=[name for name in SYSTEMS if name != "graphene"])
    parser.add_argument("--structures", required=True, type=int, nargs="+", metavar="N")
    parser.add_argument("--steps", type=int, default=1200, metavar="N", help="of each training")
    parser.add_argument("--data", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--work", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--splits", type=pathlib.Path, metavar="FILE", help="default: the system's")
    parser.add_argument("--onsite", action="store_true", help="also with on-site levels")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in args.structures:
        records = {"": point(args, number)}
        if args.onsite and (levels := with_levels(args, number)) is not None:
            records[", on-site levels"] = levels
        rows += [
            [str(number), *errors_of(f"{label}{kind}", tables, label == "test").row()]
            for kind, record in records.items()
            for label, tables in (("test", [record]), ("twisted", record["twisted"]))
            if tables
        ]
    print(text_table(["N", "set", "structures", "atoms", "H / meV", "states", "bands"], rows))


if __name__ == "__main__":
    main()
