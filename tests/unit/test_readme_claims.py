"""What the README says of others is what they say."""

from __future__ import annotations

import re

import prometheus
import pytest
from commands import ROOT

from stepwell.domain.support import NOT_YET

README = (ROOT / "README.md").read_text("utf-8")


def item(begin: str) -> str:
    """The item of a list that begins so, in one line."""
    (found,) = re.findall(rf"^- {re.escape(begin)}.*?(?=^- |^$)", README, re.MULTILINE | re.DOTALL)
    return " ".join(found.split())


def test_what_is_refused_by_name_is_named() -> None:
    assert set(re.findall(r"`(\w+)`", item("**Refused by name**"))) == NOT_YET


def test_its_speeds_are_measured_ones() -> None:
    ranges = re.findall(r"[\d,]+ to [\d,]+", item("**Speed**"))
    assert len(ranges) == 2
    for page in ("benchmarks.md", "comparison.md"):
        text = (ROOT / "docs" / page).read_text("utf-8")
        assert [each for each in ranges if each not in text] == [], f"docs/{page} has other figures"


def test_its_alerts_are_counted() -> None:
    assert f"{len(prometheus.alerts())} alerts" in README


@pytest.mark.parametrize("name", ["stepwell.yaml", "argo-events.yaml", "argo-workflows.yaml", "temporal.py"])
def test_its_comparison_is_that_of_the_page(name: str) -> None:
    page = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    (row,) = re.findall(rf"^\|.*\(comparison/{name}\)[^|]*\|(.*)\|$", page, re.MULTILINE)
    (cell,) = [each for each in re.findall(r"[^|\n]+", README) if f"(docs/comparison/{name})" in each]
    *objects, lines, _ = (each.strip() for each in row.split("|") if each.strip())
    assert {*objects, lines} <= set(re.findall(r"\b\d+\b", cell))
