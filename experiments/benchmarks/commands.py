"""`socialtag` commands as questions time them: processes of their own, whose start and files count."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from socialtag_jax.errors import UserError


def socialtag(*arguments: str | Path) -> float:
    """Seconds of the whole process of `socialtag ARGUMENTS`.

    Raises:
      UserError: it failed; with the end of what it said.
    """
    line = [sys.executable, "-m", "socialtag_jax.cli", *map(str, arguments)]
    start = time.perf_counter()
    result = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        raise UserError(f"it failed: {result.stdout[-2000:]}", where=f"socialtag {arguments[0]}")
    return seconds


def metrics(run_folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind that a run wrote: "epoch", "validation" or "train"."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [values for values in map(json.loads, lines) if values["kind"] == kind]
