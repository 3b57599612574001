"""When the sweeps run beside their period: soon after the first, and when a watch began anew."""

from __future__ import annotations

import asyncio

import pytest

from stepwell_operator import relists
from stepwell_operator.framework import new_settings
from stepwell_operator.relists import Relists

AN_HOUR = 3_600.0


async def test_the_second_sweep_follows_the_first_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relists, "FIRST", 0.01)
    sign = Relists().sign()
    async with asyncio.timeout(10):
        await sign.within(AN_HOUR)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await sign.within(AN_HOUR)


async def test_a_list_that_was_heard_ends_every_wait_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relists, "SETTLE", 0.0)
    heard = Relists()
    signs = [heard.sign(), heard.sign()]
    waiting = [asyncio.ensure_future(sign.within(AN_HOUR)) for sign in signs[:1]]
    await asyncio.sleep(0)
    heard.heard()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
        await signs[1].within(AN_HOUR)  # it was sweeping when the list came
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await signs[0].within(AN_HOUR)


def test_after_an_outage_the_api_server_is_asked_again_soon_and_its_start_is_waited_for() -> None:
    pauses = new_settings().networking.error_backoffs
    assert isinstance(pauses, tuple)
    assert max(pauses) <= 5.0
    assert sum(pauses) >= 45.0, "while it starts it refuses what it will allow"
