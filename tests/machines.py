"""Machines to test run_tpu.sh with: a stub of gcloud, put first on PATH, that keeps them in a folder.

A worker is a folder with a home of its own, in which bash runs the script's own remote functions; only Python's
installer and the trainer are replaced there.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECRET = "ya29.not-to-be-shown"

# Python's installer on a worker. What it installs trains in steps, and goes on where the bucket's count is.
PYTHON3 = r"""#!/bin/bash
echo "$*" >>"$STUB_CLOUD/installer"
case "$*" in
  "-m uv venv"*)
    mkdir -p environment/bin
    printf '#!/bin/bash\n' >environment/bin/python
    chmod +x environment/bin/python ;;
  "-m uv pip install"*)
    if [ -e "$STUB_CLOUD/full-$(basename "$HOME")" ]; then echo "No space left on device" >&2; exit 1; fi
    [ ! -e "$STUB_CLOUD/slow" ] || sleep 0.5
    [ -e source/pyproject.toml ] || exit 1
    cat >environment/bin/socialtag <<'TRAINER'
#!/bin/bash
printf 'argument <%s>\n' "$@"
pwd >"$STUB_CLOUD/trained-in"
echo start >>"$STUB_CLOUD/starts"
step=$(cat "$STUB_CLOUD/bucket-step" 2>/dev/null || echo 0)
echo "starts at step $step"
echo $$ >"$HOME/trainer"
trap 'echo saved; echo "socialtag: stopped by SIGTERM; run the same command again to go on"; exit 0' TERM
while [ "$step" -lt 3 ] || [ -e "$STUB_CLOUD/hold" ]; do
  step=$((step + 1)); echo "step $step"
  # Process 0 alone writes.
  if [[ $HOME == */home0 ]]; then echo "$step" >"$HOME/step" && mv "$HOME/step" "$STUB_CLOUD/bucket-step"; fi
  sleep 0.05
done
status=$(cat "$STUB_CLOUD/status-$(basename "$HOME")" "$STUB_CLOUD/trainer-status" 2>/dev/null)
[ -z "$status" ] || echo "$(basename "$HOME") fails"
exit "${status:-0}"
TRAINER
    chmod +x environment/bin/socialtag ;;
esac
"""

TRAIN: tuple[str, ...] = (
    "--experiment",
    "experiments/tiny.py",
    "--dataset",
    "gs://bucket/data/set",
    "--workdir",
    "gs://bucket/runs/one",
)
NO_CAPACITY = (
    'ERROR: (gcloud) There is no more capacity in the zone "us-central2-b"; you can try in another zone; try later'
)
NO_QUOTA = "ERROR: (gcloud) Quota limit 'TPUV4PerProjectPerZone' has been exceeded. Limit: 0 in zone us-central2-b."
UNAVAILABLE = "ERROR: (gcloud) HTTPError 503: The service is currently unavailable."
NOT_FOUND = "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/locations/z/nodes/x' was not found"
DISCONNECTED = "ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255]."
COMMANDS = ("create", "install", "launch", "logs", "status", "recover", "delete", "run")


@dataclass
class Cloud:
    """A stub of Google Cloud in a folder."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def plan(self, **changes: Any) -> None:
        plan = self.folder / "plan.json"
        plan.write_text(json.dumps(json.loads(plan.read_text()) | changes))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(self.folder / "repository" / "run_tpu.sh"), *arguments],
            env=self.environment | environment,
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=20)
        assert SECRET not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of gcloud that have all of these words."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [call for call in map(json.loads, lines) if set(words) <= set(call)]

    def wait_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for(self, name: str) -> None:
        self.wait_until((self.folder / name).exists)

    def starts(self) -> int:
        return len((self.folder / "starts").read_text().splitlines())


@cache
def _repository() -> Path:
    """A git repository with the script and what it looks at, in one commit; made once a process."""
    root = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, root)
    shutil.copytree(ROOT / "experiments" / "cloud", root / "experiments" / "cloud")
    for name in ("run_tpu.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copy(ROOT / "experiments" / "corel5k.py", root / "experiments")
    (root / "experiments" / "tiny.py").write_text("experiment = None\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        subprocess.run(["git", "-C", str(root), *identity, *command], check=True)
    return root


@contextmanager
def stubbed_cloud() -> Iterator[Cloud]:
    """An empty cloud, whose trainers end with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        folder = Path(path)
        for name in ("bin", "stub"):
            (folder / name).mkdir()
        (folder / "repository").symlink_to(_repository())
        (folder / "bin" / "python3").write_text(PYTHON3)
        # Imported, so that Python compiles it once.
        (folder / "stub" / "gcloud").write_text(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport stub_gcloud\n"
        )
        for program in ("bin/python3", "stub/gcloud"):
            (folder / program).chmod(0o755)
        environment = {
            "PATH": f"{folder / 'stub'}:/usr/bin:/bin",
            "HOME": path,
            "STUB_CLOUD": path,
            "CLOUDSDK_AUTH_ACCESS_TOKEN": SECRET,
            "SOCIALTAG_PROJECT": "my-project",
            "SOCIALTAG_ZONE": "us-central2-b",
            "SOCIALTAG_ACCELERATOR": "v4-8",
            "SOCIALTAG_POLL": "0.01",
            "TMPDIR": path,
        }
        assert shutil.which("gcloud", path=environment["PATH"]) == str(folder / "stub" / "gcloud")
        default: dict[str, Any] = {"errors": {}, "unknown": [], "states": ["READY"], "queue": ["ACTIVE"], "workers": 1}
        default |= {"preempt_at_report": 0, "after_deletion": [], "drop_after": "", "scp_fails_on": -1}
        (folder / "plan.json").write_text(json.dumps(default | {"creation_time": 0}))
        cloud = Cloud(folder, environment)
        try:
            yield cloud
        finally:
            for process in cloud.started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
            for pid in folder.glob("home*/socialtag/pid"):
                try:
                    os.killpg(int(pid.read_text()), signal.SIGKILL)
                except ProcessLookupError:
                    continue


def reminds(err: str, deletion: str = "gcloud compute tpus tpu-vm delete socialtag") -> bool:
    """Whether the last lines say that a machine may cost money, and how to delete it."""
    *_, reminder, command = err.splitlines()
    return "may still be running, and costs money" in reminder and command.strip().startswith(deletion)
