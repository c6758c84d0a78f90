"""Sidecars by the commands: they come, change and go, and nothing else does."""

import csv
import errno
import io
import json
import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from socialtag_jax import Tagger, photo_search, sidecars, xmp
from socialtag_jax.errors import UserError
from socialtag_jax.library import Sidecars
from socialtag_jax.library import tag as tag_library
from socialtag_jax.predict import Prediction
from socialtag_jax.presentation import Presentation, Presenter
from socialtag_jax.tagger import SuggestedTag
from tests.bundles import constant_bundle
from tests.photos import draw, library
from tests.sidecar_files import DARKTABLE, keywords, packet


@pytest.fixture(scope="module")
def quiet_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beach 0.881, sun 0.731, sea 0.5, dog 0.269, snow 0.047, whatever the photo."""
    return constant_bundle(tmp_path_factory.mktemp("bundles") / "bundle", np.array([2, -1, 0, -3, 1], np.float32))


def test_sidecars_by_the_command(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 4)
    theirs = folder / "1" / "001.png.xmp"
    theirs.write_text(DARKTABLE)
    theirs.chmod(0o600)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp", "--threshold", 0.6)
    assert result.code == 0
    assert len(result.out.splitlines()) == 4
    assert keywords(theirs.read_bytes()) == ["Italy", "golden hour", "Beach", "Sun"]
    assert theirs.stat().st_mode & 0o777 == 0o600
    record = xmp.record((folder / "0" / "000.png.xmp").read_bytes())
    assert record is not None
    assert [(one.text, one.score) for one in record.tags] == [("Beach", 0.880797), ("Sun", 0.731059)]
    assert record.model == Tagger.load(quiet_bundle).description["files"]["params.safetensors"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.date)
    assert sorted(path.name for path in folder.rglob("*.xmp")) == [f"{number:03d}.png.xmp" for number in range(4)]
    assert not list(folder.rglob("*.journal"))
    # The same once more changes no file; other tags take the place of ours.
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.xmp")}
    assert socialtag("predict", quiet_bundle, folder, "--write-xmp", "--threshold", 0.6).code == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.xmp")} == times
    assert socialtag("predict", quiet_bundle, folder, "--write-xmp", "--max-tags", 1, "--hashtags").code == 0
    assert keywords(theirs.read_bytes()) == ["Italy", "golden hour", "#Beach"]
    result = socialtag("untag", folder)
    assert result.code == 0
    assert "of 4 sidecars, 1 freed of our tags; 3 that held nothing else deleted; 0 left alone" in result.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_abstaining_takes_our_tags_out_again(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 2)
    socialtag("predict", quiet_bundle, folder, "--write-xmp")
    assert len(list(folder.rglob("*.xmp"))) == 2
    output = tmp_path / "tags.csv"
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp", "--min-confidence", 0.9, "--csv", output)
    assert result.code == 0
    assert "2 of 2 photos have no tag that is sure enough" in result.err
    assert list(folder.rglob("*.xmp")) == []
    rows = list(csv.reader(output.read_text().splitlines()))
    assert rows[1:] == [[str(folder / f"{number}/{number:03d}.png"), "", "", "", "yes"] for number in range(2)]
    result = socialtag("predict", quiet_bundle, folder, "--min-confidence", 0.9)
    assert result.out.splitlines()[0].endswith("000.png: (abstained: no tag is sure enough)")


def test_a_dry_run_shows_what_both_would_do(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 2)
    theirs = folder / "1" / "001.png.xmp"
    theirs.write_text(DARKTABLE)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp", "--dry-run", "--max-tags", 1)
    assert result.code == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    lines = result.out.splitlines()
    assert lines[:3] == [f"--- {os.devnull}", f"+++ {folder / '0' / '000.png.xmp'}", "@@ -0,0 +1,23 @@"]
    at = lines.index(f"--- {theirs}")
    assert "+     <rdf:li>Beach</rdf:li>" in lines[at:]
    assert not [line for line in lines[at + 1 :] if line.startswith("-")]
    socialtag("predict", quiet_bundle, folder, "--write-xmp", "--max-tags", 1)
    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = socialtag("untag", folder, "--dry-run")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written
    assert result.out.splitlines()[:3] == [
        f"--- {folder / '0' / '000.png.xmp'}",
        f"+++ {os.devnull}",
        "@@ -1,23 +0,0 @@",
    ]
    assert "-     <rdf:li>Beach</rdf:li>" in result.out
    assert "1 would be freed of our tags; 1 that held nothing else would be deleted" in result.err


@pytest.mark.parametrize(
    ("old", "new"), [("", ""), ("\n", "\r\n"), ("  ", "\t"), ("golden hour", "golden\u2028hour"), ("\n", "")]
)
def test_the_diff_is_one_that_patch_takes(tmp_path: Path, old: str, new: str):
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes((DARKTABLE.replace(old, new) if old else DARKTABLE).encode())
    tags = [xmp.ScoredTag("Sea", 0.5)]
    change = sidecars.tagging(tmp_path / "a.jpg", xmp.Record("f" * 64, "2026-11-26T08:00:00+00:00", tags))
    assert ("\\ No newline at end of file" in change.diff()) == ((old, new) == ("\n", ""))
    subprocess.run(["patch", "--quiet", "--binary", path], input=change.diff().encode(), check=True)
    assert path.read_bytes() == change.after


def test_a_diff_commands_no_terminal(tmp_path: Path):
    folder = tmp_path / "a\n+++ b\t"
    folder.mkdir()
    path = folder / "a.jpg.xmp"
    path.write_bytes(DARKTABLE.replace("golden hour", "golden\x9b31mhour\rred").encode())
    change = sidecars.tagging(folder / "a.jpg", xmp.Record("f" * 64, "", [xmp.ScoredTag("Sea", 0.5)]))
    lines = change.diff().split("\n")
    assert lines[0] == f"--- {tmp_path}/a\\n+++ b\\t/a.jpg.xmp"
    assert lines[1].startswith("+++ ")
    assert "      <rdf:li>golden\\x9b31mhour\\rred</rdf:li>" in lines


def test_sidecars_that_are_left_alone(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 5)
    paths = [folder / f"{number % 3}" / f"{number:03d}.png.xmp" for number in range(5)]
    broken, linked, entities, is_folder, _ = paths
    broken.write_text("<x:xmpmeta")
    elsewhere = tmp_path / "elsewhere.xmp"
    elsewhere.write_text(DARKTABLE)
    linked.symlink_to(elsewhere)
    entities.write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + packet("&a;"))
    is_folder.mkdir()
    texts = {path: path.read_text() for path in (broken, linked, entities)}
    output = tmp_path / "tags.jsonl"
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp", "--jsonl", output)
    assert result.code == 1
    assert "the sidecars of 4 of 5 photos were left alone" in result.err
    assert f"socialtag: error: {broken}: not well-formed XML" in result.err
    assert {path: path.read_text() for path in texts} == texts
    # The photos have their tags all the same.
    assert [len(json.loads(line)["tags"]) for line in output.read_text().splitlines()] == [3] * 5
    rejects = dict(list(csv.reader((tmp_path / "tags.rejects.csv").read_text().splitlines()))[1:])
    assert rejects.keys() == {str(path) for path in (broken, linked, entities, is_folder)}
    assert rejects[str(linked)] == "is a symbolic link"
    assert rejects[str(is_folder)] == "Is a directory"
    assert "has a document type" in rejects[str(entities)]
    # `untag` has nothing to say of what is none of ours, whatever it is.
    (folder / "latin1.xmp").write_bytes(b"caf\xe9")
    assert socialtag("untag", folder, "--dry-run").out.count("+++") == 1
    assert socialtag("untag", folder).code == 0
    assert {path: path.read_text() for path in texts} == texts
    ours = tagged_by_us(tmp_path / "cut.jpg")
    ours.write_bytes(ours.read_bytes()[:-20])
    cut = ours.read_bytes()
    result = socialtag("untag", ours)
    assert (result.code, ours.read_bytes()) == (1, cut)
    assert f"socialtag: error: {ours}: not well-formed XML" in result.err


def test_what_another_program_writes_meanwhile_stays(tmp_path: Path):
    path = tagged_by_us(tmp_path / "a.jpg")
    for change in (
        sidecars.untagging(path),
        sidecars.tagging(tmp_path / "a.jpg", xmp.Record("e" * 64, "", [xmp.ScoredTag("Sun", 0.5)])),
    ):
        assert change.is_needed
        before = path.read_bytes()
        path.write_text(DARKTABLE)
        with pytest.raises(UserError, match="was changed by another program just now"):
            change.apply()
        assert path.read_text() == DARKTABLE
        path.write_bytes(before)
        change.apply()
        tagged_by_us(tmp_path / "a.jpg")


def test_bad_files_are_listed_in_the_folder_where_there_is_no_output(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 3, (1,))
    (folder / "2" / "002.png.xmp").write_text("<broken")
    rejects = folder / "socialtag-predict.rejects.csv"
    socialtag("predict", quiet_bundle, folder, "--write-xmp", "--dry-run")
    assert not rejects.exists()
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp")
    assert result.code == 1
    assert f"what could not be done is listed in {rejects}" in result.err
    _, (photo, reason), (sidecar, why) = csv.reader(rejects.read_text().splitlines())
    assert (photo, sidecar) == (str(folder / "1" / "001.png"), str(folder / "2" / "002.png.xmp"))
    assert "truncated" in reason
    assert why.startswith("not well-formed XML")
    # Once all is well, no old list stays.
    draw(folder / "1" / "001.png", ["red"], 1)
    (folder / "2" / "002.png.xmp").unlink()
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp")
    assert (result.code, rejects.exists()) == (0, False)
    assert "listed" not in result.err


@pytest.mark.parametrize("mount_point", [False, True])
@pytest.mark.parametrize("flag", ["--csv", "--write-xmp"])
def test_a_library_that_goes_meanwhile_is_not_called_done(
    socialtag, quiet_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, mount_point: bool
):
    """A disk that is unplugged: what follows cannot be read, and what came before need not be done again."""
    folder, output = library(tmp_path / "photos", 40), tmp_path / "tags.csv"
    asked = [flag, output] if flag == "--csv" else [flag]
    pixels = Tagger.pixels

    def unplugged(self: Tagger, photo: Path) -> np.ndarray:
        if photo == folder / "2" / "035.png":
            folder.rename(tmp_path / "elsewhere")
            if mount_point:
                folder.mkdir()
        return pixels(self, photo)

    monkeypatch.setattr(Tagger, "pixels", unplugged)
    result = socialtag("predict", quiet_bundle, folder, *asked)
    assert result.code == 1
    assert f"socialtag: error: {folder}: has gone meanwhile -- bring it back" in result.err
    assert not output.exists()
    if mount_point:
        assert list(folder.iterdir()) == []
        folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    monkeypatch.setattr(Tagger, "pixels", pixels)
    result = socialtag("predict", quiet_bundle, folder, *asked)
    assert result.code == 0
    if flag == "--csv":
        assert len({row[0] for row in csv.reader(output.read_text().splitlines()[1:])}) == 40
    else:
        assert len(list(folder.rglob("*.png.xmp"))) == 40


def test_a_photo_that_goes_meanwhile_gets_no_sidecar(quiet_bundle: Path, tmp_path: Path):
    photo = library(tmp_path / "photos", 1) / "0" / "000.png"
    photo.unlink()
    lines: list[str] = []
    beside = Sidecars("f" * 64, now=lambda: "", show=None, log=lines.append)
    with ThreadPoolExecutor(1) as pool:
        (after,) = beside.update([Prediction(photo, (SuggestedTag("sea", "Sea", 0.5),))], pool)
    assert after.sidecar_left == "the photo is gone"
    assert lines == [f"socialtag: error: {photo}: the photo is gone: left alone"]
    assert list(photo.parent.iterdir()) == []


def test_what_is_read_only_stays(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 1) / "0"
    path = folder / "000.png.xmp"
    path.write_text(DARKTABLE)
    path.chmod(0o444)
    result = socialtag("predict", quiet_bundle, folder, "--write-xmp")
    assert (result.code, path.read_text()) == (1, DARKTABLE)
    assert f"socialtag: error: {path}: is read-only: left alone" in result.err
    ours = tagged_by_us(folder / "000.jpg")
    ours.chmod(0o444)
    assert socialtag("untag", folder).code == 1
    assert ours.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_sidecar_keeps_its_owner(tmp_path: Path):
    """A library's own user must still be able to write what root has tagged."""
    path = tmp_path / "a.jpg.xmp"
    path.write_text(DARKTABLE)
    os.chown(path, 1234, 5678)
    path.chmod(0o664)
    tagged_by_us(tmp_path / "a.jpg")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o664)


