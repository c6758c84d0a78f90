"""What this machine gives to this process."""

import os
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on: a container's or a scheduler's share, not the machine's total."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """For what can be fetched or made again.

    `$SOCIALTAG_CACHE`, else `$XDG_CACHE_HOME/socialtag-jax`, else `~/.cache/socialtag-jax`.
    """
    if own := os.environ.get("SOCIALTAG_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "socialtag-jax"
    return Path.home() / ".cache" / "socialtag-jax"
