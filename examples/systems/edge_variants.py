"""A training set whose structures come three times, with slightly different edges.

    python examples/systems/edge_variants.py --preprocessed data/SET --splits SPLITS --output DIR

A frozen stage 1 knows its own training structures by heart, on their own graphs: with some edges
more or less its error there is nearer to that on new structures, and so is what the GFormer learns.
DIR has each training structure as it is, with blocks of zeros in S where only H has some (NAMEu),
and without a quarter of the smallest 4 % of the blocks of S (NAMEd); beside them the validation
structures, and DIR/splits.json. Legacy folders; H stays as it is.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

import h5py
import numpy as np

#: Part of the blocks of S that may go, and how likely each is.
SMALLEST, GONE = 0.04, 0.25


def reverse(name: str) -> str:
    """The block (-R, j, i) of a block's name."""
    x, y, z, i, j = json.loads(name)
    return str([-x, -y, -z, j, i])


def add_those_of_h(folder: pathlib.Path) -> None:
    """Blocks of zeros in S where only H has some."""
    spin = 2 if json.loads((folder / "info.json").read_text()).get("isspinful") else 1
    with h5py.File(folder / "hamiltonians.h5") as h, h5py.File(folder / "overlaps.h5", "a") as s:
        kind = s[next(iter(s))].dtype
        for name in sorted(set(h) - set(s)):
            rows, columns = h[name].shape
            s[name] = np.zeros((rows // spin, columns // spin), kind)


def drop_small(folder: pathlib.Path, rng: np.random.Generator) -> None:
    """S without some of its smallest blocks; an atom's own block stays."""
    with h5py.File(folder / "overlaps.h5", "a") as s:
        size = {name: np.abs(s[name][()]).max() for name in s if not own(name)}
        for name in sorted(size, key=size.__getitem__)[: int(SMALLEST * len(size))]:
            if name in s and rng.random() < GONE:
                for each in {name, reverse(name)}:
                    del s[each]


def own(name: str) -> bool:
    """Whether a block is that of an atom with itself."""
    x, y, z, i, j = json.loads(name)
    return [x, y, z] == [0, 0, 0] and i == j


def main() -> None:
    """Read the splits, write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preprocessed", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--splits", type=pathlib.Path, required=True, metavar="JSON")
    parser.add_argument("--output", type=pathlib.Path, required=True, metavar="DIR")
    args = parser.parse_args()
    splits = json.loads(args.splits.read_text())
    args.output.mkdir(parents=True)
    for name in splits["val"]:
        shutil.copytree(args.preprocessed / name, args.output / name)
    rng, train = np.random.default_rng(1), []
    for name in splits["train"]:
        for variant in ("", "u", "d"):
            folder = args.output / f"{name}{variant}"
            shutil.copytree(args.preprocessed / name, folder)
            train.append(folder.name)
            if variant == "u":
                add_those_of_h(folder)
            elif variant == "d":
                drop_small(folder, rng)
    table = {"train": train, "val": splits["val"], "test": []}
    (args.output / "splits.json").write_text(json.dumps(table) + "\n")
    print(f"{args.output}: {len(train)} training structures of {len(splits['train'])}")


if __name__ == "__main__":
    main()
