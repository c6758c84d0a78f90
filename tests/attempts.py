"""Calls that may succeed or be refused: what came of them. What is no error for a user to act on fails the test."""

from collections.abc import Callable
from typing import Any

from socialtag_jax.errors import UserError


def attempt(call: Callable[[], Any]) -> tuple[Any, UserError | None]:
    """(what it returned, None), or (None, the error that refused)."""
    try:
        return call(), None
    except UserError as error:
        return None, error
