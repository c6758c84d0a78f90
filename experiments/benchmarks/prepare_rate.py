"""How close is `socialtag prepare` to a bare Pillow loop on the same photos and cores?

The bare loop decodes, converts to RGB, shrinks and encodes in as many processes, and throws the result away; `prepare`
also reads the CSV, compares files, checks, hashes, writes chunks, shards and metadata. Both are timed whole, with the
start of their processes, turn by turn.

Command:  python experiments/benchmarks/prepare_rate.py --input FOLDER_WITH_TAGS_CSV [--repeats 5] [--json FILE]
"""

import argparse
import concurrent.futures
import io
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import PIL
from PIL import Image

from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.shards.prepare import PrepareOptions, prepare
from socialtag_jax.sources import tags_csv

CHUNK = 64


def bare_loop(paths: list[Path]) -> int:
    size = 0
    for path in paths:
        with Image.open(path) as image:
            photo = image.convert("RGB")
        scale = min(1.0, IMAGE_SIZE / min(photo.size))
        if scale < 1:
            photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=95)
        size += buffer.tell()
    return size


def time_bare(paths: list[Path], workers: int) -> float:
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        chunks = [paths[begin : begin + CHUNK] for begin in range(0, len(paths), CHUNK)]
        sum(pool.map(bare_loop, chunks))
    return time.perf_counter() - start


def time_prepare(source: Path, workers: int, output: Path) -> float:
    start = time.perf_counter()
    photos = tags_csv.read(source, warn=lambda _: None)
    options = PrepareOptions(name="benchmark", workers=workers)
    prepare(photos, output, options, log=lambda _: None, stream=io.StringIO())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workers = os.cpu_count() or 1
    paths = [photo.path for photo in tags_csv.read(options.input, warn=lambda _: None)]
    times: dict[str, list[float]] = {"bare": [], "prepare": []}
    for repeat in range(options.repeats + 1):
        output = Path(tempfile.mkdtemp())
        bare, prepared = time_bare(paths, workers), time_prepare(options.input, workers, output)
        shutil.rmtree(output)
        if repeat:  # the first turn warms the page cache
            times["bare"].append(bare)
            times["prepare"].append(prepared)
            print(f"turn {repeat}: bare {bare:.2f} s, prepare {prepared:.2f} s", file=sys.stderr)
    rates = {name: len(paths) / statistics.median(values) for name, values in times.items()}
    ratio = rates["prepare"] / rates["bare"]
    print(f"{len(paths)} photos, {workers} processes, medians of {options.repeats}")
    print(f"{'bare Pillow loop':20}{rates['bare']:10.0f} images/s")
    print(f"{'socialtag prepare':20}{rates['prepare']:10.0f} images/s   ratio {ratio:.2f}")
    if options.json:
        content = {
            "photos": len(paths),
            "workers": workers,
            "seconds": times,
            "images_per_second": rates,
            "ratio": ratio,
            "python": platform.python_version(),
            "pillow": PIL.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
