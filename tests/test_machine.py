"""How much memory there is, from files as Linux writes them."""

from pathlib import Path

import pytest

from socialtag_jax.machine import available_memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8_192_000_000),
        # Version 2: a limit on the group above; 3 GB in use, 1 GB of them a cache of files.
        (
            {
                "proc/self/cgroup": "0::/jobs/one\n",
                "sys/fs/cgroup/jobs/one/memory.max": "max\n",
                "sys/fs/cgroup/jobs/one/memory.current": "1\n",
                "sys/fs/cgroup/jobs/one/memory.stat": "inactive_file 0\n",
                "sys/fs/cgroup/jobs/memory.max": "4000000000\n",
                "sys/fs/cgroup/jobs/memory.current": "3000000000\n",
                "sys/fs/cgroup/jobs/memory.stat": "anon 2000000000\ninactive_file 1000000000\n",
            },
            2_000_000_000,
        ),
        # Version 1 in a container: the group's path is that of the machine outside.
        (
            {
                "proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100000000\n",
            },
            500_000_000,
        ),
        # Version 1 without a limit.
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            },
            8_192_000_000,
        ),
    ],
)
def test_available_memory(tmp_path: Path, files: dict[str, str], expected: int):
    write(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert available_memory(tmp_path) == expected


def test_of_this_machine():
    assert 2**26 < available_memory() < 2**50
