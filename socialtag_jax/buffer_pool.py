"""Memory of batches, used again as soon as nobody looks at it any more.

Freed and allocated anew, megabytes go back to the system and come as new pages, each of which it clears: 1 % of the
time that decoding takes, and threads wait for each other in it.
"""

import collections

import numpy as np


class BufferPool:
    """Arrays of one shape.

    An array is in use until it, and all views of it, are gone; then its memory is given out again. There is as much of
    it as arrays were in use at one time. Safe to use from several threads.

    Args:
      shape: of the arrays, which are uint8.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: collections.deque[np.ndarray] = collections.deque()

    def take(self) -> np.ndarray:
        """uint8 of the pool's shape; what it contains is left from its last use."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._shape, np.uint8)
        return np.asarray(_Lease(buffer, self._free))


class _Lease:
    """What every view of a buffer keeps alive: numpy holds on to the object that lends it memory."""

    def __init__(self, buffer: np.ndarray, free: collections.deque[np.ndarray]) -> None:
        self._buffer, self._free = buffer, free
        self.__array_interface__ = buffer.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._buffer)
