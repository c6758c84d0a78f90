"""What the questions of this folder share: peers in their own environments, interleaved repeats, tables, results.

A question is a module whose docstring begins with it and names its command, with a function `run(context) -> Answer`
which it hands to `main` where it is the program. `__main__.py` lists the questions and their time budgets.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import inspect
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from socialtag_jax import files
from socialtag_jax.errors import UserError
from socialtag_jax.machine import usable_cores

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
ENVIRONMENTS = PROJECT / ".venv-peers"

OUR_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "numpy", "opencv-python-headless")


def requirements() -> dict[str, tuple[str, ...]]:
    """Environment -> what pip installs there. Keras on JAX gets the JAX that we use: XLA is not what is compared."""
    keras = "keras==3.15.1"
    return {
        "torch": ("torch==2.14.1", "torchvision==0.29.1", "safetensors==0.8.0", "setuptools"),
        "tensorflow": ("tensorflow-cpu==2.21.0", keras, "safetensors==0.8.0"),
        "keras-jax": (f"jax=={importlib.metadata.version('jax')}", keras, "safetensors==0.8.0"),
        "onnxruntime": ("onnx==1.23.2", "onnxruntime==1.32.0", "safetensors==0.8.0"),
    }


def environment(name: str) -> Path:
    """The Python of a peer's virtual environment, which is made where it is missing or its requirements changed.

    Raises:
      UserError: pip failed.
    """
    folder, wanted = ENVIRONMENTS / name, "\n".join(requirements()[name]) + "\n"
    # Written last: an environment that pip did not finish has none.
    stamp, python = folder / "installed.txt", folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment {folder.relative_to(PROJECT)}: {', '.join(requirements()[name])}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements()[name]]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise UserError(
            f"pip could not install it: {_tail(result.stdout)}", where=folder, hint="connect to a package index"
        )
    files.write_text(stamp, wanted)
    return python


class Peer:
    """A program in a peer's environment that measures when asked, and is stopped in between.

    Args:
      environment_name: one of `requirements()`.
      program: module in `peers/`.
      settings: its one argument, as JSON can hold them.
      log: file for what the program writes to stderr.
      variables: further environment variables.
      seconds: longest time for the start and for each measurement.
    """

    def __init__(
        self,
        environment_name: str,
        program: str,
        settings: Mapping[str, Any],
        *,
        log: Path,
        variables: Mapping[str, str] | None = None,
        seconds: float = 600.0,
    ) -> None:
        self.name = f"{program} in {environment_name}"
        self._log, self._seconds = log, seconds
        python = environment(environment_name)
        command = [python, "-m", f"experiments.benchmarks.peers.{program}", json.dumps(settings)]
        with log.open("wb") as stderr:
            # A session of its own: the program and its worker processes are stopped and ended together.
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        try:
            self.versions: Mapping[str, str] = self._answer()["versions"]
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, **request: Any) -> Mapping[str, Any]:
        """One measurement; `request` goes to the program's `serve.Measure` as keywords.

        Raises:
          UserError: the program failed, or took too long.
        """
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # said by `_answer`, with the reason
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        # No thread of a peer that waits or prefetches is at work while others are measured.
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """Ends the program and its workers."""
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(self._seconds, self._signal, [signal.SIGKILL])
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            # The reason is written after the answers' pipe has closed.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            raise UserError(
                f"ended without an answer, or took longer than {self._seconds:.0f} s: {_tail(self._log.read_text())}",
                where=self.name,
            )
        return json.loads(line)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@dataclass(frozen=True)
class Row:
    """One line of the table of all questions.

    A goal that is no comparison is one with its limit: peer "limit", theirs 2.0, unit "s", less is better, goal 1.0.

    Attributes:
      question: in a few words, with the sizes that matter.
      ours: measured, in `unit`.
      peer: what is compared, in a few words.
      theirs: likewise measured.
      unit: of both, such as "images/s" or "s".
      goal: the least `ratio`; None where there is no goal.
      less_is_better: of the unit.
      note: what a reader must know, such as which figure is computed from which.
    """

    question: str
    ours: float
    peer: str
    theirs: float
    unit: str
    goal: float | None = None
    less_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        better, worse = (self.theirs, self.ours) if self.less_is_better else (self.ours, self.theirs)
        return better / worse if worse else float("inf")

    @property
    def verdict(self) -> str:
        """Met or missed, or nothing."""
        if self.goal is None:
            return ""
        return "met" if self.ratio >= self.goal else "missed"


@dataclass(frozen=True)
class Series:
    """Repeats of several contenders that took turns.

    Attributes:
      repeats: contender -> measured values, in the order of their turns.
      unit: of the values.
      less_is_better: of the unit.
    """

    repeats: Mapping[str, Sequence[float]]
    unit: str
    less_is_better: bool = False

    def median(self, name: str) -> float:
        """Of a contender's repeats."""
        return statistics.median(self.repeats[name])

    def row(self, question: str, ours: str, peer: str, *, goal: float | None = None, note: str = "") -> Row:
        """A line of the table: two contenders' medians."""
        return Row(question, self.median(ours), peer, self.median(peer), self.unit, goal, self.less_is_better, note)

    def print(self, title: str, ours: str, *, ceiling: str | None = None) -> None:
        """Prints each contender's median, how many times better `ours` is, and its share of the ceiling."""
        count = len(self.repeats[ours])
        print(f"\n{title}: medians of {count} turns")
        width = max(len(name) for name in self.repeats) + 2
        print(f"{'':{width}}{self.unit:>14}{'spread':>10}{'ours is':>10}{'' if ceiling is None else 'of ceiling':>13}")
        for name, values in self.repeats.items():
            median = self.median(name)
            times = "" if name == ours else f"{self.row('', ours, name).ratio:.2f} x"
            share = "" if ceiling is None else f"{1 / self.row('', ceiling, name).ratio:.2f}"
            spread = f"{(max(values) - min(values)) / median * 100:.0f} %"
            print(f"{name:{width}}{figure(median):>14}{spread:>10}{times:>10}{share:>13}")


