"""Who a bearer token belongs to (TokenReview), and what they may do (SubjectAccessReview)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from stepwell.adapters.kube.answers import Answers
from stepwell.adapters.kube.names import is_name
from stepwell.domain.access import Identity, UnauthenticatedError
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from stepwell.adapters.kube.calls import KubeCalls

FRESH = 10.0  # seconds that a yes is believed
FRESH_FAILURE = 2.0  # seconds that a no is, or that nobody answered
ENTRIES = 10_000  # tokens, and as many questions
ASKING = 16  # reviews at once: a flood of tokens must not take the connections of other calls
WAITING = 256  # reviews that wait for their turn; more are turned away

GROUP, VERSION, RESOURCE = "stepwell.dev", "v1alpha1", "workflows"
MAX_TOKEN = 16_384  # characters
_TOKEN = re.compile(r"[!-~]+\Z")  # visible ASCII

_Question = tuple[Identity, str, str, str, str]


class KubeAccess:
    """Implements stepwell.domain.access.Access over the API server.

    ``audiences`` are those that a token must be for; none: the API server's own. No token is kept, only its keyed hash.
    """

    def __init__(
        self,
        calls: KubeCalls,
        audiences: tuple[str, ...] = (),
        *,
        fresh: float = FRESH,
        fresh_failure: float = FRESH_FAILURE,
    ) -> None:
        self._calls = calls
        self._audiences = audiences
        self._fresh = fresh
        self._fresh_failure = fresh_failure
        self._key = secrets.token_bytes(32)
        self._identities: Answers[bytes, Identity | UnavailableError | None] = Answers(entries=ENTRIES)
        self._verdicts: Answers[_Question, bool | UnavailableError] = Answers(entries=ENTRIES)
        self._turn = asyncio.Semaphore(ASKING)
        self._waiting = 0

    async def identify(self, token: str) -> Identity:
        """Whose token it is. Raises UnauthenticatedError, UnavailableError."""
        if len(token) > MAX_TOKEN or not _TOKEN.match(token):
            raise UnauthenticatedError("the bearer token is not a token")
        key = hashlib.blake2b(token.encode(), key=self._key, digest_size=32).digest()
        found = await self._identities.get(key, lambda: self._ask_who(token))
        if isinstance(found, Identity):
            return found
        if found is None:
            raise UnauthenticatedError("the bearer token is not known here, or not any more; get a new one")
        raise UnavailableError(str(found))  # anew for each: an exception gathers the traces of all who raise it

    async def allowed(self, identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        """Whether they may. Raises UnavailableError."""
        if not is_name(namespace) or (name and not is_name(name)):
            return False
        question = (identity, verb, subresource, namespace, name)
        found = await self._verdicts.get(question, lambda: self._ask_whether(question))
        if isinstance(found, bool):
            return found
        raise UnavailableError(str(found))

    async def _ask_who(self, token: str) -> tuple[Identity | UnavailableError | None, float]:
        spec: dict[str, Any] = {"token": token}
        if self._audiences:
            spec["audiences"] = list(self._audiences)
        try:
            status = await self._review("authentication.k8s.io", "TokenReview", spec)
        except UnavailableError as exc:
            return UnavailableError(str(exc)), self._fresh_failure  # without the frames that knew the token
        found = identity_of(status, self._audiences)
        return found, self._fresh_failure if found is None else self._fresh

    async def _ask_whether(self, question: _Question) -> tuple[bool | UnavailableError, float]:
        try:
            status = await self._review("authorization.k8s.io", "SubjectAccessReview", access_review(*question))
        except UnavailableError as exc:
            return UnavailableError(str(exc)), self._fresh_failure
        allowed = status.get("allowed") is True and status.get("denied") is not True
        return allowed, self._fresh if allowed else self._fresh_failure

    async def _review(self, group: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        """The review's status. Raises UnavailableError also where this process may not ask."""
        path = f"/apis/{group}/v1/{kind.lower()}s"
        async with self._slot():
            answer = await self._calls.ask(kind, path, {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec})
        status = answer.document.get("status")
        if answer.status not in {200, 201} or not isinstance(status, dict):
            message = f"the {kind} was answered {answer.status}; does the gateway have the right to create them?"
            raise UnavailableError(message)
        return status

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING:
            raise UnavailableError("too many tokens are being looked at; come again")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()


def access_review(identity: Identity, verb: str, subresource: str, namespace: str, name: str) -> dict[str, Any]:
    """The spec of a SubjectAccessReview."""
    attributes = {"group": GROUP, "version": VERSION, "resource": RESOURCE, "namespace": namespace, "verb": verb}
    if subresource:
        attributes["subresource"] = subresource
    if name:
        attributes["name"] = name
    spec: dict[str, Any] = {"resourceAttributes": attributes, "user": identity.user, "groups": list(identity.groups)}
    if identity.uid:
        spec["uid"] = identity.uid
    if identity.extra:
        spec["extra"] = {key: list(values) for key, values in identity.extra}
    return spec


def identity_of(status: dict[str, Any], audiences: tuple[str, ...]) -> Identity | None:
    """Who a TokenReview's status names, None where nobody.

    An authenticator that knows no audiences leaves them out of its answer: then the token is not taken to be for ours.
    """
    user = status.get("user")
    if status.get("authenticated") is not True or not isinstance(user, dict) or not _text(user.get("username")):
        return None
    if audiences and not set(audiences) & set(_texts(status.get("audiences"))):
        return None
    given = user.get("extra")
    extra = sorted((key, _texts(values)) for key, values in given.items()) if isinstance(given, dict) else []
    return Identity(_text(user["username"]), _text(user.get("uid")), _texts(user.get("groups")), tuple(extra))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
