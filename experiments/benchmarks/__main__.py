"""All questions that have goals, one after the other, and the table of their answers in README.md.

Command:  python -m experiments.benchmarks [--corel5k data/corel5k.zip] [QUESTION ...]     (or: make bench)
          (in the project's folder; under 40 minutes on 2 CPU cores, and once the time to install the peers)
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.benchmarks import harness
from socialtag_jax import files

QUESTIONS = {
    "input_pipeline": 240,
    "train_step": 420,
    "transfer_job": 600,
    "sweep": 200,
    "data_wait": 240,
    "inference": 200,
    "feeding": 90,
    "device_overhead": 90,
    "scaling_tags": 150,
    "scaling_records": 120,
}
"""Modules of this folder, and seconds for each one's turns; together under 40 minutes."""

GRACE_SECONDS = 60.0
"""For what a question does before and after its turns."""

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
TABLE, README = harness.RESULTS / "table.md", harness.PROJECT / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    harness.add_options(parser)
    parser.add_argument("questions", nargs="*", help=f"of {', '.join(QUESTIONS)}; default all")
    options = parser.parse_args()
    if unknown := set(options.questions) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    if not options.corel5k.exists():
        parser.error(
            f"{options.corel5k}: no such archive; name Corel5K's photos (corel5k/tags.csv in it) with --corel5k"
        )
    for name in harness.requirements():
        harness.environment(name)
    failed = [name for name in options.questions or QUESTIONS if not ask(name, options)]
    text = table([name for name in QUESTIONS if name not in failed])
    files.write_text(TABLE, text)
    files.write_text(README, with_table(README.read_text(encoding="utf-8"), text))
    print(text)
    if failed:
        sys.exit(f"benchmarks: no answer to {', '.join(failed)}")


def ask(name: str, options: argparse.Namespace) -> bool:
    """Runs a question in a process of its own; whether it answered in time."""
    print(f"\n== {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", "--budget", str(QUESTIONS[name])]
    command += ["--corel5k", str(options.corel5k), "--scratch", str(options.scratch)]
    with subprocess.Popen(command) as process:
        try:
            return process.wait(QUESTIONS[name] + GRACE_SECONDS) == 0
        except subprocess.TimeoutExpired:
            print(f"benchmarks: {name} took longer than {QUESTIONS[name]} s", file=sys.stderr)
            process.terminate()
            return False


def table(questions: Iterable[str]) -> str:
    """The last answers of these questions, from their JSON files, as Markdown."""
    answers = {name: read(harness.RESULTS / f"{name}.json") for name in questions}
    found = {name: answer for name, answer in answers.items() if answer is not None}
    if not found:
        sys.exit("benchmarks: no question was answered")
    fields = [field.name for field in dataclasses.fields(harness.Row)]
    rows = [
        harness.Row(**{field: row[field] for field in fields}) for answer in found.values() for row in answer["rows"]
    ]
    places = sorted({f"{one['gpu'] or one['cpu']}, {one['cores']} cores" for one in found.values()})
    dates = sorted(answer["date"][:10] for answer in found.values())
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return "\n".join([*harness.markdown(rows), "", f"Measured {span} on: {'; '.join(places)}."]) + "\n"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def with_table(readme: str, text: str) -> str:
    """The README with the table between its two markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"


if __name__ == "__main__":
    main()
