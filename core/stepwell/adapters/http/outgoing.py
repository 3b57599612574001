"""The HTTP clients of a process, as its settings say where calls may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stepwell.adapters.http.allowances import Allowances, StaticAllowances
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.http.own_services import Endpoint, OwnServices, endpoints
from stepwell.adapters.http.proxy import Proxy, parse_proxy
from stepwell.domain.errors import UsageError
from stepwell.settings import Settings


def http_clients(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    allowances: Allowances | None = None,
    own: Iterable[Endpoint] = (),
) -> HttpClients:
    """To be entered in a running loop; without ``allowances`` no namespace is allowed more than the others.

    ``own`` is what must not be reached beside what the settings name. Raises UsageError where the proxy's setting cannot be
    read.
    """
    found = endpoints(environment, database_url=settings.database_url, redis_url=settings.redis_url)
    known = allowances or StaticAllowances(AddressPolicy(allow_loopback=settings.allow_loopback))
    return HttpClients(known, proxy=_proxy(settings.http_proxy), own=OwnServices(found | set(own)))


def _proxy(text: str | None) -> Proxy | None:
    if text is None:
        return None
    try:
        return parse_proxy(text)
    except ValueError as exc:
        message = f"STEPWELL_HTTP_PROXY {exc}"
        raise UsageError(message) from exc
