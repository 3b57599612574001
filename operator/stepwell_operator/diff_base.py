"""What kopf remembers of an object that was handled: a hash, and neither a second copy of its spec nor any progress."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

import kopf
import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

HANDED = frozenset({"stepwell.dev/on-delete"})
"""The annotations that handlers read; a change of any other is no change."""


class HashDiffBase(kopf.DiffBaseStorage):
    """Keeps ``{"hash": …}`` in one annotation; an object's old and new state are equal if their hashes are.

    Handlers therefore get no field-by-field diff. They need none: they are level-triggered.
    """

    def __init__(self, annotation: str) -> None:
        super().__init__()
        self._annotation = annotation

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002
        """The state of an object: the hash of its spec and of the annotations that are read. ``extra_fields``: unused."""
        annotations = {name: value for name, value in body.metadata.annotations.items() if name in HANDED}
        state = orjson.dumps([dict(body.spec), annotations], option=orjson.OPT_SORT_KEYS)
        return _essence(hashlib.sha256(state).hexdigest()[:32])

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """The state that was handled last, None for an object never seen."""
        found = body.metadata.annotations.get(self._annotation)
        return None if found is None else _essence(found)

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:  # noqa: ARG002
        """Note a state as handled."""
        patch.metadata.annotations[self._annotation] = cast("dict[str, str]", essence)["hash"]


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing of handlers between their tries: they have one. Kopf's own would leave a marker on every object."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Nothing is known."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is kept."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """There is nothing to be removed."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Nobody is to be woken by a write."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """There is nothing of it in a state."""
        return essence


def _essence(digest: str) -> kopf.BodyEssence:
    return cast("kopf.BodyEssence", {"hash": digest})
