"""The order in which work is launched and fetched."""

from collections.abc import Callable

import pytest

from socialtag_jax.dispatch import one_ahead


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, ["launch 0", "fetch 0", "use 0"]),
        (3, ["launch 0", "launch 1", "fetch 0", "use 0", "launch 2", "fetch 1", "use 1", "fetch 2", "use 2"]),
    ],
)
def test_the_next_is_launched_before_a_result_is_fetched(count: int, expected: list[str]):
    events: list[str] = []

    def launch(item: int) -> Callable[[], int]:
        events.append(f"launch {item}")

        def fetch() -> int:
            events.append(f"fetch {item}")
            return item * item

        return fetch

    for item, result in one_ahead(range(count), launch):
        assert result == item * item
        events.append(f"use {item}")
    assert events == expected
