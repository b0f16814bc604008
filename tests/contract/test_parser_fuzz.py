"""No body, however odd, has another answer than rows or a refusal, nor takes memory without
bound."""

from benchmarks.parser_fuzz import fuzz


def test_spoiled_bodies_are_answered_in_order() -> None:
    found = fuzz(num_inputs=20_000, seed=7)
    assert not found.failures, found.examples
    assert found.outcomes["rows"] > 300  # many are still good enough to be checked to the end
    assert found.outcomes["feedback"] > 100
    assert found.num_traced > 1000
