"""Check the links of the built site and of the repository's own Markdown pages.

    python packaging/check_links.py [SITE]

Links to other pages, to anchors and to images have to lead somewhere; those to other sites are
listed, not followed. ``make docs`` runs it.
"""

from __future__ import annotations

import html.parser
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
#: Pages that are read outside of the site; those of ``docs`` are checked as they are built.
MARKDOWN = ("*.md", "examples/**/*.md", "benchmarks/**/*.md", "packaging/**/*.md")


class Page(html.parser.HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        for name in ("href", "src"):
            if name in values and tag in ("a", "img", "link", "script", "source", "object"):
                self.links.append(values[name])


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[(.*?)\]\(.*?\)|[`*]", lambda m: m[1] or "", heading.strip())
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def markdown_page(text: str) -> Page:
    """Anchors and links of a Markdown page, code left out."""
    text = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    page = Page(text)
    page.anchors |= {_slug(heading) for heading in headings}
    page.links += re.findall(r"\]\(<?([^)>\s]+)>?\)", text)
    return page


def check(pages: dict[pathlib.Path, Page], root: pathlib.Path) -> tuple[list[str], set[str]]:
    """Broken links, a line each, and links to other sites.

    Args:
        pages: by file.
        root: links that begin with a slash count from here.
    """
    broken, outside = [], set()
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme in ("data", "mailto", "javascript"):
                continue
            if parts.scheme or parts.netloc:
                outside.add(link)
                continue
            target = path
            if parts.path:
                place = urllib.parse.unquote(parts.path)
                target = root / place.lstrip("/") if place.startswith("/") else path.parent / place
                target = target.resolve()
                if not target.exists():
                    broken.append(f"{path.relative_to(root)}: {link}: no such file")
                    continue
            anchor = urllib.parse.unquote(parts.fragment)
            if anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(f"{path.relative_to(root)}: {link}: no such anchor")
    return broken, outside


def site_pages(site: pathlib.Path) -> dict[pathlib.Path, Page]:
    """Every page of a built site, but for copied sources."""
    files = (p for p in sorted(site.resolve().rglob("*.html")) if "_modules" not in p.parts)
    return {path: Page(path.read_text(encoding="utf-8")) for path in files}


def repository_pages(root: pathlib.Path = ROOT) -> dict[pathlib.Path, Page]:
    """Markdown that is read where it lies."""
    files = sorted({path.resolve() for pattern in MARKDOWN for path in root.glob(pattern)})
    return {path: markdown_page(path.read_text(encoding="utf-8")) for path in files}


def main() -> int:
    """Check; 1 where a link is broken."""
    site = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs/_build/html").resolve()
    broken, outside, count = [], set(), 0
    for pages, root in ((site_pages(site), site), (repository_pages(), ROOT)):
        found, other = check(pages, root)
        broken += found
        outside |= other
        count += sum(len(page.links) for page in pages.values())
    print("\n".join(f"elsewhere: {link}" for link in sorted(outside)))
    print("\n".join(f"broken: {line}" for line in broken))
    print(f"{count} links, {len(outside)} to other sites, {len(broken)} broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
