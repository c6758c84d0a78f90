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


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine's free memory, what its control groups allow.

    Args:
      root: of the file system that `/proc` and `/sys` are read from.
    """
    limits = [_free_memory(root), *_control_group_memory(root)]
    return max(0, min(limits))


def _free_memory(root: Path) -> int:
    info = root / "proc/meminfo"
    if not info.exists():  # not Linux: all that is built in, as no portable call says what is free of it
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return 1024 * int(values["MemAvailable"].split()[0])


def _control_group_memory(root: Path) -> list[int]:
    """What each limiting control group of this process has left, of version 1 and 2; file caches count as free."""
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return []
    left = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            version_1 = controllers == "memory"
            mount = root / ("sys/fs/cgroup/memory" if version_1 else "sys/fs/cgroup")
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if version_1 else ("memory.max", "memory.current")
            )
            # A limit holds for all groups below it. In a container the path may not be there: its root is mounted.
            group = mount / path.strip("/")
            left += [one for folder in (group, *group.parents) if (one := _group_left(folder, *names)) is not None]
    return left


def _group_left(folder: Path, limit_name: str, usage_name: str) -> int | None:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    cache = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return int(limit) - usage + cache
