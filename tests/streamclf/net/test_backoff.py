"""Test the waits between attempts to connect."""

from __future__ import annotations

import random

from streamclf.net.backoff import Backoff


def test_waits_grow_with_jitter_until_reset() -> None:
    backoff = Backoff(random.Random(1))
    waits = [backoff.next_s() for _ in range(30)]
    assert 0.16 <= waits[0] <= 0.24
    assert all(1.1 <= wait <= 1.7 for wait in waits[-10:]), "a camera that is back is live within 2 s"
    assert all(8 <= backoff.next_s(refused=True) <= 12 for _ in range(10)), "accounts get locked"
    assert len(set(waits[-10:])) == 10
    assert sum(waits[:6]) < 5, "back soon after a short fault"
    backoff.reset()
    assert backoff.next_s() <= 0.24
