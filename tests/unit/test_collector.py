"""What is set aside is not walked through again."""

from __future__ import annotations

import gc

from stepwell.collector import settle


def test_a_settled_process_has_nothing_old_left_to_collect() -> None:
    before = len(gc.get_objects())
    try:
        settle()
        assert gc.get_freeze_count() > 0.9 * before
        assert len(gc.get_objects(generation=2)) < 0.1 * before
    finally:
        gc.unfreeze()
