"""The documentation: every command and program in it runs as it stands there.

Commands are those of the command line itself, started by bash in a folder of the page's own. What differs from what a
reader has: training starts from random weights, since ImageNet's are a download; servers listen on a free port;
HARRISON and MIRFLICKR are small photos in the form of those data sets, and their experiments, which take a GPU hours,
run with `--debug`. What would rent machines, make environments or download packages is only looked at; the pages say
so in comments.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from socialtag_jax import cli, experiment_files
from socialtag_jax.sources import postcards
from tests import data_sets
from tests.docs_pages import PAGES, ROOT, Block, blocks, given
from tests.machines import Cloud, stubbed_cloud

_PHOTOS = 100
# Their programs run in tests of their own: test_consumers.py, test_onnx_web.py.
_PROGRAMS_TESTED_ELSEWHERE = ("docs/consumers.md",)
_PAGE_ADDRESS = "http://127.0.0.1:8000"
_OTHER_PROGRAMS = {"python3", "pip", "make", "git", "gcloud", "ssh-add", "tfds", "cd", "npm", ".", "export", "sudo"}

_SOCIALTAG = f"""#!/bin/sh
case "$1 $*" in
  *--help*) ;;
  train*experiments/harrison.py*|train*experiments/mirflickr.py*) set -- "$@" --weights random --debug ;;
  train*|sweep*) set -- "$@" --weights random ;;
esac
exec {sys.executable} -m socialtag_jax.cli "$@"
"""


def _run(words: list[str], folder: Path, environment: dict[str, str], where: str) -> None:
    result = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )
    assert result.returncode == 0, f"{where}: exit code {result.returncode}\n{result.stdout}{result.stderr}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a reader's terminal: `socialtag` and this Python are found, and caches are the tests' own."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "socialtag").write_text(_SOCIALTAG)
    (programs / "socialtag").chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "SOCIALTAG_CACHE": str(tmp_path_factory.mktemp("cache")),
    }


class Givens:
    """What pages take for granted, made once, by the commands of docs/guides/own_photos.md, and copied to each page."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._makers: dict[str, Callable[[], object]] = {
            "holiday": lambda: postcards.render(self._folder / "holiday", count=_PHOTOS, workers=1),
            "new_photos": lambda: self._copies("new_photos", "images/0000.jpg", "images/0001.jpg"),
            "photos": lambda: self._copies("photos", "images/0004.jpg", "images/0005.jpg"),
            "beach.jpg": lambda: self._copies("beach.jpg", "images/0002.jpg"),
            "photo.jpg": lambda: self._copies("photo.jpg", "images/0003.jpg"),
            "holiday.py": lambda: shutil.copy(ROOT / "experiments" / "corel5k_quick.py", self._folder / "holiday.py"),
            "experiments": lambda: (self._folder / "experiments").symlink_to(ROOT / "experiments"),
            "HARRISON": lambda: data_sets.harrison(self._folder / "HARRISON"),
            "MIRFLICKR": lambda: data_sets.mirflickr(self._folder / "MIRFLICKR"),
            "data/holiday": lambda: self._socialtag(
                "holiday", "prepare --source tags-csv --input holiday --output data --workers 1"
            ),
            "runs/holiday": lambda: self._socialtag(
                "data/holiday holiday.py",
                "train holiday.py --dataset data/holiday --workdir runs/holiday --name holiday",
            ),
            "holiday.tagger": lambda: self._socialtag("runs/holiday", "export runs/holiday --output holiday.tagger"),
        }

    def _copies(self, name: str, *photos: str) -> None:
        self.make("holiday")
        if "." in name:
            shutil.copy(self._folder / "holiday" / photos[0], self._folder / name)
            return
        (self._folder / name).mkdir()
        for photo in photos:
            shutil.copy(self._folder / "holiday" / photo, self._folder / name)

    def _socialtag(self, needs: str, arguments: str) -> None:
        for name in needs.split():
            self.make(name)
        _run(["socialtag", *arguments.split()], self._folder, self._environment, arguments)

    def make(self, name: str) -> Path:
        """The thing of that name."""
        path = self._folder / name
        if not path.exists():
            self._makers[name]()
        return path

    def copy(self, names: list[str], folder: Path) -> None:
        """Copies them to a page's folder."""
        for name in names:
            path, copied = self.make(name), folder / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                copied.symlink_to(path.readlink())
            elif path.is_dir():
                shutil.copytree(path, copied)
            else:
                shutil.copy(path, copied)


