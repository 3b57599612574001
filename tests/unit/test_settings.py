"""Settings: read strictly, and all of them documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepwell.domain.errors import UsageError
from stepwell.settings import LogSettings, Settings, read

ROOT = Path(__file__).parents[2]


def documented() -> list[str]:
    table = (ROOT / "docs" / "settings.md").read_text("utf-8")
    return re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)


def test_the_table_holds_every_setting_once() -> None:
    files = sorted((ROOT / "core" / "stepwell" / "settings").glob("*.py"))
    source = "".join(file.read_text("utf-8") for file in files)
    described = re.findall(r'"""``([A-Z_]+)``: ', source)
    names = set(re.findall(r'"((?:STEPWELL_[A-Z_]+)|DATABASE_URL|REDIS_URL|PORT)"', source))
    assert set(described) == names, "each setting has a docstring that begins with its name"
    assert sorted(documented()) == sorted({*names, "STEPWELL_DEBUG"})


def test_nothing_set_gives_the_defaults() -> None:
    assert read({}) == Settings()
    assert read({"STEPWELL_SLOTS": " ", "DATABASE_URL": ""}) == Settings()


def test_values() -> None:
    settings = read(
        {"STEPWELL_LOG": "JSON", "STEPWELL_LOG_LEVEL": "debug", "STEPWELL_GRACE": "1m", "STEPWELL_SLOTS": "7"}
    )
    assert settings.logs == LogSettings("json", "DEBUG")
    assert (settings.worker.grace, settings.worker.slots) == (60.0, 7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STEPWELL_SLOTS", "many"),
        ("STEPWELL_SLOTS", "10001"),
        ("STEPWELL_GRACE", "10"),
        ("STEPWELL_LOG", "xml"),
        ("STEPWELL_LOG_LEVEL", "LOUD"),
        ("STEPWELL_ALLOW_LOOPBACK", "yes"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name}='{value}'"):
        read({name: value})
