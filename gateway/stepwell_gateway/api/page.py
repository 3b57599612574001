"""``/docs``: the table of routes on one page, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from stepwell_gateway.api.table import PREFIX, Endpoint

CONTENT_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .8rem .4rem 0;vertical-align:top;"
    "border-bottom:1px solid #ddd}code{font-size:.85em;overflow-wrap:anywhere}"
)


def page(endpoints: Iterable[Endpoint]) -> str:
    """HTML."""
    rows = "".join(
        f"<tr><td><code>{e.method}</code></td><td><code>{escape(PREFIX + e.path)}</code></td>"
        f"<td>{escape(e.summary)}</td><td><code>{escape(str(e.rule))}</code></td></tr>"
        for e in endpoints
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Stepwell API</title>'
        f"<style>{_STYLE}</style></head><body><h1>Stepwell API</h1>"
        "<p>Every call needs a bearer token: <code>Authorization: Bearer …</code>. Errors are "
        "<code>application/problem+json</code>. The whole description, with all parameters and documents, is "
        '<a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1); it tells of webhooks and approval links, too.</p>'
        "<table><thead><tr><th>Method</th><th>Path</th><th>What</th><th>Right on <code>stepwell.dev</code></th></tr>"
        f"</thead><tbody>{rows}</tbody></table></body></html>"
    )