@pytest.fixture(scope="module")
def givens(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Givens]:
    folder = tmp_path_factory.mktemp("givens")
    yield Givens(folder, environment)
    shutil.rmtree(folder)


class Servers:
    """What a page's blocks have started."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self.address = _PAGE_ADDRESS

    def start(self, block: Block, folder: Path, environment: dict[str, str]) -> None:
        """Starts the server on a free port, and waits until it prints its address."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {block.code.strip()} --port 0"],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        assert process.stdout is not None
        self.address = process.stdout.readline().strip().rstrip("/")
        assert self.address.startswith("http://127.0.0.1:"), block.where
        # Answered only once it listens for Ctrl-C, too.
        with urlopen(self.address, timeout=30) as answer:
            assert answer.status == 200

    def stop(self) -> list[int]:
        """Ctrl-C; the exit codes."""
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        codes = [process.wait(30) for process in self._processes]
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.close()
        return codes


RUN = [name for name in PAGES if any(block.mark != "not run" for block in blocks(name))]


@pytest.mark.parametrize("name", RUN)
def test_what_a_page_has_people_type_works(
    name: str, givens: Givens, environment: dict[str, str], folder: Path
) -> None:
    givens.copy(given(name), folder)
    servers = Servers()
    try:
        for block in blocks(name):
            if block.mark == "not run" or (block.language == "python" and name in _PROGRAMS_TESTED_ELSEWHERE):
                continue
            if block.mark == "server":
                servers.start(block, folder, environment)
                continue
            code = block.code.replace(_PAGE_ADDRESS, servers.address)
            program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
            _run([*program, code], folder, environment, block.where)
    finally:
        codes = servers.stop()
    assert all(code in (0, 130) for code in codes)


NOT_RUN = [block for name in PAGES for block in blocks(name) if block.mark == "not run"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with stubbed_cloud() as it:
        yield it


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.where)
def test_what_is_not_run_is_a_right_call(block: Block, cloud: Cloud) -> None:
    assert block.reason
    if block.language == "python":
        compile(block.code, block.where, "exec")
        return
    settings = dict(re.findall(r"(SOCIALTAG_\w+)=(\S+)", PAGES[block.where.split(":")[0]].read_text(encoding="utf-8")))
    for words in block.commands():
        match words:
            case ["socialtag", *arguments]:
                _check_socialtag(arguments)
            case ["./run_tpu.sh", command, *rest]:
                result = cloud.run(command, *(() if "--dry-run" in rest else ("--dry-run",)), *rest, **settings)
                assert result.returncode == 0, f"{block.where}: {result.stderr}"
            case ["make", target, *_]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), block.where
            case ["pip", "install", *what]:
                _check_extras(" ".join(what))
            case [program, *_]:
                assert program in _OTHER_PROGRAMS, f"{block.where}: {program}"


def _check_socialtag(arguments: list[str]) -> None:
    """By the command line's own parser, which exits where it is wrong; an experiment's fields too."""
    parser, _ = cli._parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command in ("train", "sweep"):
        experiment = experiment_files.load_experiment(ROOT / "experiments" / options.experiment.name)
        experiment_files.override(experiment, rest, prog="socialtag")
    else:
        assert not rest


def _check_extras(text: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"\[(.+?)\]", text):
        assert set(names.split(",")) <= set(project["optional-dependencies"])


def test_marks_are_few() -> None:
    """Most of what can be typed is run."""
    run = [block for name in RUN for block in blocks(name) if block.mark != "not run"]
    assert len(run) > len(NOT_RUN)
