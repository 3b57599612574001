"""Carries out the Dockerfile's first stage in a plain folder, and gives the root that the image would have.

The interpreter is the tests' own, and what `pip install -r requirements-*.lock` would fetch is taken from where the tests run:
exactly the packages that the lock names, no other. ``STEPWELL_IMAGE_PYTHON=/path/to/bin/python`` takes that interpreter and the
real pip instead, with a network and half a minute.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sandbox import Sandbox

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("STEPWELL_IMAGE_PYTHON")
WORDS = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "LABEL", "USER", "CMD"}
USER = 10001

INSTALL = '''#!{python}
"""pip, but for what a lock names: that is linked from where this Python keeps it."""
import os, re, sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

asked = sys.argv[1:]
if asked[:3] != ["-m", "pip", "--python"] or "--require-hashes" not in asked:
    os.execv({python!r}, [{python!r}, *asked])
(target,) = (Path(asked[3]).parents[1] / "lib").glob("python*/site-packages")
for name, condition in re.findall(r"^([A-Za-z0-9._-]+)==[^ ]+ (?:; (.*))?", Path(asked[-1]).read_text(), re.M):
    try:
        found = distribution(name)
    except PackageNotFoundError:
        if not condition:
            raise
        continue
    for top in {{file.parts[0] for file in found.files or ()}} - {{"..", "__pycache__"}}:
        link = target / top
        if not link.is_symlink():
            link.symlink_to(found.locate_file(top))
'''


@dataclass(frozen=True, slots=True)
class Image:
    """What was built: ``folder`` holds what the build stage has at its /opt and /src."""

    folder: Path
    environment: dict[str, str]
    command: list[str]

    def sandbox(self, directory: Path, **more: Path) -> Sandbox:
        """The final stage's root: nothing in it may be written to."""
        directory.mkdir(parents=True, exist_ok=True)
        return Sandbox(
            directory / "root", {**_interpreter(), "/opt/stepwell": self.folder / "opt" / "stepwell", **more}
        )


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    found = [line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line]
    assert {word for word, _, _ in found} <= WORDS, "an instruction that this cannot carry out"
    return [(word, rest.strip()) for word, _, rest in found]


def build(folder: Path) -> Image:
    """Carry out the first stage in ``folder``; the last one's ENV and CMD are the image's."""
    steps = instructions()
    second = [number for number, (word, _) in enumerate(steps) if word == "FROM"][1]
    _first_stage(steps[:second], folder)
    final = dict(_last_stage(steps[second:]))
    environment = dict(each.split("=", 1) for each in shlex.split(final["ENV"]))
    assert final["USER"] == f"{USER}:{USER}"
    return Image(folder, environment, re.findall(r'"(.*?)"', final["CMD"]))


def _first_stage(steps: list[tuple[str, str]], folder: Path) -> None:
    places = {f"/{name}": folder / name for name in ("opt", "src", "tmp")}
    for each in places.values():
        each.mkdir(parents=True)
    programs = folder / "programs"
    _python(programs)
    box = Sandbox(folder / "root", {**_interpreter(), **places, "/programs": programs}, frozenset(places))
    first = Path(PYTHON).parent if PYTHON else "/programs"
    environment = {"PATH": f"{first}:/usr/bin:/bin", "HOME": "/tmp"}
    if PYTHON:  # the cache of whoever tests
        cache = Path.home() / ".cache" / "pip"
        cache.mkdir(parents=True, exist_ok=True)
        environment |= {"PIP_CACHE_DIR": "/cache"}
        box = Sandbox(box.root, {**box.places, "/cache": cache}, box.writable | {"/cache"})
    directory = "/"
    for word, rest in steps:
        if word == "ENV":
            environment |= dict(each.split("=", 1) for each in shlex.split(rest))
        elif word == "WORKDIR":
            directory = rest
        elif word == "COPY":
            _copy(rest.split(), folder / directory.strip("/"))
        elif word == "RUN":
            done = box.run("sh", "-euc", rest, environment=environment, directory=directory)
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def _last_stage(steps: list[tuple[str, str]]) -> list[tuple[str, str]]:
    copies = [rest for word, rest in steps if word == "COPY"]
    assert copies == ["--from=build --chown=0:0 /opt/stepwell /opt/stepwell"], "the sandbox takes exactly this over"
    return steps


def _copy(arguments: list[str], directory: Path) -> None:
    *sources, target = arguments
    for source in sources:
        place = directory / target / source if target == "./" else directory / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / source, place)


def _python(programs: Path) -> None:
    programs.mkdir()
    script = programs / "python"
    script.write_text(INSTALL.format(python=sys.executable))
    script.chmod(0o755)


def _interpreter() -> dict[str, Path]:
    """The directories of the interpreter that are not the system's own."""
    if PYTHON:
        asked = "import sys; print(sys.prefix); print(sys.base_prefix)"
        found = subprocess.run([PYTHON, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    else:
        found = [sys.prefix, sys.base_prefix]
    return {each: Path(each) for each in found if not each.startswith("/usr")}