def test_a_sidecar_whose_group_we_may_not_set_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Photos that a container or another user has copied, or a disk that has no groups."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    path = tmp_path / "a.jpg.xmp"
    path.write_text(DARKTABLE)
    path.chmod(0o640)
    tagged_by_us(tmp_path / "a.jpg")
    assert keywords(path.read_bytes()) == ["Italy", "golden hour", "Sea"]
    assert path.stat().st_mode & 0o7777 == 0o640


def test_a_sidecar_in_upper_case_is_the_one(tmp_path: Path):
    """Beside it, another would be the same file once the photos are copied to where case does not count."""
    upper = tmp_path / "a.jpg.XMP"
    upper.write_text(DARKTABLE)
    assert tagged_by_us(tmp_path / "a.jpg") == upper
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg.XMP"]
    assert keywords(upper.read_bytes()) == ["Italy", "golden hour", "Sea"]
    assert sidecars.find([tmp_path]) == [upper]
    sidecars.untagging(upper).apply()
    assert upper.read_text() == DARKTABLE


def test_a_folder_that_is_moved_away_meanwhile(tmp_path: Path):
    change = sidecars.tagging(tmp_path / "gone" / "a.jpg", xmp.Record("f" * 64, "", [xmp.ScoredTag("Sea", 0.5)]))
    with pytest.raises(UserError, match="No such file or directory"):
        change.apply()


