"""Memory is given out again when nobody looks at it any more, and never before."""

import threading

import jax
import numpy as np

from socialtag_jax.buffer_pool import BufferPool
from socialtag_jax.config import Augmentation
from socialtag_jax.input_pipeline import BatchShape, train_batches
from socialtag_jax.parallel import Devices
from socialtag_jax.shards.dataset import open_dataset
from tests.photos import colour_rows, photo_folder, prepared

SHAPE = (4, 8, 8, 3)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again():
    pool = BufferPool(SHAPE)
    first = pool.take()
    assert (first.shape, first.dtype, first.flags.writeable) == (SHAPE, np.uint8, True)
    place = address(first)
    second = pool.take()
    assert address(second) != place
    del first
    assert address(pool.take()) == place


def test_a_view_of_a_view_keeps_it():
    pool = BufferPool(SHAPE)
    row = pool.take().reshape(2, 2, 8, 8, 3)[1][0]
    row[:] = 7
    other = pool.take()
    other[:] = 9
    assert not np.shares_memory(row, other)
    assert (row == 7).all()


def test_memory_outlives_the_pool():
    array = BufferPool(SHAPE).take()
    array[:] = 5
    assert (array == 5).all()


def test_threads_never_share_memory():
    pool = BufferPool(SHAPE)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(2000):
            array = pool.take()
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_batches_on_devices_keep_their_pixels(tmp_path):
    """A CPU device may look at the host's own memory for as long as its array lives."""
    dataset = open_dataset(prepared(photo_folder(tmp_path / "in", colour_rows(60)), tmp_path / "out").folder)
    records, shape = dataset.records("train"), BatchShape(4, 1, 64, dataset.max_tags)

    def batches():
        return train_batches(records, shape, seed=0, epoch=0, augmentation=Augmentation(), threads=2)

    expected = [batch["images"].copy() for batch in batches()]
    moved = list(Devices().prefetch(batches()))
    assert len(moved) == len(expected) == 12
    for batch, pixels in zip(moved, expected, strict=True):
        np.testing.assert_array_equal(jax.device_get(batch["images"]), pixels)
