"""Processor time and memory of processes, sampled from /proc."""

from __future__ import annotations

import os
import time

import pytest

from streamclf.bench.service.process_usage import MemorySample, ProcessUsage, UsageSampler, process_cpu_s


def test_a_process_is_sampled_with_its_processor_time_and_memory() -> None:
    sampler = UsageSampler(os.getpid())
    sampler.sample()
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    sampler.sample()
    (usage,) = [usage for usage in sampler.usages if usage.pid == os.getpid()]
    assert usage.cpu_s[-1] - usage.cpu_s[0] >= 0.08
    assert len(usage.memory) == 1, "the kernel walks all pages for a sample of memory, so these are rare"
    sampler.sample_memory()
    assert len(usage.memory) == 2
    assert usage.memory[-1].rss_mb >= usage.memory[-1].pss_mb > 10
    assert usage.slope_mb_per_h is None, "the samples span too little time for a slope"
    assert process_cpu_s(os.getpid()) >= usage.cpu_s[0]
    assert process_cpu_s(2**22 + 1) == 0


def test_the_slope_of_memory_is_fitted_to_the_samples_after_the_beginning() -> None:
    at_s = [float(i) for i in range(0, 1200, 30)]
    memory = [MemorySample(at_s=at, rss_mb=1.0, pss_mb=50 + at / 3600 - (20 if at < 120 else 0)) for at in at_s]
    usage = ProcessUsage(name="hub", pid=1, at_s=at_s, cpu_s=[i / 4 for i in at_s], memory=memory)
    assert usage.slope_mb_per_h == pytest.approx(1.0)
    assert usage.cpu_s_per_s == pytest.approx(0.25)