@dataclass(frozen=True)
class Answer:
    """What a question found.

    Attributes:
      rows: its lines of the table of all questions.
      details: whatever else belongs into its JSON file; `Series` and other dataclasses may be in it.
      versions: environment -> package -> version, of the peers.
    """

    rows: Sequence[Row]
    details: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a question is given.

    Attributes:
      scratch: folder for data sets and logs, kept from question to question.
      corel5k: the archive of Corel5K's photos.
      deadline: on the clock of `time.monotonic`; no turn begins that would end later.
    """

    scratch: Path
    corel5k: Path
    deadline: float

    def interleave(
        self, contenders: Mapping[str, Callable[[], float]], *, repeats: int, unit: str, less_is_better: bool = False
    ) -> Series:
        """Measures all contenders turn by turn, so that what else the machine does touches all alike.

        There are fewer turns than `repeats` where the deadline allows no more, and at least one.
        """
        values: dict[str, list[float]] = {name: [] for name in contenders}
        longest = 0.0
        for turn in range(repeats):
            start = time.monotonic()
            if turn and start + longest > self.deadline:
                break
            for name, measure in contenders.items():
                values[name].append(float(measure()))
            longest = max(longest, time.monotonic() - start)
            said = ", ".join(f"{name} {figure(its[-1])}" for name, its in values.items())
            print(f"turn {turn + 1}: {said} {unit}", file=sys.stderr, flush=True)
        return Series(values, unit, less_is_better)

    def log(self, name: str) -> Path:
        """A file for what a peer writes to stderr."""
        folder = self.scratch / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"


def figure(value: float) -> str:
    """A number as a table shows it: three significant digits, or all of a whole number's."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def main(run: Callable[[Context], Answer]) -> None:
    """Answers a question from the command line, and writes `results/QUESTION.json`."""
    name = Path(inspect.getfile(run)).stem
    documentation = inspect.getdoc(sys.modules[run.__module__]) or ""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--budget", type=float, default=600.0, help="seconds for all turns (default 600)")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    context = Context(options.scratch.resolve(), options.corel5k, time.monotonic() + options.budget)
    start = time.monotonic()
    with cancelled_cleanly():
        answer = run(context)
    content = {
        "question": documentation.splitlines()[0],
        "command": shlex.join(["python", "-m", f"experiments.benchmarks.{name}"]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine(),
        "seconds": round(time.monotonic() - start, 1),
        "versions": {"ours": {"python": platform.python_version(), **versions(OUR_PACKAGES)}, **answer.versions},
        "rows": [{**dataclasses.asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in answer.rows],
        **{name: _plain(value) for name, value in answer.details.items()},
    }
    files.write_text(RESULTS / f"{name}.json", json.dumps(content, indent=1) + "\n")
    print()
    print("\n".join(markdown(answer.rows)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags that one question and all of them have in common."""
    parser.add_argument("--corel5k", type=Path, default=Path("data/corel5k.zip"), help="archive of Corel5K's photos")
    parser.add_argument("--scratch", type=Path, default=Path("data/benchmarks"), help="folder for data sets and logs")


def markdown(rows: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| question | ours | peer | theirs | ours is | goal | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        goal = "" if row.goal is None else f"≥ {row.goal:.3g} ×"
        note = f" ({row.note})" if row.note else ""
        ours, theirs = (f"{figure(value)} {row.unit}" for value in (row.ours, row.theirs))
        cells = (f"{row.question}{note}", ours, row.peer, theirs, f"{row.ratio:.2f} ×", goal, row.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "gpu": gpu_name(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def gpu_name() -> str | None:
    """The first GPU's name, where there is NVIDIA's driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 and result.stdout else None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of packages in this environment."""
    return {name: importlib.metadata.version(name) for name in packages}


@contextlib.contextmanager
def cancelled_cleanly() -> Iterator[None]:
    """A termination becomes an exception, so that peers are ended too; a user's error becomes one line."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmark: terminated"))
    try:
        yield
    except UserError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _tail(text: str, lines: int = 8) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
