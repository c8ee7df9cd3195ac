"""Compute with one thread in these tests, as `streamclf teach` does: small matrices are far slower with several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    pytest.importorskip("sklearn.model_selection")
    pytest.importorskip("sklearn.linear_model")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
