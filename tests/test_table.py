import os
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st

from socialtag_jax.sources.photo import Photo
from socialtag_jax.sources.splits import SPLITS
from socialtag_jax.sources.table import PhotoTable

# File names may hold any byte but / and NUL; Python reads those that are no UTF-8 as lone surrogates.
names = st.binary(min_size=1, max_size=9).map(lambda data: os.fsdecode(data.replace(b"\0", b"0").replace(b"/", b"_")))
photos = st.builds(
    lambda name, tags, split, where: Photo(Path("in") / f"x{name}", name, tuple(tags), split, where),
    names,
    st.lists(st.text(max_size=5), max_size=4),
    st.sampled_from([None, *SPLITS]),
    st.text(max_size=9),
)


@hypothesis.given(st.lists(photos, max_size=8), st.randoms())
def test_what_goes_in_comes_out(source: list[Photo], random):
    table = PhotoTable(iter(source))
    assert list(table) == source
    assert list(table.image_ids) == [photo.image_id for photo in source]
    order = random.sample(range(len(source)), len(source) // 2)
    taken = table.take(np.array(order, np.int64))
    assert list(taken) == [source[row] for row in order]
    assert taken.positions.tolist() == order
    assert list(taken[1:]) == [source[row] for row in order[1:]]


def test_labels_are_those_of_the_source():
    table = PhotoTable(Photo(Path("p"), str(n), tags) for n, tags in enumerate([("sea", "sky"), (), ("sea",)]))
    labels = table.take(np.array([2])).labels()
    assert labels.photos.tolist() == [0, 1, 2]
    assert [[labels.tags[tag] for tag in labels.of(photo)] for photo in range(3)] == [["sea", "sky"], [], ["sea"]]
