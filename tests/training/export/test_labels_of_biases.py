"""A bias is given by a label as the user types it."""

from __future__ import annotations

import pytest

from training.errors import RunError
from training.export.bundle import biases_by_label


def test_a_bias_finds_its_label_in_either_form_of_the_accents() -> None:
    labels = ("caf\u00e9", "fe\u0301te", "other")
    assert biases_by_label({"cafe\u0301": 0.5, "f\u00e9te": -1}, labels) == {"caf\u00e9": 0.5, "fe\u0301te": -1}


def test_a_bias_for_an_unknown_label_is_refused() -> None:
    with pytest.raises(RunError, match="bias for 'cafe': no such label; there are café"):
        biases_by_label({"cafe": 0.5}, ("café",))
