"""The house rules: modules import downwards only, no assert and no pickle in the package, the light
parts stay light."""

from __future__ import annotations

import ast
import configparser
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import deeph_gformer

from .conftest import ROOT

PACKAGE = ROOT / "deeph_gformer"
#: Lower number = lower level; a module may import its own area and lower levels.
LEVEL = {
    "errors": 0,
    "fields": 0,
    "stopping": 0,
    "results": 1,
    "plugins": 1,
    "terminal": 1,
    "logs": 1,
    "io": 2,
    "config": 3,
    "algebra": 3,
    "bands": 3,
    "overlap": 3,
    "data": 4,
    "runtime": 5,
    "onsite": 5,
    "stage1": 6,
    "gformer": 6,
    "prediction": 7,
    "pipeline": 8,
    "analysis": 9,
    "inference": 10,
    "training": 11,
    "ablation": 12,
    "report": 12,
    "interop": 13,
    "commands": 14,
    "cli": 15,
}
FILES = sorted(
    p
    for p in PACKAGE.rglob("*.py")
    if p.parent != PACKAGE or p.stem not in ("__init__", "__main__")
)


def area(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_areas(path: pathlib.Path) -> set[str]:
    """Areas of the package that a file imports at module level or inside functions, not for type
    checking only."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            parts = (node.module or "").split(".") if node.module else []
            if node.level == depth:
                found |= {parts[0]} if parts else {a.name for a in node.names}
    return {name for name in found if name in LEVEL}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: pathlib.Path) -> None:
    own = area(path)
    for other in imported_areas(path) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{path.name} ({own}) imports {other}"


def test_floor_plan_is_complete() -> None:
    """CONTRIBUTING.md: every folder and top module, on the floor that this file enforces."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floors = {
        name.strip("`/").removesuffix(".py"): int(floor)
        for floor, names in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
        for name in names.split(", ")
    }
    folders = {str(p.parent.relative_to(PACKAGE)) for p in PACKAGE.rglob("__init__.py")} - {"."}
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(floors) == folders | modules
    for name, floor in floors.items():
        assert floor == LEVEL.get(name.split("/")[0], LEVEL["cli"]), name
    for path in re.findall(r"`(\w+/[\w/]+\.py)`", text):
        assert (PACKAGE / path).is_file() or (ROOT / path).is_file(), path
    assert max(map(len, text.splitlines())) <= 100


def test_extras_in_messages_exist() -> None:
    """What a message tells to install is an extra of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    named = {
        ast.literal_eval(node.args[1])
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "MissingDependencyError"
    }
    assert {"kwant", "train"} <= named <= extras


def test_changelog_has_its_form() -> None:
    """Keep a Changelog: versions, kinds of change, one list each, 100 columns."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100
    _, *versions = text.split("\n## ")
    assert versions[0].startswith("Unreleased\n")
    for version in versions:
        _, *kinds = version.split("\n### ")
        names = [kind.splitlines()[0] for kind in kinds]
        assert set(names) <= {"Added", "Changed", "Fixed", "Removed"}
        assert len(set(names)) == len(names) > 0


def test_stages_do_not_know_each_other() -> None:
    for path in FILES:
        if area(path) in ("stage1", "gformer"):
            assert not {"stage1", "gformer"} - {area(path)} & imported_areas(path), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_assert_no_pickle(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), (
                f"{path}:{node.lineno} {called}"
            )
            if called == "torch.load":
                assert any(
                    k.arg == "weights_only" and getattr(k.value, "value", None) is True
                    for k in node.keywords
                ), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "module",
    [
        "deeph_gformer",
        "deeph_gformer.io",
        "deeph_gformer.bands",
        "deeph_gformer.overlap",
        "deeph_gformer.cli",
    ],
)
def test_light_parts_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_help_loads_no_numpy() -> None:
    """All verbs with their options, as ``--help`` shows them: what is slow to load is for later."""
    code = "import sys; from deeph_gformer.cli import build_parser; build_parser(); "
    code += "sys.exit(bool({'numpy', 'h5py', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_resolve() -> None:
    import deeph_gformer

    for name in deeph_gformer.__all__:
        assert getattr(deeph_gformer, name) is not None
    with pytest.raises(AttributeError):
        deeph_gformer.no_such_name


def test_the_description_has_no_links_into_the_repository() -> None:
    """What a package index shows: the README without its pictures."""
    code = (
        "import setuptools; setuptools.setup = lambda **words: print(words['long_description']); "
        "import runpy; runpy.run_path('setup.py')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    links = re.findall(r"\]\((.*?)\)", done.stdout)
    assert links and all(link.startswith("https://") for link in links)
    assert "# deeph-gformer" in done.stdout and "make demo" in done.stdout


def test_conda_recipe_asks_for_what_setup_does() -> None:
    """Rendered; the same versions of the same libraries under conda's names, from the sdist."""
    text = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    version = yaml.safe_load(text)["context"]["version"]
    assert version == deeph_gformer.__version__
    recipe = yaml.safe_load(text.replace("${{ version }}", version))
    assert recipe["source"]["path"].endswith(f"deeph_gformer-{version}.tar.gz")
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = {
        "torch": "pytorch",
        "torch-geometric": "pytorch_geometric",
        "matplotlib": "matplotlib-base",
    }

    def plain(lines: str) -> set[str]:
        wanted = [
            re.split(r"(?=[<>=!])", line.replace(" ", ""), maxsplit=1) for line in lines.split("\n")
        ]
        return {f"{names.get(w[0], w[0])}{w[1]}" for w in wanted if len(w) == 2}

    run = {line.replace(" ", "") for line in recipe["requirements"]["run"]}
    python = f"python{config['options']['python_requires']}"
    assert run == plain(config["options"]["install_requires"]) | {python}
    more = {line.replace(" ", "") for line in recipe["requirements"]["run_constraints"]}
    assert more == plain(config["options.extras_require"]["train"])
    script = config["options.entry_points"]["console_scripts"].split("=")
    assert [part.strip() for part in recipe["build"]["python"]["entry_points"][0].split("=")] == [
        part.strip() for part in script
    ]
