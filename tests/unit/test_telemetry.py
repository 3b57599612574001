"""The log, as lines for people and for collectors."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from stepwell.domain.action import Call
from stepwell.engine.current import CALL
from stepwell.settings import LogSettings
from stepwell.telemetry import setup_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def written(form: str, capsys: pytest.CaptureFixture[str], level: str = "INFO") -> str:
    setup_logging(LogSettings(form, level))
    log = logging.getLogger("stepwell.test")
    log.info("a run of %s\nended", "default/welcome", extra={"run": RUN})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    return capsys.readouterr().err


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    shown = written("text", capsys)
    assert "Z INFO    stepwell.test: a run of default/welcome" in shown
    assert f"run={RUN}\n" in shown
    assert shown.endswith("ValueError: broken\n")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(json.loads, written("json", capsys).splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "INFO",
        "logger": "stepwell.test",
        "message": "a run of default/welcome\nended",
        "run": RUN,
        "trace": RUN.replace("-", ""),
    }
    assert second["exception"].endswith("ValueError: broken")


def test_what_is_logged_within_an_attempt_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    token = CALL.set(Call("growth", "welcome", RUN, "notify", 2, 30.0, f"{RUN}/notify"))
    try:
        setup_logging(LogSettings("json"))
        logging.getLogger("a.library").warning("something", extra={"attempt": 3})
    finally:
        CALL.reset(token)
    entry = json.loads(capsys.readouterr().err)
    expected = {"run": RUN, "namespace": "growth", "workflow": "welcome", "step": "notify", "attempt": 3}
    assert expected.items() <= entry.items()


def test_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a run of" not in written("text", capsys, "ERROR")


def test_stderr_is_looked_up_at_every_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A live table stands in for stderr while it is shown."""
    setup_logging(LogSettings())
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", __import__("sys").stdout)
        logging.getLogger("stepwell.test").warning("above the table")
    out, err = capsys.readouterr()
    assert "above the table" in out
    assert err == ""
