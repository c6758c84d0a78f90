"""A stub of gcloud that keeps machines in the folder $STUB_CLOUD, and runs in bash what is sent to their workers."""

import contextlib
import json
import os
import pathlib
import sys

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
    import shutil
    import signal

    for pid in cloud.glob("home*/socialtag/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
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
    import shutil
    import subprocess

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
        log = pathlib.Path(flags["output-directory"], f"{number}.log") if "output-directory" in flags else None
        output = log.open("w") if log else None
        # As ssh does: one string, for the user's shell, without a terminal.
        status = subprocess.run(
            ["bash", "-c", flags["command"]],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ).returncode
        worst = worst or status
    drop = plan["drop_after"]
    if drop and drop in flags["command"]:
        plan["drop_after"] = ""
        save()
        end("ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255].")
    sys.exit(worst)
