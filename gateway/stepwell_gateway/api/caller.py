"""Who calls, and what they may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.domain.access import UnauthenticatedError
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from stepwell.domain.access import Access, Identity
    from stepwell_gateway.api.rules import Rule

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="stepwell"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller in a namespace."""

    identity: Identity
    namespace: str
    access: Access

    async def may(self, rule: Rule, workflow: str = "") -> bool:
        """Whether they may do this to a workflow, or ("") to all of the namespace. Raises UnavailableError."""
        return await self.access.allowed(self.identity, rule.verb, rule.subresource, self.namespace, workflow)

    async def must(self, rule: Rule, workflow: str = "") -> None:
        """Raises Problem 403 where they may not. It names no workflow: whether there is one is not theirs to know."""
        if not await self.may(rule, workflow):
            raise Problem(403, f"{self.identity.user} may not {rule} in namespace {self.namespace}")


async def identified(request: Request, access: Access) -> Identity:
    """Whose bearer token came with the request. Raises Problem 401, UnavailableError."""
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(401, "send a bearer token: Authorization: Bearer …", headers=_CHALLENGE)
    try:
        return await access.identify(token.strip())
    except UnauthenticatedError as exc:
        raise Problem(401, str(exc), headers=_CHALLENGE) from None
