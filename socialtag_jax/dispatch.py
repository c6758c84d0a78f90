"""Keeping a device busy: the next piece of work is on its way before the last one's result is fetched."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Fetch = Callable[[], Result]
"""Waits for a result, and returns it."""


def one_ahead(items: Iterable[Item], launch: Callable[[Item], Fetch[Result]]) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order; the next item is launched before a result is fetched.

    Args:
      items: what to work on.
      launch: starts the work on an item, without waiting for it.
    """
    in_flight: tuple[Item, Fetch[Result]] | None = None
    for item in items:
        launched = item, launch(item)
        if in_flight is not None:
            yield in_flight[0], in_flight[1]()
        in_flight = launched
    if in_flight is not None:
        yield in_flight[0], in_flight[1]()
