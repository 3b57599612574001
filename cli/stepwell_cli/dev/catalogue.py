"""What all manifests mean together: the last good version of each file, and no name twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from stepwell.domain.errors import Problem
from stepwell.domain.manifest import Document
from stepwell_cli.dev.sift import Loaded, for_workflows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

Key: TypeAlias = tuple[str, str, str]  # kind, namespace, name


class Catalogue:
    """``bad`` holds the problems of the files that do not count as they are; ``documents`` is what does.

    Secrets of the files in ``favoured`` (``--secrets``) stand in for those of the same name elsewhere.
    """

    def __init__(self, favoured: Iterable[str] = ()) -> None:
        self._favoured = frozenset(favoured)
        self._latest: dict[str, Loaded] = {}
        self._good: dict[str, tuple[Document, ...]] = {}
        self.bad: dict[str, tuple[Problem, ...]] = {}
        self.documents: list[Document] = []

    def update(self, changed: Mapping[str, Loaded], gone: Collection[str] = ()) -> None:
        """Take these versions of files, and forget those that are gone.

        Files that stand are asked first, so of two that define one workflow the newer is the bad one. Those that were
        bad are asked again: what was in their way may have gone.
        """
        self._latest = {name: loaded for name, loaded in (self._latest | dict(changed)).items() if name not in gone}
        standing = {n for n in self._latest.keys() - changed.keys() if n not in self.bad}
        order = sorted(self._latest, key=lambda name: (name not in self._favoured, name not in standing, name))
        taken: dict[Key, Document] = {}
        self.bad = {}
        good: dict[str, tuple[Document, ...]] = {}
        for name in order:
            loaded = self._latest[name]
            problems = loaded.problems or self._twins(loaded.documents, taken)
            if problems:
                self.bad[name] = problems
            if not problems or name in self._favoured:
                good[name] = self._good.get(name, ()) if problems else loaded.documents
                taken |= {_key(document): document for document in good[name] if _claims(document)}
        for name in [bad for bad in self.bad if bad not in good]:
            # what it held when it was good, as far as nobody else holds it now
            good[name] = tuple(d for d in self._good.get(name, ()) if _key(d) not in taken)
            taken |= {_key(document): document for document in good[name]}
        self._good = good
        self.documents = [document for name in reversed(order) for document in good[name]]

    def _twins(self, documents: Iterable[Document], taken: Mapping[Key, Document]) -> tuple[Problem, ...]:
        return tuple(
            document.located(_twin(document, taken[_key(document)]))
            for document in documents
            if _claims(document) and _key(document) in taken and not self._stands_in(taken[_key(document)])
        )

    def _stands_in(self, document: Document) -> bool:
        return document.kind == "Secret" and document.file in self._favoured


def _twin(document: Document, other: Document) -> Problem:
    name = f"{document.kind} {document.namespace}/{document.name}"
    return Problem("metadata.name", f"{name} stands already at {other.file}:{other.line}; keep one")


def _claims(document: Document) -> bool:
    """Whether nobody else may have its name. Secrets that are not for workflows are Kubernetes' own affair."""
    return document.kind == "Workflow" or (document.kind == "Secret" and for_workflows(document))


def _key(document: Document) -> Key:
    return document.kind, document.namespace, document.name
