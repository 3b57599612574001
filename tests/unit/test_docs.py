"""Documents: what they link is there, and everything is found from the README."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
CODE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
OUTSIDE = ("http://", "https://", "mailto:")


def _pages() -> list[Path]:
    """Those that are in Git; without Git, those of the folders that hold documents."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return sorted(ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists())
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


PAGES = _pages()


@cache
def text(page: Path) -> str:
    """Without what stands in fences and between back-ticks."""
    return re.sub(r"`[^`\n]*`", "", CODE.sub("", page.read_text("utf-8")))


def links(page: Path) -> list[tuple[Path, str]]:
    """What it links in this repository: (file or folder, fragment)."""
    found = [link.partition("#") for link in LINK.findall(text(page)) if not link.startswith(OUTSIDE)]
    return [((page.parent / path).resolve() if path else page, fragment) for path, _, fragment in found]


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    made: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", CODE.sub("", page.read_text("utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        made.add(next(name for at in range(100) if (name := f"{slug}-{at}" if at else slug) not in made))
    return made


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert [name_of(path) for path, _ in links(page) if not path.exists()] == []
    lost = [
        f"{name_of(path)}#{fragment}"
        for path, fragment in links(page)
        if fragment and path.suffix == ".md" and fragment not in anchors(path)
    ]
    assert lost == []


def test_every_page_is_two_clicks_from_the_readme() -> None:
    """A link to a folder is one to its files: GitHub lists them."""
    seen = {ROOT / "README.md"}
    for _ in range(2):
        folders = {path for path in seen if path.is_dir()}
        seen |= {path for page in seen if page.suffix == ".md" for path, _ in links(page)}
        seen |= {path for folder in folders for path in folder.iterdir()}
    assert [name_of(page) for page in PAGES if page not in seen] == []


def test_pictures_are_shown_and_small() -> None:
    shown = {path for page in PAGES for path, _ in links(page) if path.parent == IMAGES}
    assert set(IMAGES.iterdir()) == shown
    assert [name_of(path) for path in shown if path.stat().st_size > 300_000] == []


def test_pictures_load_nothing() -> None:
    """A page does not load for a picture what the picture names."""
    for picture in IMAGES.glob("*.svg"):
        assert re.findall(r"(?:href|src)\s*=|url\((?!#)|<script", picture.read_text("utf-8")) == []
