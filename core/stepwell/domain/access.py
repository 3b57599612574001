"""Who asks, and whether they may: what the API needs to know of whoever shows it a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stepwell.domain.errors import StepwellError


class UnauthenticatedError(StepwellError):
    """The bearer token is not one that is known here (any more)."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token belongs to, as the authenticator said; hashable, and without the token.

    ``groups`` and the values of ``extra`` are in the order that they came in; ``extra`` is sorted by its keys. ``user`` is
    what records name (``approved by``), such as ``alice`` or ``system:serviceaccount:growth:ci``.
    """

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Access(Protocol):
    """Authenticates and authorises; every answer may be some seconds old."""

    async def identify(self, token: str) -> Identity:
        """Whose token it is. Raises UnauthenticatedError, or UnavailableError where that cannot be found out."""

    async def allowed(self, identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        """Whether they may do ``verb`` (``create``, ``get``, ``list``, ``update``) to a part of a workflow.

        ``subresource`` is ``runs``, ``payloads`` or ``approvals``, "" for the workflow itself; ``name`` is the workflow's, ""
        where it is about all of the namespace. Raises UnavailableError where that cannot be found out: then it is no.
        """
