"""Can the tags of MIRFLICKR's million photos be read, pruned and counted within 1 GB of memory?

Tag files in MIRFLICKR-1M's layout are generated: twice as many different tags, of Zipf-like frequencies, with camera
makers, years, and photos without tags. Then `socialtag stats FOLDER --source mirflickr --pruning mirflickr` runs on
them in a process of its own, whose largest resident size is what counts.

Command:  python experiments/benchmarks/million_tags.py [--photos 1000000] [--folder FOLDER] [--json FILE]
          (a million small files: 4 GB of disk; --folder keeps them for another run)
"""

import argparse
import contextlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FILES_PER_FOLDER = 10_000
MEAN_TAGS = 11.4
WITHOUT_TAGS = 0.053887
VOCABULARY = 3_000_000
LIMIT_BYTES = 10**9


def words(count: int) -> list[str]:
    """Distinct made-up tags; every twentieth names a camera maker or a year."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    found = []
    for number in range(count):
        text, rest = "", number
        while True:
            rest, syllable = divmod(rest, len(syllables))
            text += syllables[syllable]
            if not rest:
                break
        if number % 20 == 7:
            text = f"nikon{text}"
        elif number % 20 == 13:
            text = f"{text}{1990 + number % 20}"
        found.append(text)
    return found


def generate(folder: Path, photos: int) -> None:
    rng = np.random.default_rng(0)
    names = words(VOCABULARY)
    # A Zipf-Mandelbrot law, whose most frequent tag is on 4.6 % of the photos as MIRFLICKR's.
    weights = 1.0 / np.arange(21, VOCABULARY + 21)
    cumulative = np.cumsum(weights / weights.sum())
    for first in range(0, photos, FILES_PER_FOLDER):
        count = min(FILES_PER_FOLDER, photos - first)
        lengths = np.minimum(rng.geometric(1 / MEAN_TAGS * (1 - WITHOUT_TAGS), count), 75)
        lengths[rng.random(count) < WITHOUT_TAGS] = 0
        chosen = np.searchsorted(cumulative, rng.random(int(lengths.sum())))
        part = folder / "tags" / str(first // FILES_PER_FOLDER)
        part.mkdir(parents=True)
        start = 0
        for offset, length in enumerate(lengths.tolist()):
            text = "".join(f"{names[word]}\n" for word in chosen[start : start + length])
            (part / f"{first + offset}.txt").write_text(text)
            start += length
        print(f"generated {first + count:,} of {photos:,} tag files", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with folder_of(options.folder) as folder:
        if not (folder / "tags").exists():
            generate(folder, options.photos)
        command = ["stats", str(folder), "--source", "mirflickr", "--pruning", "mirflickr"]
        before = time.perf_counter()
        text = subprocess.run(
            [sys.executable, "-m", "socialtag_jax.cli", *command], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        seconds = time.perf_counter() - before
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = usage.ru_maxrss * 1024
    print(text)
    print(f"{options.photos:,} tag files: {seconds:.0f} s ({usage.ru_utime + usage.ru_stime:.0f} s of CPU time)")
    print(f"largest resident size: {peak / 1e9:.2f} GB, limit {LIMIT_BYTES / 1e9:.0f} GB")
    if options.json:
        content = {
            "photos": options.photos,
            "command": f"socialtag {' '.join([command[0], 'FOLDER', *command[2:]])}",
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_resident_bytes": peak,
            "limit_bytes": LIMIT_BYTES,
            "output": text.replace(str(folder), "FOLDER").splitlines(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if peak > LIMIT_BYTES:
        sys.exit("over the limit")


@contextlib.contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The folder that was named, which stays, or a temporary one."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    main()
