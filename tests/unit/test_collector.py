"""What is set aside is not walked through again."""

from __future__ import annotations

import gc

from stepwell.collector import settle


def test_a_settled_process_has_nothing_old_left_to_collect() -> None:
    try:
        settle()
        aside = gc.get_freeze_count()
        assert aside > 10_000
        assert len(gc.get_objects(generation=2)) < 0.1 * aside
    finally:
        gc.unfreeze()
