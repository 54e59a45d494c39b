"""``deeph-gformer ablate``: train and evaluate any of the settings of Tables 2-4 with the same
data, splits, seed and budget.

Every setting is a run folder under the output. What is finished there is not done again: a training
goes on inside the epoch count where it stopped, a test set that was evaluated is not evaluated
again.
"""

from __future__ import annotations

from typing import Any

from ..analysis.evaluate import evaluate
from ..data.edges import training_edges
from ..gformer.bundle import load_bundle
from ..io.files import read_json, write_json
from ..io.folder import find_structures
from ..pipeline import HamiltonianModel
from ..prediction.identity import GFormerStage1
from ..stage1 import load_stage1
from ..stage1.cascade import CascadedStage1
from ..stage1.provider import Stage1Provider
from ..training.folder import held
from ..training.process import memory_hint
from .settings import (
    SETTINGS,
    AblationConfig,
    run_name,
    stage1_parameters,
)
from .tables import write_tables
from .training import SPLIT_FILE, TEST, Trainings

__all__ = ["AblationConfig", "ablate"]


class _Ablation(Trainings):
    """The models of all settings and their errors."""

    def model(self, kind: str, seed: int) -> tuple[HamiltonianModel, dict[str, Any]]:
        """The trained model of a setting, read back from its folder, with parameters and seconds of
        all its stages.
        """
        stage1_seconds = 0.0
        name = run_name(kind, seed, self.config)
        if SETTINGS[kind].second == "e3" or kind == "e3":
            first = self.stage1()
            provider = first
            if kind != "e3":
                provider = load_stage1(self.network(kind, seed), device=self.device)
                provider = CascadedStage1(first, provider) if kind == "e3+e3" else provider
            model, parameters = (
                HamiltonianModel(provider, None, self.device),
                stage1_parameters(provider),
            )
        else:
            bundle = load_bundle(self.gformer(kind, seed))
            lower: Stage1Provider | None = self.stage1() if SETTINGS[kind].stage1 else None
            if kind == "gformer+gformer":
                lower = GFormerStage1(load_bundle(self.gformer("gformer", seed)))
            model = HamiltonianModel(lower, bundle, self.device)
            parameters = sum(p.numel() for p in bundle.model.parameters()) + (
                stage1_parameters(lower) if lower is not None else 0
            )
        below = "e3" if SETTINGS[kind].stage1 and kind not in ("e3", "e3-big") else None
        if kind == "gformer+gformer":
            below = run_name("gformer", seed, self.config)
        own = self.infos.get(name, {})
        if below is not None:
            stage1_seconds = self.infos.get(below, {}).get("seconds", 0.0)
        info = {
            **own,
            "parameters": parameters,
            "own_training_seconds": own.get("seconds", 0.0),
            "training_seconds": own.get("seconds", 0.0) + stage1_seconds,
        }
        info.pop("seconds", None)
        return model, info

    def evaluate(self, kind: str, seed: int) -> dict[str, Any]:
        """Parameters, times and errors of one setting on every test set; what is known already is
        read.
        """
        model, info = self.model(kind, seed)
        path = self.folder / run_name(kind, seed, self.config) / "evaluation.json"
        known = read_json(path) if path.is_file() else {}
        sets: dict[str, tuple[str, dict[str, Any]]] = {}
        if self.has_test:
            sets[TEST] = (self.config.data.preprocessed, {"splits": self.folder / SPLIT_FILE})
        sets.update({name: (str(folder), {}) for name, folder in self.config.tests.items()})
        for name, (folder, options) in sets.items():
            edges = training_edges(  # one graph for all settings, whatever their stage 1 learned
                self.config.data.edges, find_structures(folder, ("hamiltonian",))
            )
            stamp = {
                "preprocessed": folder,
                "edges": edges,
                "rotations": self.config.rotations,
                "structures": len(self.tests.get(name, ())),
                "gauge": self.config.data.gauge,
            }
            if known.get(name, {}).get("of") != stamp:
                print(f"{run_name(kind, seed, self.config)}: evaluating {name}", flush=True)
                options.update(
                    edges=edges,
                    rotations=self.config.rotations,
                    invariance=False,
                    gauge=self.config.data.gauge,
                )
                known[name] = {"of": stamp, "result": evaluate(model, folder, **options)}
                write_json(path, known)
        return {
            "setting": kind,
            "seed": seed,
            **info,
            "tests": {name: known[name]["result"] for name in sets},
        }


def ablate(config: AblationConfig, *, every: int = 10) -> dict[str, Any]:
    """Train and evaluate the settings; write ``table.{txt,md,tex,csv,json}`` and every run under
    ``config.output``.

    Args:
        config: everything; calling this again with the same one goes on where it stopped.
        every: epochs between printed lines.

    Returns:
        The content of ``table.json``: plain values, units in key names.

    Raises:
        ConfigError: the output holds runs of another configuration, another process works there, a
            split is empty or leaks, or memory does not suffice.
        DataError, ModelError: see the readers; also structures of different basis.
    """
    work = _Ablation(config, every)
    # a second one would take a run that is in work for one that was stopped, and begin it again
    with held(work.folder), memory_hint():
        work.open()
        results = []
        reference = None
        if any(SETTINGS[kind].stage1 for kind in config.settings):
            reference = work.evaluate("e3", config.seeds[0])
        for kind in config.settings:
            for seed in config.seeds if kind != "e3" else config.seeds[:1]:
                results.append(
                    reference
                    if kind == "e3" and reference is not None
                    else work.evaluate(kind, seed)
                )
        return write_tables(work.folder, results, reference or results[0], work.basis, work.config)
