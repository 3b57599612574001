"""The HTTP clients of a process, as its settings say where calls may go."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.adapters.http.allowances import StaticAllowances
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.http.own_services import OwnServices, endpoints
from stepwell.adapters.http.proxy import Proxy, parse_proxy
from stepwell.domain.errors import UsageError
from stepwell.settings import Settings


def http_clients(settings: Settings, environment: Mapping[str, str]) -> HttpClients:
    """To be entered in a running loop. Raises UsageError where the proxy's setting cannot be read."""
    found = endpoints(environment, database_url=settings.database_url, redis_url=settings.redis_url)
    allowances = StaticAllowances(AddressPolicy(allow_loopback=settings.allow_loopback))
    return HttpClients(allowances, proxy=_proxy(settings.http_proxy), own=OwnServices(found))


def _proxy(text: str | None) -> Proxy | None:
    if text is None:
        return None
    try:
        return parse_proxy(text)
    except ValueError as exc:
        message = f"STEPWELL_HTTP_PROXY {exc}"
        raise UsageError(message) from exc
