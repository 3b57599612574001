"""Programs in a root of their own, with what a container has: chosen directories, most of them read-only, a user id without a
name, no capabilities, a given environment. It takes root and Linux' mount namespaces.

It is no container: network, processes and seccomp are the machine's, and so are /usr and /etc.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
DEVICES = ("null", "zero", "random", "urandom")


def missing() -> str:
    """Why there is no sandbox here; empty: there is."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "mount namespaces and another user id take root on Linux"
    if shutil.which("unshare") is None or not Path("/usr/bin/setpriv").exists():
        return "unshare and setpriv of util-linux are missing"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return tried.stderr.decode().strip() if tried.returncode else ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A root. ``places`` maps a path inside to one of this machine; those in ``writable`` may be written to."""

    root: Path
    places: Mapping[str, Path] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()
    """Directories in memory that may be written to: an emptyDir."""

    def command(
        self, argv: Sequence[str], environment: Mapping[str, str], *, user: int = 0, directory: str = "/"
    ) -> list[str]:
        """The command that runs ``argv`` inside. Its process id is that of ``argv``: every step is an exec."""
        self.root.mkdir(exist_ok=True)
        dropped = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if user else []
        inside = [
            *("/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *dropped),
            *("/usr/bin/env", "-i", "-C", directory, *(f"{name}={value}" for name, value in environment.items())),
        ]
        last = f"exec chroot {shlex.quote(str(self.root))} {shlex.join([*inside, *argv])}"
        script = "\n".join(["set -eu", "umask 022", *self._mounts(), last])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]

    def run(self, *argv: str, environment: Mapping[str, str], **how: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        command = self.command(argv, environment, **how)
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def _mounts(self) -> list[str]:
        root = shlex.quote(str(self.root))
        lines = [f"mount -t tmpfs -o mode=0755,size=16m none {root}", f"mkdir {root}/proc {root}/dev"]
        lines += [f"mount --rbind /proc {root}/proc"]
        lines += [f"touch {root}/dev/{each} && mount --bind /dev/{each} {root}/dev/{each}" for each in DEVICES]
        for name in SYSTEM:
            there = Path("/", name)
            if there.is_symlink():
                lines.append(f"ln -s {shlex.quote(str(there.readlink()))} {root}/{name}")
            elif there.is_dir():
                lines += self._bind(f"/{name}", there)
        # those that hold others come first
        for inside in sorted(self.places):
            lines += self._bind(inside, self.places[inside])
        for inside in sorted(self.empty):
            place = shlex.quote(f"{self.root}{inside}")
            lines += [f"mkdir -p {place}", f"mount -t tmpfs -o mode=1777,size=16m none {place}"]
        return [*lines, f"mount -o remount,ro {root}"]

    def _bind(self, inside: str, place: Path) -> list[str]:
        target, source = shlex.quote(f"{self.root}{inside}"), shlex.quote(str(place))
        made = f"mkdir -p {target}" if place.is_dir() else f"mkdir -p $(dirname {target}) && touch {target}"
        lines = [f"test -e {target} || {{ {made}; }}", f"mount --bind {source} {target}"]
        return lines if inside in self.writable else [*lines, f"mount -o remount,bind,ro {target}"]
