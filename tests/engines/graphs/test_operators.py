"""The table of supported operators grows from one generation of TensorRT to the next."""

import itertools

from engines.graphs.operators import PROFILES, supported_operators


def test_a_generation_supports_all_operators_of_the_one_before() -> None:
    supported = [supported_operators(profile) for profile in PROFILES]
    assert all(before < after for before, after in itertools.pairwise(supported))
