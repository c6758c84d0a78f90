"""HARRISON: 57,383 Instagram photos with 997 hashtags, as its authors ship it (Park, Li and Kim, 2016).

Three lists beside the image folder: `data_list.txt` (one relative image path a line), `tag_list.txt` (that image's
tags, separated by spaces, in the same order of lines) and `vocab_index.txt` (tag and index).
"""

from collections.abc import Callable
from pathlib import Path

from socialtag_jax.errors import UserError
from socialtag_jax.sources.photo import Photo

DATA_LIST, TAG_LIST, VOCABULARY = "data_list.txt", "tag_list.txt", "vocab_index.txt"
_EXAMPLES = 3


def read(
    folder: Path, *, overlay: Path | None = None, need_images: bool = True, warn: Callable[[str], None]
) -> list[Photo]:
    """Reads the three lists.

    A photo is known by its relative path: many share a base name. Tags outside the vocabulary are kept, and reported.

    Args:
      folder: holds the lists, and the images below it.
      overlay: a folder whose images, by the same relative paths, replace those of `folder` (fixed photos).
      need_images: False where only the labels are wanted, so that missing images are no matter.
      warn: takes one line of text at a time.

    Raises:
      UserError: the overlay is no folder, a list is missing or is not UTF-8, the lists have unequal lengths, a path
        stands twice or is empty, the vocabulary is malformed, or no image at all is there.
    """
    paths, tag_lines = _lines(folder / DATA_LIST), _lines(folder / TAG_LIST)
    if len(paths) != len(tag_lines):
        raise UserError(
            f"{DATA_LIST} has {len(paths):,} lines, {TAG_LIST} has {len(tag_lines):,}: photos and tags do not match",
            where=folder,
            hint="get both lists anew, from the same release",
        )
    if overlay is not None and not overlay.is_dir():
        raise UserError("no such folder", where=overlay, hint="--overlay is a folder of images by the lists' paths")
    vocabulary = _vocabulary(folder / VOCABULARY, warn)
    photos: list[Photo] = []
    first_line: dict[str, int] = {}
    outside: dict[str, int] = {}
    for line, (path, tags) in enumerate(zip(paths, tag_lines, strict=True), start=1):
        where = f"{folder / DATA_LIST}, line {line}"
        image_id = path.strip().replace("\\", "/")
        if not image_id:
            raise UserError("the line is empty, expected a relative image path", where=where)
        if ".." in image_id.split("/") or image_id.startswith("/"):
            raise UserError(f"{image_id!r} lies outside the folder", where=where)
        if first_line.setdefault(image_id, line) != line:
            raise UserError(f"{image_id!r} stands in line {first_line[image_id]} too", where=where)
        names = tuple(tags.split())
        for name in names:
            if name not in vocabulary:
                outside.setdefault(name, line)
        replaced = overlay / image_id if overlay is not None else None
        file = replaced if replaced is not None and replaced.exists() else folder / image_id
        photos.append(Photo(file, image_id, names, None, where))
    _report(outside, vocabulary, photos, folder, warn)
    if overlay is not None:
        _check_overlay(overlay, set(first_line), warn)
    if need_images:
        _check_images(photos, folder, warn)
    return photos


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint="it comes with HARRISON") from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text at byte offset {error.start}", where=path) from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _vocabulary(path: Path, warn: Callable[[str], None]) -> set[str]:
    names: set[str] = set()
    repeated: list[str] = []
    for line, text in enumerate(_lines(path), start=1):
        cells = text.split()
        if len(cells) != 2 or not cells[1].isdecimal():
            raise UserError(f"{text!r}: expected a tag and its index", where=f"{path}, line {line}")
        if cells[0] in names:
            repeated.append(f"{cells[0]!r} (line {line})")
        names.add(cells[0])
    if repeated:
        warn(f"{path}: {len(repeated):,} lines repeat a tag: {', '.join(repeated[:_EXAMPLES])}")
    return names


def _report(
    outside: dict[str, int], vocabulary: set[str], photos: list[Photo], folder: Path, warn: Callable[[str], None]
) -> None:
    if outside:
        shown = ", ".join(f"{name!r} (line {line})" for name, line in list(outside.items())[:_EXAMPLES])
        warn(f"{folder / TAG_LIST}: {len(outside):,} tags are not in {VOCABULARY}, and kept: {shown}")
    untagged = [photo.where for photo in photos if not photo.tags]
    if untagged:
        shown = ", ".join(untagged[:_EXAMPLES])
        warn(f"{folder / TAG_LIST}: {len(untagged):,} photos have no tags: {shown}")
    unused = vocabulary - {tag for photo in photos for tag in photo.tags}
    if unused:
        shown = ", ".join(sorted(unused)[:_EXAMPLES])
        warn(f"{folder / VOCABULARY}: {len(unused):,} tags occur on no photo: {shown}")


def _check_overlay(overlay: Path, image_ids: set[str], warn: Callable[[str], None]) -> None:
    found = sorted(file.relative_to(overlay).as_posix() for file in overlay.rglob("*") if file.is_file())
    strangers = [name for name in found if name not in image_ids]
    if strangers:
        shown = ", ".join(strangers[:_EXAMPLES])
        replaced = len(found) - len(strangers)
        warn(f"{overlay}: {replaced:,} images replace others, {len(strangers):,} files have the path of none: {shown}")
    elif not found:
        warn(f"{overlay}: the folder is empty, no image is replaced")


def _check_images(photos: list[Photo], folder: Path, warn: Callable[[str], None]) -> None:
    missing = [photo for photo in photos if not photo.path.exists()]
    if len(missing) == len(photos):
        raise UserError(
            f"none of the {len(photos):,} images is there, for example {photos[0].image_id}",
            where=folder,
            hint="unpack HARRISON's images beside its lists; `socialtag stats` needs the lists alone",
        )
    if missing:
        shown = ", ".join(photo.image_id for photo in missing[:_EXAMPLES])
        warn(f"{folder}: {len(missing):,} images are missing, and will be listed in rejects.csv: {shown}")
