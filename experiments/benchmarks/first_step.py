"""When does `socialtag train` reach its first step? A program for `inference.py`, not a question of its own.

Runs the command line given to it and ends once the second training step is done. Its last line says, in JSON, how many
seconds after the process's start the first step was done (`first`), and how long the second one took (`step`).

Command:  python -m experiments.benchmarks.first_step STARTED train ...     (STARTED: the starter's `time.time()`)
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from socialtag_jax import cli
from socialtag_jax.epoch import Epoch

launched = Epoch.launched
done: list[float] = []


def timed(self: Epoch, sums: Mapping[str, Any]) -> None:
    jax.block_until_ready(sums)
    done.append(time.time() - float(sys.argv[1]))
    if len(done) == 2:
        print(json.dumps({"first": done[0], "step": done[1] - done[0]}), flush=True)
        # At once, without the epoch's end: another start finds the run folder as this one did.
        os._exit(0)
    launched(self, sums)


def main() -> NoReturn:
    Epoch.launched = timed
    cli.main(sys.argv[2:])


if __name__ == "__main__":
    main()
