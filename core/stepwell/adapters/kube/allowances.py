"""What each namespace of the cluster is allowed beyond public addresses: an annotation of the Namespace."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from stepwell.adapters.http.allowances import ANNOTATION, AllowanceError, with_annotation
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.kube.answers import Answers
from stepwell.adapters.kube.names import is_name
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.adapters.kube.calls import KubeCalls

FRESH = 10.0  # seconds that a Namespace is believed
FRESH_FAILURE = 2.0  # seconds in which the API server is not asked again after it did not answer
STALE = 900.0  # seconds that what was known goes on to hold while nobody answers
ENTRIES = 10_000
COMPLAINT = 60.0  # seconds between two lines about a right that is missing

_Found = AddressPolicy | AllowanceError | UnavailableError

log = logging.getLogger(__name__)


class KubeAllowances:
    """Implements Allowances.

    Calls to public addresses must not stop with the API server, so that what was known holds on for 15 minutes while it is
    away. A Namespace that is missing, or that this process may not read, is allowed nothing more.
    """

    def __init__(
        self,
        calls: KubeCalls,
        base: AddressPolicy,
        *,
        fresh: float = FRESH,
        fresh_failure: float = FRESH_FAILURE,
        stale: float = STALE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._base = base
        self._fresh = fresh
        self._fresh_failure = fresh_failure
        self._stale = stale
        self._monotonic = monotonic
        self._answers: Answers[str, _Found] = Answers(entries=ENTRIES, monotonic=monotonic)
        self._last: OrderedDict[str, tuple[float, _Found]] = OrderedDict()
        self._complained = float("-inf")

    async def policy(self, namespace: str) -> AddressPolicy:
        """The namespace's policy, some seconds old. Raises AllowanceError, UnavailableError."""
        found = await self._answers.get(namespace, lambda: self._ask(namespace))
        if isinstance(found, AddressPolicy):
            return found
        raise type(found)(str(found))  # anew for each: an exception gathers the traces of all who raise it

    async def _ask(self, namespace: str) -> tuple[_Found, float]:
        began = self._monotonic()
        try:
            found = await self._read(namespace)
        except UnavailableError as exc:
            return self._known(namespace) or UnavailableError(str(exc)), self._fresh_failure
        self._last[namespace] = (began, found)
        self._last.move_to_end(namespace)
        if len(self._last) > ENTRIES:
            self._last.popitem(last=False)
        return found, self._fresh

    def _known(self, namespace: str) -> _Found | None:
        asked, found = self._last.get(namespace, (float("-inf"), None))
        return found if self._monotonic() - asked <= self._stale else None

    async def _read(self, namespace: str) -> AddressPolicy | AllowanceError:
        if not is_name(namespace):
            return self._base
        answer = await self._calls.get("Namespace", f"/api/v1/namespaces/{namespace}")
        if answer.status == 404:
            return self._base
        if answer.status == 403:
            self._complain()
            return self._base
        if answer.status != 200:
            message = f"the Namespace {namespace} cannot be read: the API server answered {answer.status}"
            raise UnavailableError(message)
        try:
            return with_annotation(_annotation(answer.document), self._base)
        except AllowanceError as exc:
            return AllowanceError(str(exc))

    def _complain(self) -> None:
        now = self._monotonic()
        if now - self._complained >= COMPLAINT:
            self._complained = now
            log.warning("this process may not get Namespaces, so that no %s is known; give it that right", ANNOTATION)


def _annotation(document: dict[str, Any]) -> str | None:
    about = document.get("metadata")
    annotations = about.get("annotations") if isinstance(about, dict) else None
    text = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
    return text if isinstance(text, str) else None
