"""run_tpu.sh: installing, launching, following and recovering, on workers that really run its functions."""

import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.machines import DISCONNECTED, NOT_FOUND, TRAIN, UNAVAILABLE, Cloud, reminds, stubbed_cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with stubbed_cloud() as it:
        yield it


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
    assert "argument <--distributed>" in logs.stdout
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


def test_installing_twice_at_once_installs_once(cloud: Cloud) -> None:
    (cloud.folder / "slow").touch()
    cloud.run("create")
    both = [cloud.start("install") for _ in range(2)]
    said = [process.communicate(timeout=20)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (cloud.folder / "installer").read_text().count("uv pip install") == 1
    assert "worker 0: not started" in cloud.run("status").stdout


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
    """The whole worker was asked to stop, was killed; the trainer failed, and was asked to stop alone."""
    cloud.plan(workers=4)
    cloud.run("create")
    cloud.run("install")
    (cloud.folder / "hold").touch()
    cloud.run("launch", *TRAIN)
    os.killpg(int((cloud.folder / "home0/socialtag/pid").read_text()), signal.SIGTERM)
    os.killpg(int((cloud.folder / "home1/socialtag/pid").read_text()), signal.SIGKILL)
    cloud.wait_for("home3/trainer")
    os.kill(int((cloud.folder / "home3/trainer").read_text()), signal.SIGTERM)
    cloud.run("logs", "--worker", "3")
    (cloud.folder / "trainer-status").write_text("7")
    (cloud.folder / "hold").unlink()
    cloud.run("logs", "--worker", "2")
    status = cloud.run("status")
    assert status.stdout.splitlines()[1:] == [
        "worker 0: stopped",
        "worker 1: died",
        "worker 2: failed with exit status 7",
        "worker 3: stopped",
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


def test_changes_that_are_not_committed_are_mentioned(cloud: Cloud) -> None:
    changed = cloud.folder / "repository" / "experiments" / "tiny.py"
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


@pytest.mark.parametrize("flags", [(), ("--delete-on-exit",)])
def test_run_does_not_take_another_training_for_its_own(cloud: Cloud, flags: tuple[str, ...]) -> None:
    (cloud.folder / "hold").touch()
    cloud.run("create")
    cloud.run("install")
    cloud.run("launch", *TRAIN)
    result = cloud.run("run", *flags, *TRAIN, "--", "--name", "other")
    assert result.returncode == 1
    assert "another training runs here: socialtag train experiments/tiny.py" in result.stderr
    assert "the launch failed on worker 0 of 1" in result.stderr
    assert ("is not deleted: this call did not make it, and another training" in result.stderr) == bool(flags)
    assert reminds(result.stderr)
    assert not cloud.calls("delete")
    assert cloud.starts() == 1
    assert "worker 0: running" in cloud.run("status").stdout


@pytest.mark.parametrize("lost", [False, True], ids=["by somebody else", "by an attempt whose answer was lost"])
def test_a_machine_that_was_made_meanwhile_is_deleted_by_who_made_it(cloud: Cloud, lost: bool) -> None:
    """The name is free when it is looked up, and taken when the machine is to be made; then a worker fails."""
    cloud.run("create")
    errors = {"tpu-vm describe": [NOT_FOUND], "tpu-vm create": [UNAVAILABLE] if lost else []}
    cloud.plan(errors=errors, scp_fails_on=0)
    result = cloud.run("run", "--delete-on-exit", *TRAIN)
    assert result.returncode == 1
    assert "the installation failed on worker 0 of 1" in result.stderr
    assert (cloud.folder / "node").exists() == (not lost)
    assert reminds(result.stderr) == (not lost)


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


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
