"""The whole path on the built-in postcards, by the same commands that a user types: what `make demo` runs.

Command:  make demo
"""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = Path(os.path.relpath(HERE.parent / "demo"))
PHOTOS, DATA, RUN, BUNDLE = DEMO / "photos", DEMO / "data", DEMO / "run", DEMO / "bundle"
SHOWN = 6


def socialtag(*arguments: str | Path) -> str:
    """Runs a `socialtag` command, showing it and what it says; returns its standard output."""
    command = ["socialtag", *map(str, arguments)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"demo: this command failed with exit code {result.returncode}")
    return result.stdout


def show_suggestions() -> None:
    with (RUN / "evaluation" / "test" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:SHOWN]
    photos = [PHOTOS / row["image_id"] for row in rows]
    suggestions = json.loads(socialtag("predict", BUNDLE, *photos, "--max-tags", "8", "--json"))
    print()
    for row, found in zip(rows, suggestions, strict=True):
        true = json.loads(row["true_tags"])
        marked = [f"{one['display']}{'*' if one['tag'] in true else ''}" for one in found["tags"]]
        print(f"{found['path']}\n  true:      {', '.join(true)}\n  suggested: {', '.join(marked)}")
    print("\n* among the true tags. Tags such as love and instagood were drawn at random: no model can see them.")


def main() -> None:
    start = time.monotonic()
    # The run and the bundle are made anew; photos, data set and weights of an earlier demo are found and kept.
    shutil.rmtree(RUN, ignore_errors=True)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    socialtag("prepare", "--source", "postcards", "--input", PHOTOS, "--output", DATA)
    socialtag("weights", "fetch")
    socialtag("train", HERE / "postcards.py", "--dataset", DATA, "--workdir", RUN)
    print(socialtag("evaluate", RUN, "--dataset", DATA), end="")
    socialtag("export", RUN, "--output", BUNDLE)
    show_suggestions()
    print(f"\nPhotos: {PHOTOS}\nData set: {DATA}\nRun folder (metrics, checkpoints, TensorBoard): {RUN}")
    print(
        f"Scores in full: {RUN / 'evaluation' / 'test'}; open report.html there in a browser\nExported tagger: {BUNDLE}"
    )
    print(f"The demo took {time.monotonic() - start:.0f} s, installation not counted.")


if __name__ == "__main__":
    main()
