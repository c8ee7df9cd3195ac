"""Processor time and memory of processes, sampled from /proc."""

from __future__ import annotations

import os
import time

import pytest

from streamclf.bench.service.process_usage import ProcessUsage, UsageSampler, process_cpu_s


def test_a_process_is_sampled_with_its_processor_time_and_memory() -> None:
    sampler = UsageSampler(os.getpid())
    sampler.sample()
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    sampler.sample()
    (usage,) = [usage for usage in sampler.usages if usage.pid == os.getpid()]
    assert usage.cpu_s[-1] - usage.cpu_s[0] >= 0.08
    assert usage.rss_mb[-1] > 10
    assert usage.slope_mb_per_h is None, "the samples span too little time for a slope"
    assert process_cpu_s(os.getpid()) >= usage.cpu_s[0]
    assert process_cpu_s(2**22 + 1) == 0


def test_the_slope_of_memory_is_fitted_to_the_samples() -> None:
    at_s = [float(i) for i in range(100)]
    usage = ProcessUsage(
        name="hub", pid=1, at_s=at_s, rss_mb=[50 + i / 3600 for i in at_s], cpu_s=[i / 4 for i in at_s]
    )
    assert usage.slope_mb_per_h == pytest.approx(1.0)
    assert usage.cpu_s_per_s == pytest.approx(0.25)
