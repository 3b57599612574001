"""Who may do what: the contract's table of acts, verbs and (virtual) subresources of ``workflows``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """What the caller must be allowed on a workflow, or on all of a namespace where none is named."""

    verb: str
    subresource: str

    def __str__(self) -> str:
        return f"{self.verb} workflows/{self.subresource}"


START = Rule("create", "runs")
"""Start a run, or run one again."""

LIST = Rule("list", "runs")
GET = Rule("get", "runs")
"""Runs, their steps and events, without payloads."""

PAYLOADS = Rule("get", "payloads")
"""Inputs, outputs and details of errors; and to choose the input of a repeated run."""

CONTROL = Rule("update", "runs")
"""Cancel and retry."""

APPROVE = Rule("update", "approvals")
"""Approve and reject."""
