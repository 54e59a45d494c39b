"""Links of the pages that are read in the repository, and what finds broken ones."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType

import pytest

from .conftest import ROOT


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "check_links", ROOT / "packaging" / "check_links.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_repository_lead_somewhere(checker: ModuleType) -> None:
    broken, outside = checker.check(checker.repository_pages(), ROOT)
    assert not broken
    assert all(link.startswith("https://") for link in outside)


def test_broken_links_are_found(
    checker: ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="sub/b.html#here">x</a> <a href="#gone">x</a> <img src="no.png">'
        '<a href="https://example.org/a">x</a> <a href="sub/b.html#not">x</a>'
        '<a href="/index.html">x</a><a href="mailto:a@b.c">x</a><a href="name%20b.html">x</a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<h1 id="here">x</h1><a href="../index.html">x</a>')
    (tmp_path / "name b.html").write_text("x")
    broken, outside = checker.check(checker.site_pages(tmp_path), tmp_path.resolve())
    assert [line.split(": ")[1] for line in broken] == ["#gone", "no.png", "sub/b.html#not"]
    assert outside == {"https://example.org/a"}
    page = checker.markdown_page("# A `b` c\n[x](#a-b-c) ![y](z.png)\n```\n[no](no)\n```\n`[n](n)`")
    assert page.anchors == {"a-b-c"} and page.links == ["#a-b-c", "z.png"]
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(tmp_path)])
    assert checker.main() == 1
