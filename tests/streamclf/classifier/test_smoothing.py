"""The exponential mean depends on the elapsed time alone, and stays between its values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.classifier.smoothing import smooth

values = st.floats(0, 1)
times_s = st.floats(0, 100)
constants_s = st.floats(0.001, 100)


@given(values, values, times_s, times_s, constants_s)
def test_mean_does_not_depend_on_the_number_of_values(
    before: float, value: float, first_s: float, second_s: float, tau_s: float
) -> None:
    twice = smooth(smooth(before, value, first_s, tau_s), value, second_s, tau_s)
    assert twice == pytest.approx(smooth(before, value, first_s + second_s, tau_s), abs=1e-9)


@given(values, values, times_s, constants_s)
def test_mean_stays_between_its_values(before: float, value: float, elapsed_s: float, tau_s: float) -> None:
    mean = smooth(before, value, elapsed_s, tau_s)
    assert min(before, value) - 1e-12 <= mean <= max(before, value) + 1e-12


@given(values, values, times_s)
def test_first_value_and_values_without_smoothing_are_taken_as_they_are(
    before: float, value: float, elapsed_s: float
) -> None:
    assert smooth(None, value, elapsed_s, 1.0) == value
    assert smooth(before, value, elapsed_s, 0.0) == value


def test_mean_covers_63_percent_of_a_step_in_one_time_constant() -> None:
    assert smooth(0.0, 1.0, 0.3, 0.3) == pytest.approx(0.632, abs=1e-3)
