"""Which manifests there are, and which of them changed: by looking again and again.

Polling needs nothing of the operating system, and works on network and container file systems where notifications do
not arrive. A look stats the YAML files only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ENDINGS = (".yaml", ".yml")
VENDORED = frozenset({"__pycache__", "node_modules", "site-packages", "third_party", "vendor", "venv"})


class Signature(NamedTuple):
    """What tells one content of a file from another without reading it."""

    modified: int
    changed: int
    size: int
    device: int
    inode: int


def signatures(paths: Sequence[Path]) -> dict[str, Signature]:
    """Every file that is named, and the YAML files of every directory that is; one file under one name only.

    Hidden and vendored directories within them are passed over, and so is what cannot be read.
    """
    found: dict[str, Signature] = {}
    known: set[tuple[int, int]] = set()
    for path in paths:
        for entry in _files(path):
            try:
                about = entry.stat()
            except OSError:  # gone meanwhile, or a link to nothing
                continue
            if (about.st_dev, about.st_ino) not in known:
                known.add((about.st_dev, about.st_ino))
                found[str(entry)] = Signature(
                    about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_dev, about.st_ino
                )
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for place, directories, names in os.walk(path):
        directories[:] = sorted(name for name in directories if name not in VENDORED and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(ENDINGS) and not name.startswith("."):
                yield Path(place, name)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a look found: files to read anew, and files that are gone. ``unsettled``: some are being written."""

    changed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    unsettled: bool = False


@dataclass(slots=True)
class Watch:
    """Compares looks. The first one takes everything as it is; later a file counts once two looks in a row saw it the same.

    An editor that writes a new file and renames it, or empties a file before it writes, is seen as one change.
    """

    look: Callable[[], dict[str, Signature]]
    _taken: dict[str, Signature] = field(default_factory=dict)
    _last: dict[str, Signature] | None = None

    def changes(self) -> Changes:
        """Look, and say what changed since the last time that this was told."""
        now = self.look()
        last = now if self._last is None else self._last
        self._last = now
        differing = {name for name in now.keys() | self._taken.keys() if now.get(name) != self._taken.get(name)}
        settled = {name for name in differing if now.get(name) == last.get(name)}
        changed = frozenset(name for name in settled if name in now)
        self._taken |= {name: now[name] for name in changed}
        for name in settled - changed:
            del self._taken[name]
        return Changes(changed, frozenset(settled - changed), unsettled=settled != differing)
