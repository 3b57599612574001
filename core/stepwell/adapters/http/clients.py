"""One client for each distinct policy: a pooled connection was checked under the policy that it was opened under."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from stepwell.adapters.http.client import AiohttpClient
from stepwell.adapters.http.own_services import OwnServices
from stepwell.domain.errors import StepwellError, UnavailableError
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.adapters.http.allowances import Allowances
    from stepwell.adapters.http.connector import Lookup
    from stepwell.adapters.http.guard import AddressPolicy
    from stepwell.adapters.http.proxy import Proxy
    from stepwell.domain.http import HttpRequest, HttpResponse

MAX_IDLE = 32  # clients that are kept without a request in flight


@dataclass(slots=True)
class _Entry:
    client: AiohttpClient
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    users: int = 0


class HttpClients:
    """Implements stepwell.domain.http.HttpClient for every namespace; an async context manager.

    What a namespace is allowed is asked for at every request, so that a change holds from the next one on.
    """

    def __init__(
        self,
        allowances: Allowances,
        *,
        proxy: Proxy | None = None,
        own: OwnServices | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._allowances = allowances
        self._proxy = proxy
        self._own = own or OwnServices()
        self._lookup = lookup
        self._entries: OrderedDict[AddressPolicy, _Entry] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        entries, self._entries = self._entries, OrderedDict()
        for entry in entries.values():
            await entry.closing.aclose()

    async def send(self, request: HttpRequest, *, seconds: float, max_bytes: int) -> HttpResponse:
        """Send one request under the policy of its namespace, as the protocol says."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        entry = await self._entry(await self._policy(request.namespace, seconds))
        entry.users += 1
        try:
            return await entry.client.send(request, seconds=deadline - clock(), max_bytes=max_bytes)
        finally:
            entry.users -= 1
            if len(self._entries) > MAX_IDLE:
                await self._close_one()

    async def _policy(self, namespace: str, seconds: float) -> AddressPolicy:
        try:
            async with asyncio.timeout(seconds):
                return await self._allowances.policy(namespace)
        except TimeoutError as exc:
            message = f"what the namespace {namespace} is allowed was not found out within {seconds:g} s"
            raise StepFailure("AllowancesUnavailable", message, kind="Network", sent=False) from exc
        except UnavailableError as exc:
            message = f"what the namespace {namespace} is allowed cannot be found out: {exc}"
            raise StepFailure("AllowancesUnavailable", message, kind="Network", sent=False) from exc
        except StepwellError as exc:
            raise StepFailure("AllowancesInvalid", str(exc), sent=False, final=True) from exc

    async def _entry(self, policy: AddressPolicy) -> _Entry:
        entry = self._entries.get(policy)
        if entry is None:
            client = AiohttpClient(policy, lookup=self._lookup, proxy=self._proxy, own=self._own)
            entry = self._entries[policy] = _Entry(client)
            await entry.closing.enter_async_context(client)
        else:
            self._entries.move_to_end(policy)
        return entry

    async def _close_one(self) -> None:
        """The client that was asked for longest ago, unless all are busy."""
        policy = next((policy for policy, entry in self._entries.items() if not entry.users), None)
        if policy is not None:
            await self._entries.pop(policy).closing.aclose()
