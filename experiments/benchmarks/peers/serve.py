"""The peer's side of `harness.Peer`: a program that measures once for every line that it reads.

Only the standard library is needed: a peer's environment holds the peer, not this project.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Measure = Callable[..., Mapping[str, Any]]
"""Takes a request's fields as keywords, returns what was measured, as JSON can hold it."""


def serve(build: Callable[[dict[str, Any]], Measure], packages: Sequence[str]) -> None:
    """Prepares a measurement, says that it is ready, and measures until the input ends.

    Args:
      build: makes the measurement from the settings, which are the program's one argument, in JSON.
      packages: whose versions are reported.
    """
    # Answers go out on a copy of the standard output, which libraries write to as they like.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        measure = build(json.loads(sys.argv[1]))
        versions = {name: importlib.metadata.version(name) for name in packages}
        print(json.dumps({"versions": versions}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)
