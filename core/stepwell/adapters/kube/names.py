"""Names in paths of the API: checked, so that no name leads to another object."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


def is_name(text: str) -> bool:
    """Whether an object can have this name (RFC 1123, a subdomain)."""
    return _NAME.match(text) is not None and ".." not in text


def object_path(resource: str, namespace: str, name: str) -> str:
    """The path of a namespaced object of the core group."""
    return f"/api/v1/namespaces/{namespace}/{resource}/{name}"
