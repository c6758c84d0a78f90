"""What this machine gives to this process."""

import os


def usable_cores() -> int:
    """Cores that this process may run on: a container's or a scheduler's share, not the machine's total."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
