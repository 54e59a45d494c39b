"""The trainings of an ablation: each is a run folder, and is done once."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch

from ..config import DataConfig, TrainConfig, TrainStage1Config, to_mapping
from ..data.dataset import basis_of
from ..data.splits import check_splits
from ..errors import ConfigError
from ..gformer.bundle import load_bundle
from ..io.files import read_json, write_json
from ..io.folder import find_structures
from ..prediction.identity import GFormerStage1
from ..runtime.device import resolve_device
from ..stage1 import load_stage1
from ..stage1.provider import Stage1Provider
from ..stopping import Stopped
from ..training.gauge import choose_gauge
from ..training.splits import split_folders
from ..training.stage1 import train_stage1
from ..training.stage2 import train_gformer
from ..training.stage2_network import Output
from .settings import (
    SETTINGS,
    AblationConfig,
    both_parameters,
    bundle_folder,
    model_config,
    network_config,
    run_name,
    scaled_network,
)

__all__ = ["SPLIT_FILE", "TEST", "Trainings"]

#: What may change when an output folder is used again: more rows, test sets and seeds, and how (not
#: what) is computed.
FREE = {
    "settings",
    "tests",
    "output",
    "rotations",
    "seeds",
    "data.cache",
    *(f"{s}training.{k}" for s in ("", "stage1.") for k in ("threads", "device", "devices")),
}
CONFIG_FILE, SPLIT_FILE, TEST = "ablation.json", "splits.json", "test"


def differences(old: Any, new: Any, prefix: str = "", default: Any = None) -> list[str]:
    """Dotted keys in which two nested mappings of plain values differ, without :data:`FREE`.

    Args:
        old: of an earlier call, which does not know settings that are new since.
        new: of this one.
        prefix: key of both.
        default: what ``old`` meant where it says nothing.
    """
    if prefix in FREE:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        usual = default if isinstance(default, dict) else {}
        keys = [*old, *(k for k in new if k not in old)]
        return [
            d
            for k in keys
            for d in differences(
                old.get(k, usual.get(k)),
                new.get(k),
                f"{prefix}.{k}" if prefix else str(k),
                usual.get(k),
            )
        ]
    return [] if old == new else [prefix]


class Trainings:
    """Folders and splits of one command, and the models made so far.

    Args:
        config: everything.
        every: epochs between printed lines.
    """

    def __init__(self, config: AblationConfig, every: int) -> None:
        self.config, self.every = config, every
        self.folder = pathlib.Path(config.output)
        self.device = resolve_device(config.training.device)
        self._stage1: Stage1Provider | None = None
        self.infos: dict[str, dict[str, Any]] = {}

    def open(self) -> None:
        """Check configuration and data against each other and against the output folder."""
        config = self.config
        if not config.settings or not config.seeds:
            raise ConfigError("settings and seeds need at least one entry each")
        if max(config.training.devices, config.stage1.training.devices) > 1:
            raise ConfigError(
                "ablate trains in one process; set training.devices "
                "and stage1.training.devices to 1"
            )
        if TEST in config.tests:
            raise ConfigError(
                f"tests.{TEST}: is the name of the test split; choose another, e.g. twisted"
            )
        for kind in config.settings:
            model_config(kind, config, 1)
        splits = split_folders(config.data, config.seeds[0])
        self.tests = {
            name: find_structures(str(folder), ("hamiltonian",))
            for name, folder in config.tests.items()
        }
        if not splits["test"] and not self.tests:
            where = config.data.splits or config.data.preprocessed
            raise ConfigError(
                f"{where}: the test split is empty and no further tests are given, so there is "
                "nothing to compare"
            )
        for name, folders in self.tests.items():  # test sets may overlap each other, not the splits
            check_splits({**splits, name: folders}, str(config.tests[name]))
        self.basis = basis_of(
            [f for part in (*splits.values(), *self.tests.values()) for f in part]
        )
        mine = json.loads(json.dumps(to_mapping(config)))
        path = self.folder / CONFIG_FILE
        names = {name: [f.resolve().name for f in part] for name, part in splits.items()}
        if path.is_file():
            old = read_json(path)
            usual = json.loads(json.dumps(to_mapping(AblationConfig())))
            differ = differences(old, mine, default=usual) + (
                ["seeds[0]"] if old["seeds"][:1] != mine["seeds"][:1] else []
            )
            if differ:
                listed = ", ".join(differ[:8])
                raise ConfigError(
                    f"{self.folder}: holds runs of another configuration ({listed} differ); "
                    "choose another output, or the old values"
                )
            if read_json(self.folder / SPLIT_FILE) != names:
                raise ConfigError(
                    f"{self.folder}: the splits are no longer those of its runs (structures were "
                    "added, removed or renamed); choose another output"
                )
        below = load_stage1(config.stage1.folder) if config.stage1.folder else None
        choice = choose_gauge(config.data.gauge, splits["train"], below)
        print(choice, flush=True)
        self.config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, gauge=choice.gauge)
        )
        write_json(self.folder / SPLIT_FILE, names)
        write_json(path, mine)
        self.has_test = bool(splits["test"])

    def data(self, corrects: bool) -> DataConfig:
        """The same splits for every setting.

        Args:
            corrects: whether a network is trained on what another one leaves. Only those get
                ``edge_variants``: a first network would have the other edges by heart, too.
        """
        variants = self.config.data.edge_variants if corrects else 0
        return dataclasses.replace(
            self.config.data, splits=str(self.folder / SPLIT_FILE), edge_variants=variants
        )

    def run(self, name: str, train: Callable[[str, bool], dict[str, Any]]) -> pathlib.Path:
        """One training, unless it is finished; resumed where it stopped.

        Args:
            name: folder under the output.
            train: called with the run folder and whether to resume; gives the record.
        """
        folder = self.folder / name
        path, gone = folder / "finished.json", folder.with_name(f".{name}.old")
        shutil.rmtree(gone, ignore_errors=True)
        if not path.is_file():
            attempts = (
                read_json(folder / "attempts.json") if (folder / "attempts.json").is_file() else []
            )
            last = folder / "checkpoints" / "last.ckpt"
            resume = last.is_file() and (folder / "config.json").is_file()
            if resume and attempts:  # the time up to the checkpoint counts
                attempts[-1]["seconds"] = max(
                    0.0, last.stat().st_mtime - attempts[-1]["start_unix_s"]
                )
            elif attempts:  # stopped before the first checkpoint; a death in here costs nothing
                gone.mkdir(exist_ok=True)
                os.replace(folder, gone / name)
                shutil.rmtree(gone)
                attempts = []
            elif folder.exists() and any(p.name[:1] != "." for p in folder.iterdir()):
                raise ConfigError(
                    f"{folder}: is there already and is no run of an ablation; choose another "
                    "output"
                )
            print(f"\n== {name}: {'resumed' if resume else 'training'} ==", flush=True)
            write_json(
                folder / "attempts.json", [*attempts, {"start_unix_s": time.time(), "seconds": 0.0}]
            )
            try:
                record = train(str(folder), resume)
            except Stopped as stop:
                where = stop.note.split(";")[0] or "before the first epoch"
                stop.note = f"in run {name}, {where}; the same command goes on there"
                raise
            write_json(
                path,
                {
                    "seconds": record["seconds"] + sum(a["seconds"] for a in attempts),
                    "epochs": record["epochs"],
                    "trained_parameters": record["parameters"],
                    "best_val_mae_meV": record["best_val_mae_meV"],
                },
            )
        self.infos[name] = read_json(path)
        return folder

    def stage1(self) -> Stage1Provider:
        """DeepH-E3: the given folder, or one that is trained now."""
        if self._stage1 is None:
            config = self.config.stage1
            where = (
                pathlib.Path(config.folder)
                if config.folder
                else self.network("e3", self.config.seeds[0])
            )
            self._stage1 = load_stage1(where, device=self.device)
        return self._stage1

    def network(self, kind: str, seed: int) -> pathlib.Path:
        """Train a DeepH-E3 network: ``e3``, the second of ``e3+e3``, or ``e3-big``; returns its
        model folder.
        """
        config, first = self.config, None
        model = config.stage1.model
        if kind != "e3":
            first = self.stage1()
            model = network_config(config, first)
        if kind == "e3-big" and first is not None:
            goal = both_parameters(config, first)
            model, count = scaled_network(model, first.targets, first.generation, goal)
            print(
                f"e3-big: irreps_mid {model.irreps_mid}, {count:,} parameters (both stages: "
                f"{goal:,})",
                flush=True,
            )
        dtype: Any = (
            config.stage1.dtype if first is None else str(first.dtype).removeprefix("torch.")
        )
        generation = ">=0.5" if first is None else first.generation

        def train(output: str, resume: bool) -> dict[str, Any]:
            """One training of this setting."""
            one = TrainStage1Config(
                data=self.data(kind == "e3+e3"),
                model=model,
                training=dataclasses.replace(config.stage1.training, seed=seed),
                dtype=dtype,
                output=output,
            )
            return train_stage1(
                one,
                resume=resume,
                generation=generation,
                every=self.every,
                first=first if kind == "e3+e3" else None,
            )

        return self.run(run_name(kind, seed, config), train) / "model"

    def gformer(self, kind: str, seed: int) -> pathlib.Path:
        """Train the GFormer of a setting; returns its bundle."""
        config, setting = self.config, SETTINGS[kind]
        first: Stage1Provider | None = self.stage1() if setting.stage1 else None
        if kind == "gformer+gformer":
            first = GFormerStage1(load_bundle(self.gformer("gformer", seed)))
        model = model_config(
            kind,
            config,
            len(first.node_irreps) if setting.stage1 and first is not None else self._groups(),
        )
        training = dataclasses.replace(
            config.training, seed=seed, rotate=config.training.rotate or setting.rotate
        )

        def train(output: str, resume: bool) -> dict[str, Any]:
            """One training of this setting."""
            if model.arch != config.model.arch:
                print(
                    f"{kind} uses arch: {model.arch}, it has no stage-1 irreps to gate", flush=True
                )
            one = TrainConfig(
                self.data(first is not None),
                model,
                training,
                config.stage1.folder if setting.stage1 else "",
                output,
                setting.cascade,
            )
            return train_gformer(
                one,
                first,
                resume=resume,
                features=setting.features,
                every=self.every,
                extra={"setting": kind},
                output=self._alone(),
            )[1]

        return bundle_folder(self.run(run_name(kind, seed, config), train))

    def _groups(self) -> int:
        """P of stage 1, whether or not it is there."""
        return (
            len(self.stage1().node_irreps)
            if self.config.stage1.folder
            else self.config.stage1.model.num_blocks
        )

    def _alone(self) -> Output:
        """What a GFormer without stage 1 predicts: the same as with it."""
        if self.config.stage1.folder:
            return Output.of(self.stage1())
        from ..algebra.orbitals import make_target_blocks

        one = self.config.stage1
        return Output(
            make_target_blocks(self.basis),
            ">=0.5",
            not one.model.ignore_parity,
            {"float32": torch.float32, "float64": torch.float64}[one.dtype],
            one.model.cutoff_radius,
        )
