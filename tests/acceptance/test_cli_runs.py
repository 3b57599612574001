"""`stepwell runs`, `migrate`, `worker` and `--version`, as a user sees them."""

from __future__ import annotations

import json
import signal
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from commands import started, stepwell, within
from waiting import eventually_sync

from stepwell.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lending import Databases

MANIFEST = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: pick}
spec:
  steps:
    - name: pick
      transform: {select: [email]}
---
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: refuse, namespace: growth}
spec:
  steps:
    - name: never
      if: "false"
      transform: {value: 1}
    - name: refuse
      fail: {message: "no: {{ toJson(input) }}"}
    - name: after
      transform: {value: 2}
"""
CALL = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {{name: call}}
spec:
  steps:
    - name: notify
      httpCall: {{url: "http://127.0.0.1:{port}/"}}
"""


@pytest.fixture(scope="module")
def history(
    databases: Databases, valkey_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment of a database with three runs, the oldest first: two picked, one refused."""
    manifest = tmp_path_factory.mktemp("history") / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with databases.lent() as dsn:
        env = {"DATABASE_URL": dsn, "REDIS_URL": valkey_server, "STEPWELL_REDIS_PREFIX": "history"}
        for workflow, code in ("pick", 0), ("pick", 0), ("refuse", 1):
            done = within("run", manifest, "-w", workflow, "-i", '{"email":"\\u001b[31m"}', env=env)
            assert done.returncode == code, done.stderr
        yield env


def listed(env: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    done = within("runs", "list", "--json", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


def names(runs: list[dict[str, Any]]) -> list[str]:
    return [run["workflow"] for run in runs]


# -- list ----------------------------------------------------------------------------------------------------------------


def test_a_list_is_newest_first(history: dict[str, str]) -> None:
    done = within("runs", "list", env=history)
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["ID", "WORKFLOW", "STATUS", "TRIGGER", "CREATED", "TOOK"]
    assert [row[1:4] for row in rows] == [
        ["growth/refuse", "failed", "api"],
        ["default/pick", "succeeded", "api"],
        ["default/pick", "succeeded", "api"],
    ]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], ["refuse", "pick", "pick"]),
        (["--workflow", "pick"], ["pick", "pick"]),
        (["--workflow", "refuse"], []),
        (["--workflow", "refuse", "--namespace", "growth"], ["refuse"]),
        (["--namespace", "default"], ["pick", "pick"]),
        (["--status", "failed"], ["refuse"]),
        (["--workflow", "pick", "--status", "failed"], []),
        (["--since", "1h"], ["refuse", "pick", "pick"]),
        (["--since", "2100-01-01T00:00:00Z"], []),
        (["--limit", "1"], ["refuse"]),
    ],
)
def test_filters(arguments: list[str], found: list[str], history: dict[str, str]) -> None:
    assert names(listed(history, *arguments)) == found


def test_since_a_run(history: dict[str, str]) -> None:
    newest, middle, _ = listed(history)
    moment = datetime.fromisoformat(middle["createdAt"]) + timedelta(milliseconds=1)
    assert listed(history, "--since", moment.astimezone(UTC).isoformat()) == [newest]


@pytest.mark.parametrize("arguments", [[], ["--workflow", "pick"]])
def test_pages_hold_every_run_once(arguments: list[str], history: dict[str, str]) -> None:
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        done = within("runs", "list", "--json", "--limit", "1", *arguments, *cursor, env=history)
        page = json.loads(done.stdout)
        seen += [run["id"] for run in page["runs"]]
        if page["cursor"] is None:
            break
        cursor = ["--cursor", page["cursor"]]
    assert seen == [run["id"] for run in listed(history, *arguments)]


def test_the_next_page_is_named(history: dict[str, str]) -> None:
    first = listed(history)[0]["id"]
    assert f"--cursor {first}" in within("runs", "list", "--limit", "1", env=history).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "done"], "--status done: the words are queued, running"),
        (["--since", "yesterday"], "--since yesterday: neither a duration"),
        (["--cursor", "'; DROP"], "'; DROP is no cursor: give the one that the page before ended with"),
    ],
)
def test_a_list_refuses(arguments: list[str], message: str, history: dict[str, str]) -> None:
    done = within("runs", "list", *arguments, env=history)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


# -- get -----------------------------------------------------------------------------------------------------------------


def test_get_shows_steps_and_what_went_wrong(history: dict[str, str]) -> None:
    run = listed(history, "--status", "failed")[0]
    done = within("runs", "get", run["id"], env=history)
    assert done.returncode == 0
    assert "refuse" in done.stdout
    assert [line.split()[1:4] for line in done.stdout.splitlines() if "transform" in line] == [
        ["never", "transform", "skipped"],
        ["after", "transform", "not"],
    ]
    assert f"run {run['id']} failed at step refuse" in done.stdout
    assert "\x1b" not in done.stdout


def test_get_as_json(history: dict[str, str]) -> None:
    run = listed(history)[1]
    shown = json.loads(within("runs", "get", run["id"], "--json", env=history).stdout)
    assert shown["input"] == shown["output"] == {"email": "\x1b[31m"}
    assert [step["step"] for step in shown["steps"]] == ["pick"]
    assert run.items() <= shown.items()


@pytest.mark.parametrize("command", ["get", "watch"])
@pytest.mark.parametrize("run_id", ["nonsense", "01a204fa-6da3-7c86-ac89-a0ef3fe87dff"])
def test_an_unknown_run(command: str, run_id: str, history: dict[str, str]) -> None:
    done = within("runs", command, run_id, env=history)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"stepwell: there is no run {run_id}\n")


# -- watch ---------------------------------------------------------------------------------------------------------------


def test_watch_ends_with_the_run(tmp_path: Path, database: str, redis_url: str) -> None:
    manifest = tmp_path / "call.yaml"
    env = {"DATABASE_URL": database, "REDIS_URL": redis_url}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        manifest.write_text(CALL.format(port=listening.getsockname()[1]))
        with started("run", manifest, env=env) as running:
            connection, _ = listening.accept()
            with connection:
                run_id = listed(env)[0]["id"]
                with started("runs", "watch", run_id, "--json", env=env) as watching:
                    assert watching.stdout
                    first = json.loads(watching.stdout.readline())
                    assert [(step["step"], step["state"]) for step in first["steps"]] == [("notify", "running")]
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    output, _ = watching.communicate(timeout=30)
                assert watching.returncode == 0
                assert json.loads(output.splitlines()[-1])["status"] == "succeeded"
            running.communicate(timeout=30)
    assert running.returncode == 0


def test_watch_of_a_failed_run_says_why(history: dict[str, str]) -> None:
    run = listed(history, "--status", "failed")[0]
    done = within("runs", "watch", run["id"], env=history)
    assert (done.returncode, done.stdout) == (1, "")
    assert "step refuse failed" in done.stderr
    assert "failed at step refuse" in done.stderr


# -- the environment -------------------------------------------------------------------------------------------------------


def test_without_a_database() -> None:
    done = within("runs", "list")
    assert (done.returncode, done.stderr) == (
        2,
        (
            "stepwell: set DATABASE_URL, or go to a folder where `stepwell dev` runs: the runs are read from its database; or"
            " name a gateway by --server\n"
        ),
    )


def test_migrate_and_what_is_said_before(empty_database: str) -> None:
    env = {"DATABASE_URL": empty_database}
    before = within("runs", "list", env=env)
    assert before.returncode == 3
    assert "the database lacks the migrations 0001_initial" in before.stderr
    assert "run `stepwell migrate`" in before.stderr
    first = within("migrate", env=env)
    assert (first.returncode, first.stdout.splitlines()[0]) == (0, "applied 0001_initial")
    again = within("migrate", "--json", env=env)
    assert (again.returncode, again.stdout) == (0, '{"applied":[]}\n')
    assert within("runs", "list", env=env).returncode == 0


def test_migrate_waits_as_long_as_asked_and_ends_when_told() -> None:
    nowhere = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    assert within("migrate", "--wait", "2 days", env=nowhere).returncode == 2
    short = within("migrate", "--wait", "1ms", env=nowhere)
    assert (short.returncode, "PostgreSQL is not available" in short.stderr) == (3, True)
    with started("migrate", "--wait", "1h", env=nowhere) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().endswith("Connection refused; waiting\n")
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == 130


@pytest.mark.parametrize("command", ["migrate", "worker"])
def test_processes_say_what_they_miss(command: str) -> None:
    done = within(command)
    assert done.returncode == 2
    assert "set DATABASE_URL" in done.stderr


@pytest.mark.parametrize("name", ["operator", "gateway", "worker"])
def test_sigterm_ends_a_process_that_still_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has a loop. Within this process, because the kernel does it to the first one of a container only."""

    def still_starting(_: object) -> None:
        assert callable(signal.getsignal(signal.SIGTERM)), "the first process would not hear of it"
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(f"stepwell_{name}.process.main", still_starting)
    assert within(name).returncode == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_logs_json_and_drains_on_sigterm(database: str, redis_url: str) -> None:
    env = {"DATABASE_URL": database, "REDIS_URL": redis_url, "STEPWELL_LOG": "json", "STEPWELL_METRICS_PORT": "0"}
    with started("worker", env=env) as worker, psycopg.connect(database, autocommit=True) as connection:
        eventually_sync(lambda: connection.execute("SELECT 1 FROM workers").fetchone(), 20)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=20)
    assert worker.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert any(line["message"].startswith("draining") for line in lines)


@pytest.mark.parametrize(("name", "value"), [("STEPWELL_LOG", "xml"), ("STEPWELL_SLOTS", "0")])
def test_a_setting_that_cannot_be_read(name: str, value: str) -> None:
    done = within("worker", env={name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"stepwell: {name}={value!r}: must be ")


def test_version_and_help() -> None:
    assert stepwell("--version").stdout == f"stepwell {VERSION}\n"
    shown = within("--help").stdout
    for command in "run", "validate", "migrate", "worker", "runs":
        assert f" {command} " in shown