def test_a_photo_that_is_named_twice(socialtag, quiet_bundle: Path, tmp_path: Path):
    photo = library(tmp_path / "photos", 1) / "0" / "000.png"
    result = socialtag("predict", quiet_bundle, *[photo] * 9, "--write-xmp", "--max-tags", 1)
    assert (result.code, result.out) == (0, f"{photo}: Beach 0.88\n" * 9)
    assert keywords(sidecars.sidecar_path(photo).read_bytes()) == ["Beach"]


def tagged_by_us(photo: Path) -> Path:
    """A sidecar that is all ours."""
    tags = [xmp.ScoredTag("Sea", 0.5)]
    change = sidecars.tagging(photo, xmp.Record("f" * 64, "2026-11-26T08:00:00+00:00", tags))
    change.apply()
    return change.path


def test_what_a_kill_leaves_beside_a_photo_is_cleared(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 1)
    unfinished = folder / "0" / f".000.png.xmp.{2**22 + 1}-456@{socket.gethostname()}.tmp"
    unfinished.write_text("<x:xmpm")
    socialtag("predict", quiet_bundle, folder, "--write-xmp", "--dry-run")
    assert unfinished.exists()
    socialtag("predict", quiet_bundle, folder, "--write-xmp")
    assert sorted(path.name for path in unfinished.parent.iterdir()) == ["000.png", "000.png.xmp"]
    # Nor does it stay where the run is not gone on with.
    unfinished.write_text("<x:xmpm")
    socialtag("untag", folder, "--dry-run")
    assert unfinished.exists()
    socialtag("untag", folder)
    assert [path.name for path in unfinished.parent.iterdir()] == ["000.png"]


