"""What SECURITY.md promises: no code that could break it is in the package, and each promise names tests that exist."""

import ast
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from socialtag_jax.errors import UserError
from socialtag_jax.weight_files import contents, download, formats

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "socialtag_jax").rglob("*.py"))
ALL = [*PACKAGE, *sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "tfrecords").rglob("*.py"))]
# Programs of other projects, which only benchmarks run, in environments of their own.
OURS = [path for path in ALL if "peers" not in path.parts]

UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "torch",
}
CODE_RUNNERS = {"eval", "exec", "compile", "__import__"}
SHELLS = {
    ("os", "system"),
    ("os", "popen"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("asyncio", "create_subprocess_shell"),
}
EXTRACTORS = {"extract", "extractall", "unpack_archive"}
MAY_RUN_FILES = {"socialtag_jax/experiment_files.py": {"runpy"}}
"""The user's own experiment file, which is a program; no other file is."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The first name of every module that is imported anywhere, by whatever means."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func)[-1] == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value).split(".")[0]


def dotted(node: ast.AST) -> tuple[str, ...]:
    """("os", "system") of `os.system`; ("",) of what has no name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    return (*dotted(node.value), node.attr) if isinstance(node, ast.Attribute) else ("",)


def calls(tree: ast.AST) -> Iterator[tuple[tuple[str, ...], ast.Call]]:
    yield from ((dotted(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def option(call: ast.Call, name: str) -> Any:
    """A keyword's constant; `...` where it is no constant, None where it is not there."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def faults(tree: ast.AST, path: str) -> list[str]:
    """What must not stand in our code."""
    found = [f"imports {name}" for name in imports(tree) if name in UNPICKLERS]
    may = MAY_RUN_FILES.get(path, set())
    found += [f"imports {name}" for name in imports(tree) if name in {"runpy", "code", "codeop"} - may]
    for name, call in calls(tree):
        if len(name) == 1 and name[0] in CODE_RUNNERS:
            found.append(f"calls {name[0]}")
        if name[-2:] in SHELLS or option(call, "shell") not in (None, False):
            found.append(f"starts a shell: {'.'.join(name)}")
        if name[-1] in EXTRACTORS:
            found.append(f"unpacks an archive: {'.'.join(name)}")
        if (
            name[-1] == "load"
            and name[0] in ("np", "numpy", "jnp")
            and option(call, "allow_pickle") not in (None, False)
        ):
            found.append("unpickles arrays")
        if (
            name[-1] in ("load_model", "load_weights")
            and name[0] == "keras"
            and option(call, "safe_mode") not in (None, True)
        ):
            found.append("loads Keras's code")
        if name[-1] in ("full_load", "unsafe_load") or (name[-2:] == ("yaml", "load")):
            found.append("loads YAML's objects")
        if name[-1] == "_create_unverified_context" or option(call, "verify") is False:
            found.append("checks no certificate")
        if name[-1] == "mktemp":
            found.append("names a temporary file that others may make first")
    return found


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_unpickles_runs_data_or_starts_a_shell(path: Path):
    assert faults(parsed(path), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import loads",
        "import importlib; importlib.import_module('joblib')",
        "import torch; torch.load('x')",
        "import shelve as s",
        "def f():\n    import marshal",
        "numpy.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "subprocess.run(line, shell=True)",
        "subprocess.Popen(line, shell=flag)",
        "os.system('ls')",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "import runpy",
        "tempfile.mktemp()",
        "yaml.load(text)",
    ],
)
def test_the_scan_finds(code: str):
    assert faults(ast.parse(code), "socialtag_jax/anywhere.py")


def test_programs_are_started_by_lists_of_words():
    """Where the package starts one at all, and it starts two."""
    found = {}
    for path in PACKAGE:
        for name, call in calls(parsed(path)):
            if name[0] == "subprocess" and name[-1] in ("run", "Popen", "call", "check_call", "check_output"):
                assert isinstance(call.args[0], ast.List)
                found[path.name] = found.get(path.name, 0) + 1
    assert found == {"download.py": 1}


def test_every_promise_names_its_tests():
    """`tests/test_x.py::test_y` in SECURITY.md: the file is there, and has a test of that name."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 20
    for name, test in named:
        tree = parsed(ROOT / name)
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not test or test in functions, f"{name}::{test}"
    promises = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert all("`tests/" in promise for promise in promises)


# ---- archives and downloads: names and sizes are looked at first


def zip_that_says(path: Path, names: dict[str, int]) -> Path:
    """An archive of empty members whose directory says that they have so many bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    data = bytearray(path.read_bytes())
    position = 0
    for size in names.values():
        position = data.index(b"PK\x01\x02", position + 1)
        data[position + 24 : position + 28] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("member", ["model.weights.h5", "block1_conv1/kernel.npy"])
def test_an_archive_bomb_is_refused_before_it_is_unpacked(member: str, tmp_path: Path):
    names = {member: 2**32 - 2} | ({"config.json": 2**31} if member.endswith("h5") else {"b.npy": 2**31})
    path = zip_that_says(tmp_path / "bomb.zip", names)
    with pytest.raises(UserError, match=r"would be 6,442,450,942 bytes when unpacked, expected at most 4,294,967,296"):
        formats.read(path)


def test_a_tensor_bomb_is_refused_before_it_is_read(tmp_path: Path):
    """A data set of HDF5 that was never written takes no room, and would be zeros of any size."""
    h5py = contents.require_package("h5py", "here")
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1"]
        group = file.create_group("block1_conv1")
        group.attrs["weight_names"] = [b"block1_conv1/kernel:0"]
        group.create_dataset("block1_conv1/kernel:0", shape=(2**20, 2**20), dtype="f4", chunks=(1024, 1024))
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"kernel:0 would be 4,398,046,511,104 bytes, expected at most"):
        formats.read(path)


def test_names_in_an_archive_lead_nowhere(tmp_path: Path):
    """Members are read by name into memory: what else an archive holds is never written anywhere."""
    path = tmp_path / "inner" / "weights.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.npy", b"\x93NUMPY")
        archive.writestr("/tmp/escaped.npy", b"\x93NUMPY")
    with pytest.raises(UserError):
        formats.read(path)
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["inner", "weights.npz"]


def test_a_download_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Endless:
        headers: dict[str, str] = {}  # noqa: RUF012

        def read(self, size: int) -> bytes:
            return bytes(size)

        def __enter__(self) -> "Endless":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(download, "_LARGEST_DOWNLOAD", 3_000_000)
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(UserError, match="sends more than 3,000,000 bytes"):
        download.download_keras(tmp_path, print, url="http://localhost/endless")
