"""Runs on stdout."""

from __future__ import annotations

import pytest

from stepwell_cli.pages import door


@pytest.mark.parametrize(
    ("trigger", "shown"),
    [("5f0c2f0e-6d5e-4a1c-8f0a-0d7f9c1b2a3e", "WorkflowRun"), ("nightly", "nightly"), ("api", "api")],
)
def test_where_a_run_came_in(trigger: str, shown: str) -> None:
    assert door(trigger) == shown