def test_a_full_disk_ends_the_run(quiet_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What no file can be written for is said once, not for every photo."""
    folder, tagger = library(tmp_path / "photos", 3), Tagger.load(quiet_bundle)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    beside = Sidecars("f" * 64, now=lambda: "", show=None, log=pytest.fail)
    predictions = tag_library(
        tagger,
        photo_search.find_photos([folder]).photos,
        choose=Presenter(tagger.vocabulary, Presentation(0.45, 3)).choose,
        journal=None,
        sidecars=beside,
        log=pytest.fail,
        stream=io.StringIO(),
    )
    with pytest.raises(OSError, match="No space left"):
        list(predictions)


def test_lists_and_preset_by_the_command(socialtag, quiet_bundle: Path, tmp_path: Path):
    folder = library(tmp_path / "photos", 1)
    (tmp_path / "stop.txt").write_text("SUN\nsnw\nUpper Class\n")
    (tmp_path / "aliases.txt").write_text("Beach = sandy beach\nDog = Upper_Class\n")
    (tmp_path / "preset.toml").write_text(
        'hashtags = true\nthreshold = 0.4\nstop = "stop.txt"\naliases = "aliases.txt"\n'
    )
    photo = folder / "0" / "000.png"
    result = socialtag("predict", quiet_bundle, photo, "--preset", tmp_path / "preset.toml")
    assert result.out == f"{photo}: #SandyBeach 0.88  #Sea 0.50\n"
    assert result.err == f"warning: {tmp_path / 'stop.txt'}: the model has no tag 'snw': did you mean 'Snow'?\n"
    # What is said on the command line goes before.
    arguments = ("--preset", tmp_path / "preset.toml", "--no-hashtags", "--threshold", 0.6)
    assert socialtag("predict", quiet_bundle, photo, *arguments).out == f"{photo}: sandy beach 0.88\n"


def test_names_that_are_not_unicode(socialtag, quiet_bundle: Path, tmp_path: Path):
    photo = tmp_path / "photos" / os.fsdecode(b"caf\xe9 \n.png")
    draw(tmp_path / "photo.png", ["red"], 0)
    photo.parent.mkdir()
    (tmp_path / "photo.png").rename(photo)
    output = tmp_path / "tags.jsonl"
    assert socialtag("predict", quiet_bundle, photo.parent, "--jsonl", output, "--write-xmp").code == 0
    assert json.loads(output.read_text(encoding="ascii"))["path"] == str(photo)
    assert len(keywords(sidecars.sidecar_path(photo).read_bytes())) == 3
    assert socialtag("untag", photo).code == 0
    assert list(photo.parent.iterdir()) == [photo]
