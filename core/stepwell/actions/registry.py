"""The actions that Stepwell brings along."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stepwell.actions.approval import Approval
from stepwell.actions.fail import Fail
from stepwell.actions.http_call import HttpCall
from stepwell.actions.transform import Transform
from stepwell.actions.wait import Wait
from stepwell.domain.secrets import NO_NOTES

if TYPE_CHECKING:
    from stepwell.domain.action import Actions, ActionType
    from stepwell.domain.approvals import Questions
    from stepwell.domain.http import HttpClient
    from stepwell.domain.secrets import SecretNotes, SecretResolver


def default_actions(
    http: HttpClient | None = None,
    secrets: SecretResolver | None = None,
    questions: Questions | None = None,
    notes: SecretNotes = NO_NOTES,
) -> Actions:
    """Every built-in action by its name in a manifest.

    Without ``http`` they serve to validate only; without ``secrets`` a step that needs a Secret fails, and
    without ``questions`` one that asks for approval. ``notes`` are taken of how the use of Secrets went.
    """
    built_in: tuple[ActionType, ...] = (
        Transform(),
        Fail(),
        Wait(),
        Approval(questions),
        HttpCall(http, secrets, notes),
    )
    return MappingProxyType({action.name: action for action in built_in})
