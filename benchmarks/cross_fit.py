"""Which residuals a GFormer should learn from, at equal DFT cost.

H and states on unseen structures.

    python benchmarks/cross_fit.py --preprocessed DATA --splits FILE --output DIR \\
        [--stage1-settings YAML] [--gformer-settings YAML] [--final MODEL_DIR] [--folds 3]

All variants use the training structures of one split file, in different roles:

    one set         both stages on all of them (the paper)
    cross, A, B     GFormer on all, by fold networks that start from A (the final network, or random
                    weights), reading irreps of B (the fold network, or the final one)
    share           stage 1 on all but one part, GFormer on that part
    share, weighted the same stage 1, GFormer on all, those that stage 1 saw in fewer epochs

Finished parts are recognised, so the command goes on where it stopped. Equal numbers of steps are
given to every GFormer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from deeph_gformer.analysis.evaluate import evaluate
from deeph_gformer.analysis.tables import text_table
from deeph_gformer.config import TrainConfig, TrainStage1Config, from_mapping, load_yaml
from deeph_gformer.data.splits import read_splits
from deeph_gformer.io.files import write_json
from deeph_gformer.stage1 import load_stage1
from deeph_gformer.training.folds import FOLDS_FILE, train_folds
from deeph_gformer.training.stage2 import train_gformer

STARTS = ("final", "random")


def settings(kind: type[Any], path: pathlib.Path | None) -> Any:
    """A configuration from a YAML file, or the defaults."""
    return from_mapping(kind, {}) if path is None else load_yaml(kind, path)


def networks(args: argparse.Namespace) -> dict[str, pathlib.Path]:
    """Run folders of the fold networks by their start; the first one holds the final network."""
    config = settings(TrainStage1Config, args.stage1_settings)
    data = dataclasses.replace(
        config.data, preprocessed=str(args.preprocessed), splits=str(args.splits)
    )
    found: dict[str, pathlib.Path] = {}
    for start in STARTS:
        folder = args.output / f"stage1-{start}"
        final = str(args.final or "")
        if start == "random" and not final:
            final = str(found["final"] / "model")
        if not (folder / FOLDS_FILE).is_file():
            own = dataclasses.replace(
                config,
                data=data,
                output=str(folder),
                folds=args.folds,
                folds_start=start,
                final=final,
            )
            train_folds(own, resume=(folder / "config.json").is_file(), every=args.every)
        found[start] = folder
    return found


def variant(
    args: argparse.Namespace, name: str, stage1: pathlib.Path, train: list[str], **more: Any
) -> dict[str, Any]:
    """Train one GFormer and judge it on the test structures."""
    folder = args.output / name.replace(", ", "-").replace(" ", "_")
    result = folder / "result.json"
    if result.is_file():
        record: dict[str, Any] = json.loads(result.read_text())
        return record
    table = {k: [f.resolve().name for f in v] for k, v in args.folders.items()}
    splits = args.output / f"{folder.name}.splits.json"
    write_json(splits, {**table, "train": train})
    config = settings(TrainConfig, args.gformer_settings)
    epochs = round(config.training.epochs * len(args.folders["train"]) / len(train))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, preprocessed=str(args.preprocessed), splits=str(splits)
        ),
        training=dataclasses.replace(config.training, epochs=epochs),
        stage1=str(stage1),
        output=str(folder),
        **more,
    )
    resume = (folder / "checkpoints" / "last.ckpt").is_file()
    model, _ = train_gformer(config, load_stage1(stage1), resume=resume, every=args.every)
    total = evaluate(
        model, args.preprocessed, splits=splits, split="test", rotations=0, invariance=False
    )["total"]
    record = {
        "stage1_H_meV": total["stage1"]["mae_all_meV"],
        "H_meV": total["refined"]["mae_all_meV"],
        "stage1_states_meV": total.get("stage1_states_error_meV"),
        "states_meV": total.get("states_error_meV"),
    }
    write_json(result, record)
    return record


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preprocessed", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--splits", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--output", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--stage1-settings", type=pathlib.Path, metavar="YAML")
    parser.add_argument("--gformer-settings", type=pathlib.Path, metavar="YAML")
    parser.add_argument("--final", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("--folds", type=int, default=3, metavar="K")
    parser.add_argument("--every", type=int, default=20, metavar="N")
    args = parser.parse_args()
    args.folders = read_splits(args.splits, args.preprocessed)
    names = [folder.resolve().name for folder in args.folders["train"]]
    runs = networks(args)
    final = args.final or runs["final"] / "model"
    table = {"one set": variant(args, "one set", final, names)}
    for start in STARTS:
        for features in ("fold", "final"):
            name = f"cross, {start}, {features}"
            more = {"cross_fit": str(runs[start]), "cross_features": features}
            table[name] = variant(args, name, final, names, **more)
    description = json.loads((runs["random"] / FOLDS_FILE).read_text())["networks"][0]
    part = runs["random"] / description["model"]
    left = [mark["name"] for mark in description["left_out"]]
    table["share"] = variant(args, "share", part, left)
    table["share, weighted"] = variant(args, "share, weighted", part, names)
    keys = list(table["one set"])
    rows = [
        [name, *("-" if r[k] is None else f"{r[k]:.3f}" for k in keys)] for name, r in table.items()
    ]
    print(text_table(["variant", *keys], rows))
    write_json(args.output / "cross_fit.json", table)


if __name__ == "__main__":
    main()
