"""What people expect of a command line: examples that work, completion, colour where it is seen."""

import argparse
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from socialtag_jax import cli, experiment_files

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "experiments" / "corel5k_quick.py"


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [one for one in cli._parser()[0]._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.mark.parametrize("command", commands())
def test_examples_can_be_typed(command: str):
    """Each example of `--help` is understood by the parser; nothing is run."""
    parser, _ = cli._parser()
    said = commands()[command].format_help()
    lines = re.findall(r"^  (?:eval \"\$\()?(socialtag [^)>#\n]*)", said.replace("\\\n", " "), re.MULTILINE)
    assert lines, said
    for line in lines:
        words = shlex.split(line)
        if "--help" in words:
            continue
        options, rest = parser.parse_known_args(words[1:])
        if words[1] not in ("train", "sweep"):
            assert not rest, line
            continue
        # One of the reader's own is as good as the quick one.
        file = QUICK if options.experiment == Path("holiday.py") else ROOT / options.experiment
        experiment_files.override(experiment_files.load_experiment(file), rest, prog="socialtag")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("socialtag pre", {"predict", "prepare", "preview"}), ("socialtag train --work", {"--workdir"})],
)
def test_bash_completes(socialtag, tmp_path: Path, typed: str, expected: set[str]):
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    script = socialtag("completion", "bash")
    assert (script.code, script.err) == (0, "")
    (tmp_path / "completion").write_text(script.out)
    words = typed.split()
    asked = f"""
        source {tmp_path}/completion
        COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; COMP_LINE="{typed}"; COMP_POINT={len(typed)}
        function_name=$(complete -p socialtag | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function_name socialtag "{words[-1]}" "{words[-2]}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize(("no_color", "red"), [("", True), ("1", False)])
def test_errors_are_red_where_somebody_looks(no_color: str, red: bool):
    line = [sys.executable, "-m", "socialtag_jax.cli", "stats", "nowhere"]
    environment = {**os.environ, "NO_COLOR": no_color}
    ours, its = pty.openpty()
    subprocess.run(line, stderr=its, env=environment)
    os.close(its)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.startswith("\033[1;31msocialtag: error:\033[0m nowhere" if red else "socialtag: error: nowhere")
    plain = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert plain.stderr.startswith("socialtag: error: nowhere")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
@pytest.mark.parametrize("arguments", [("--help",), ("--optimizer.speed", "3")])
def test_an_experiments_fields_are_coloured_where_somebody_looks(
    arguments: tuple[str, ...], no_color: str, coloured: bool
):
    """Those are tyro's, which knows nothing of NO_COLOR, and asks stdout what stderr is."""
    program = f"""
from pathlib import Path
from socialtag_jax import experiment_files
experiment = experiment_files.load_experiment(Path({str(QUICK)!r}))
experiment_files.override(experiment, {arguments!r}, prog="socialtag")
"""
    ours, its = pty.openpty()
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=its, stderr=its, env=environment):
        os.close(its)
        # A read may end within a character.
        said = b"".join(iter(lambda: _read(ours), b"")).decode()
    os.close(ours)
    assert ("\033[" in said) == coloured
    log = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert "\033[" not in log.stdout + log.stderr


def _read(terminal: int) -> bytes:
    """Nothing where the other side is closed, which Linux tells by an error."""
    try:
        return os.read(terminal, 10_000)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("data.run_prepare", "prepare --source tags-csv --input a --output b", "again to go on"),
        ("training.run_train", "train a.py --dataset b", "again to go on"),
        ("evaluation.run_evaluate", "evaluate run --dataset b", "again to start over"),
        (
            "tagging.run_predict",
            "predict a.tagger b",
            "again to go on, if it writes a file or sidecars, or else to start",
        ),
        ("doctor.run_doctor", "doctor", "again to start over"),
    ],
)
def test_ctrl_c_says_whether_there_is_something_to_go_on_with(module: str, line: str, said: str):
    """Of processes of their own, which end without asking Python; the commands' work is interrupted at once."""
    program = f"""
import signal
from socialtag_jax import cli
from socialtag_jax.commands import data, doctor, evaluation, tagging, training
{module} = lambda options: signal.raise_signal(signal.SIGINT)
cli.main({line.split()!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr.startswith("\nsocialtag: interrupted; run the same command ")
    assert said in ended.stderr
