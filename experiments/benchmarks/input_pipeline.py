"""How fast do JPEG shards become augmented batches, beside a bare OpenCV loop, torch's DataLoader and tf.data?

Photos of Corel5K, enlarged so that their shorter side has 288 pixels, stored as `socialtag prepare` stores them; out
come uint8 batches of 32 at 224 px, each photo rotated, shifted, sheared, zoomed and flipped at random. All have the
same cores, and take turns.

* ours: `input_pipeline.train_batches`, whole epochs, the start of each one's pipeline counted;
* ceiling: threads, as many, that read a photo's bytes at a known place, decode them with OpenCV and warp them by a
  known matrix: nothing is checked, parsed, drawn, or handed on in order;
* DataLoader: a worker process a core, torchvision's decoder and transforms as its users combine them, on JPEG files of
  the same bytes. Measured while it runs, its start not counted;
* tf.data: the same shards, `decode_jpeg`, resize and transformation in one `ImageProjectiveTransformV3`, AUTOTUNE
  everywhere; likewise measured while it runs.

Command:  python -m experiments.benchmarks.input_pipeline [--corel5k data/corel5k.zip]     (4 minutes on 2 cores)
"""

import concurrent.futures
import os
import time
from collections.abc import Callable

import cv2
import numpy as np

from experiments.benchmarks import corel5k_data, harness
from experiments.benchmarks.harness import Answer, Context, Peer
from socialtag_jax import augment
from socialtag_jax.config import Augmentation
from socialtag_jax.input_pipeline import BatchShape, train_batches
from socialtag_jax.machine import usable_cores
from socialtag_jax.shards.dataset import Dataset

PHOTOS, STORED, SIZE, BATCH, TURNS = 1024, 288, 224, 32, 15
GOALS = {"torch DataLoader": 1.5, "tf.data": 1.0}
CEILING = "bare OpenCV loop"


def ours(dataset: Dataset) -> Callable[[], float]:
    """Images a second of one epoch, another one at each call."""
    records = dataset.records("train")
    shape = BatchShape(1, BATCH, SIZE, dataset.max_tags)
    epochs = iter(range(10**6))

    def measure() -> float:
        start = time.perf_counter()
        batches = train_batches(records, shape, seed=0, epoch=next(epochs), augmentation=Augmentation())
        count = sum(int(batch["weight"].sum()) for batch in batches)
        assert count == len(records)
        return count / (time.perf_counter() - start)

    return measure


def bare_loop(dataset: Dataset) -> Callable[[], float]:
    """Images a second of decoding and warping alone."""
    places = jpeg_places(dataset)
    rng = np.random.default_rng(0)
    matrices = augment.matrix(augment.draw(Augmentation(), rng.random((len(places), augment.DRAWS))), SIZE)
    for (descriptor, offset, length), matrix in zip(places, matrices, strict=True):
        height, width = decoded(os.pread(descriptor, length, offset)).shape[:2]
        # From the resized image to the stored one, between which pixel areas correspond.
        scale = np.array([width / SIZE, height / SIZE])
        matrix *= scale[:, None]
        matrix[:, 2] += scale / 2 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def batch(first: int) -> int:
        images = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
        for row, (descriptor, offset, length) in enumerate(places[first : first + BATCH]):
            pixels = decoded(os.pread(descriptor, length, offset))
            cv2.warpAffine(
                pixels,
                matrices[first + row],
                (SIZE, SIZE),
                dst=images[row],
                flags=flags,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return BATCH

    def measure() -> float:
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
            count = sum(pool.map(batch, range(0, len(places), BATCH)))
        return count / (time.perf_counter() - start)

    return measure


def jpeg_places(dataset: Dataset) -> list[tuple[int, int, int]]:
    """(file descriptor, offset, length) of each photo's JPEG bytes in the shards."""
    records, places = dataset.records("train"), []
    images = (records[number].image for number in range(len(records)))
    split = dataset.split("train")
    for shard, length in zip(split.shards, split.lengths, strict=True):
        content, offset, descriptor = shard.read_bytes(), 0, os.open(shard, os.O_RDONLY)
        for _ in range(length):
            image = next(images)
            offset = content.index(image, offset)
            places.append((descriptor, offset, len(image)))
    return places


def decoded(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    assert pixels is not None
    return pixels


def run(context: Context) -> Answer:
    photos = corel5k_data.photos(context, "corel5k_288", {"train": PHOTOS}, enlarged_to=STORED)
    dataset = photos.dataset
    cv2.setNumThreads(1)
    settings = {"workers": usable_cores(), "batch": BATCH, "size": SIZE, "batches": PHOTOS // BATCH}
    torch = Peer("torch", "torch_input", {**settings, "folder": str(photos.folder / "train")}, log=context.log("torch"))
    with torch:
        shards = [str(shard) for shard in dataset.split("train").shards]
        settings = {**settings, "shards": shards, "seed": 0}
        with Peer("tensorflow", "tensorflow_input", settings, log=context.log("tensorflow")) as tensorflow:
            contenders = {
                "ours": ours(dataset),
                CEILING: bare_loop(dataset),
                "torch DataLoader": lambda: torch.measure()["images_per_second"],
                "tf.data": lambda: tensorflow.measure()["images_per_second"],
            }
            series = context.interleave(contenders, repeats=TURNS, unit="images/s")
    title = f"{STORED} px JPEG to {SIZE} px batches of {BATCH}, augmented"
    series.print(title, "ours", ceiling=CEILING)
    rows = [
        series.row(f"input: {title}", "ours", CEILING, goal=0.95, note="the ceiling"),
        *(series.row("the same", "ours", name, goal=goal) for name, goal in GOALS.items()),
    ]
    bytes_per_photo = sum(shard.stat().st_size for shard in dataset.split("train").shards) / PHOTOS
    details = {"photos": PHOTOS, "bytes_per_photo": round(bytes_per_photo), "threads": usable_cores(), "series": series}
    return Answer(rows, details, {"torch": torch.versions, "tensorflow": tensorflow.versions})


if __name__ == "__main__":
    harness.main(run)
