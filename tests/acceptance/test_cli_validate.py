"""`stepwell validate`: every kind of mistake, with its file and line, and nothing else on stdout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from commands import EXAMPLES, stepwell, within

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: good}
spec:
  inputSchema:
    type: object
    properties: {email: {type: string}}
  steps:
    - name: pick
      transform: {select: [email]}
    - name: call
      httpCall: {url: "https://example.org/{{ email }}"}
"""
BAD = [
    pytest.param("kind: Workflow", "kind: [", 4, "not valid YAML", id="no YAML"),
    pytest.param("apiVersion: stepwell.dev/v1alpha1", "apiVersion: v1", 2, "kind", id="another kind"),
    pytest.param("v1alpha1", "v9", 1, "apiVersion", id="another version"),
    pytest.param("name: good", "name: Good", 3, "metadata.name", id="a bad name"),
    pytest.param("    - name: pick", "    - name: pick\n      wiat: 1", 10, "spec.steps[0].wiat", id="unknown field"),
    pytest.param("transform: {select: [email]}", "needs: []", 9, "spec.steps[0]", id="no action"),
    pytest.param("- name: call", "- name: pick", 11, "spec.steps[1].name", id="the same name"),
    pytest.param(
        "      httpCall", "      needs: [pikc]\n      httpCall", 12, "spec.steps[1].needs[0]", id="unknown need"
    ),
    pytest.param("      transform", "      needs: [call]\n      transform", 10, "spec.steps[0].needs", id="a cycle"),
    pytest.param("{{ email }}", "{{ emial }}", 12, "spec.steps[1].httpCall.url", id="unknown name"),
    pytest.param("{{ email }}", "{{ email", 12, "spec.steps[1].httpCall.url", id="an open template"),
    pytest.param("{{ email }}", "{{ email + }}", 12, "spec.steps[1].httpCall.url", id="a broken expression"),
    pytest.param("type: object", "type: array", 6, "spec.inputSchema.type", id="no object"),
    pytest.param("type: string", "type: strnig", 7, "spec.inputSchema.properties.email.type", id="no schema"),
    pytest.param("      httpCall", "      timeout: 10\n      httpCall", 12, "spec.steps[1].timeout", id="no duration"),
]


@pytest.mark.parametrize(("old", "new", "line", "path"), BAD)
def test_a_mistake_is_shown_where_it_stands(old: str, new: str, line: int, path: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    done = within("validate", file)
    assert done.returncode == 2
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"{file}:{line}: {path}"), done.stdout
    assert all(shown.startswith(f"{file}:") for shown in done.stdout.splitlines())
    assert done.stderr == ""
    as_json = json.loads(within("validate", "--json", file).stdout)
    assert as_json["valid"] is False
    assert as_json["problems"][0]["line"] == line


def test_all_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(GOOD.replace("{{ email }}", "{{ emial }}").replace("transform: {select", "transfrom: {select"))
    two.write_text(GOOD.replace("type: string", "type: strnig").replace("{{ email }}", "{{ email"))
    done = stepwell("validate", one, EXAMPLES / "order.yaml", two)
    assert done.returncode == 2
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == {str(one), str(two)}
    assert len(done.stdout.splitlines()) >= 3
    assert done.stderr == f"{EXAMPLES / 'order.yaml'}: ok (Workflow default/order)\n"


def test_a_name_twice_over_two_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for file in one, two:
        file.write_text(GOOD)
    done = within("validate", one, two)
    assert done.returncode == 2
    assert done.stdout == (f"{two}:3: metadata.name: Workflow default/good stands already at {one}:1; keep one\n")


def test_a_file_with_nothing_in_it(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    done = within("validate", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{file}: ok (holds no document)\n")


def test_stdin_and_json() -> None:
    done = stepwell("validate", "-", stdin=GOOD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "<stdin>: ok (Workflow default/good)\n")
    done = stepwell("validate", "--json", "-", stdin=GOOD.replace("{{ email }}", "{{ emial }}"))
    assert json.loads(done.stdout)["problems"][0].keys() == {"file", "line", "path", "message"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "not UTF-8 text (byte 0)"), (None, "cannot be read: No such file or directory")],
)
def test_a_file_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    if content is not None:
        file.write_bytes(content)
    done = within("validate", file)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"stepwell: {file}: {message}\n")


def test_a_warning_is_said_and_refuses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD.replace("httpCall: {", "httpCall: {headers: {X-Api-Key: hunter2}, "))
    done = within("validate", file)
    assert (done.returncode, done.stdout) == (0, "")
    said = "spec.steps[1].httpCall.headers.X-Api-Key: seems to hold a credential"
    assert f"warning: {file}:12: {said}" in done.stderr
    assert "hunter2" not in done.stderr
    (warning,) = json.loads(within("validate", "--json", file).stdout)["warnings"]
    assert (warning["line"], warning["path"]) == (12, said.partition(":")[0])
