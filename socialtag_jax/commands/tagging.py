"""`export` and `predict`: a trained tagger, put to work."""

import argparse
import contextlib
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from socialtag_jax.commands.arguments import GO_ON, Commands, add_checkpoint, add_json, log, positive
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.storage import local_path, location

if TYPE_CHECKING:
    from collections.abc import Sequence

    from socialtag_jax.journal import Journal
    from socialtag_jax.library import Counts
    from socialtag_jax.presentation import Presentation
    from socialtag_jax.tagger import Tagger


_EXPORT_EXAMPLES = """\
  socialtag export runs/holiday --output holiday.tagger
  socialtag export runs/holiday --output holiday.tagger --formats stablehlo onnx
  socialtag export gs://bucket/runs/holiday --output gs://bucket/holiday.tagger --checkpoint latest"""


def add_export(commands: Commands) -> None:
    """`socialtag export`."""
    command = commands.add(
        "export", run_export, "Export a run's checkpoint as a bundle that suggests tags.", examples=_EXPORT_EXAMPLES
    )
    command.add_argument("run_folder", type=location, metavar="RUN", help="a run folder")
    command.add_argument("--output", type=location, required=True, help="the bundle's folder; must not exist")
    command.add_argument(
        "--formats",
        nargs="+",
        choices=("stablehlo", "keras", "onnx"),
        default=["stablehlo"],
        help="stablehlo (default), which the bundle's own loader needs, is always written; keras adds model.keras, for "
        "keras.saving.load_model, and onnx model.onnx, for onnxruntime in Python, browsers and elsewhere",
    )
    add_checkpoint(command)


def run_export(options: argparse.Namespace) -> int:
    """A run -> a bundle."""
    from socialtag_jax import compilation_cache, trained
    from socialtag_jax.export import export_bundle
    from socialtag_jax.parallel import Devices

    compilation_cache.enable(log)
    model = trained.load(options.run_folder, options.checkpoint, Devices(), log=log)
    export_bundle(model, options.output, formats=options.formats)
    log(f"exported step {model.step} of {options.run_folder}")
    print(options.output)
    return 0


_PREDICT_EXAMPLES = """\
  socialtag predict holiday.tagger photo.jpg
  socialtag predict holiday.tagger ~/Pictures --csv tags.csv
  socialtag predict holiday.tagger ~/Pictures --write-xmp --dry-run
  socialtag predict holiday.tagger ~/Pictures --write-xmp --jsonl tags.jsonl --min-confidence 0.5
  socialtag predict holiday.tagger photo.jpg --hashtags --max-tags 8 --stop stop.txt --aliases aliases.txt

Killed at any time, the same command goes on where it was, if it writes a file or sidecars. Exit code 1: some photos
could not be read, or their sidecars not be written; each is named.
`socialtag untag ~/Pictures` takes out of the sidecars what --write-xmp put in."""


def add_predict(commands: Commands) -> None:
    """`socialtag predict`."""
    command = commands.add(
        "predict",
        run_predict,
        "Suggest tags for photos.",
        examples=_PREDICT_EXAMPLES,
        interrupted=f"{GO_ON}, if it writes a file or sidecars, or else to start over",
    )
    command.add_argument("bundle", type=location, metavar="BUNDLE", help="an exported bundle")
    command.add_argument(
        "photos",
        type=local_path,
        nargs="+",
        metavar="PHOTO_OR_FOLDER",
        help="image files, or folders of them, as deep as they go; hidden and trash folders are left out, and links to "
        "folders not followed",
    )
    command.add_argument("--threshold", type=float, help="only tags with a confidence over it (default: the bundle's)")
    command.add_argument("--max-tags", type=positive, help="at most so many tags (default: the bundle's)")
    command.add_argument(
        "--min-confidence", type=float, metavar="C", help="no tags at all for a photo whose best tag is under it"
    )
    command.add_argument(
        "--hashtags", action=argparse.BooleanOptionalAction, help="#NewYork instead of new york (default: no)"
    )
    command.add_argument("--stop", type=local_path, metavar="FILE", help="tags never to show, one a line")
    command.add_argument(
        "--aliases", type=local_path, metavar="FILE", help="what to show instead: a line each, as nyc = New York"
    )
    command.add_argument(
        "--preset", type=local_path, metavar="FILE", help="a TOML file with any of the six above, such as max-tags = 8"
    )
    output = command.add_mutually_exclusive_group()
    add_json(output)
    output.add_argument("--csv", type=local_path, metavar="FILE", help="write a CSV file instead of printing")
    output.add_argument("--jsonl", type=local_path, metavar="FILE", help="write JSON Lines instead of printing")
    command.add_argument(
        "--write-xmp", action="store_true", help="write the tags beside each photo, into PHOTO.jpg.xmp (dc:subject)"
    )
    command.add_argument("--dry-run", action="store_true", help="with --write-xmp: print what would change, as a diff")


def run_predict(options: argparse.Namespace) -> int:
    """Photos -> suggested tags."""
    from socialtag_jax import compilation_cache, library, photo_search, prediction_files
    from socialtag_jax.journal import Journal
    from socialtag_jax.presentation import Presenter
    from socialtag_jax.sidecars import sidecar_path
    from socialtag_jax.tagger import PARAMS, Tagger

    output: Path | None = options.csv or options.jsonl
    if options.dry_run and (not options.write_xmp or output or options.json):
        hint = "give it with --write-xmp, and without --json, --csv and --jsonl"
        raise UsageError("shows what --write-xmp would do, and nothing else", where="--dry-run", hint=hint)
    preset = _preset(options)
    found = photo_search.find_photos(options.photos)
    if found.skipped:
        log(f"skipped: {found.skipped}")
    compilation_cache.enable(log)
    tagger = Tagger.load(options.bundle)
    presentation = _presentation(preset, tagger)
    presenter = Presenter(tagger.vocabulary, presentation)
    model: str = tagger.description["files"][PARAMS]
    sidecars = library.Sidecars(model, now=_now, show=_print_diff if options.dry_run else None, log=log)
    counts = library.Counts()
    with contextlib.ExitStack() as stack:
        journal = None
        if (output or options.write_xmp) and not options.dry_run:
            settings = {"model": model, **vars(presentation), "write-xmp": options.write_xmp}
            beside = sidecar_path if options.write_xmp else None
            path = _journal_path(output, options.photos[0])
            journal = stack.enter_context(Journal.open(path, settings, sidecar=beside))
        predictions = library.tag(
            tagger,
            found.photos,
            choose=presenter.choose,
            journal=journal,
            sidecars=sidecars if options.write_xmp else None,
            log=log,
            stream=sys.stderr,
        )
        folders = {path: _identity(path) for path in options.photos if path.is_dir()}
        results = []
        for prediction in predictions:
            counts.add(prediction)
            if prediction.unreadable is not None or output or options.dry_run:
                continue
            if options.json:
                results.append(prediction_files.as_json(prediction))
            else:
                # At once: whoever reads along need not wait for the last photo.
                print(prediction_files.as_text(prediction), flush=True)
        for path, identity in folders.items():
            if _identity(path) != identity:
                raise UserError("has gone meanwhile", where=path, hint="bring it back and run the same command again")
        if options.json:
            print(json.dumps(results, ensure_ascii=False))
        if journal is not None:
            _write(options, journal, found.photos, output)
            journal.finish()
    return _report(counts)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from the mount point that a disk leaves; None where there is nothing."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write(options: argparse.Namespace, journal: "Journal", photos: "Sequence[Path]", output: Path | None) -> None:
    """Writes what is asked for, and a list of what could not be done: beside it, or in the first folder."""
    from socialtag_jax import files, prediction_files

    rejects = prediction_files.rejects_path(output or _folder(options.photos[0]) / "socialtag-predict")
    files.sweep(rejects.parent)
    number = prediction_files.write_rejects(map(journal.get, photos), rejects)
    if output is not None:
        read = (one for one in map(journal.get, photos) if one.unreadable is None)
        (prediction_files.write_csv if options.csv else prediction_files.write_jsonl)(read, output)
        log(f"written to {output}")
    if number:
        log(f"what could not be done is listed in {rejects}")


def _preset(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for on the command line, or else in the preset; lists are read."""
    from socialtag_jax import presentation

    chosen = presentation.read_preset(options.preset) if options.preset else {}
    for flag in presentation.PRESET_KINDS:
        if (value := getattr(options, flag.replace("-", "_"))) is not None:
            chosen[flag] = value
    for flag in ("threshold", "min-confidence"):
        if flag in chosen and not 0 <= chosen[flag] < 1:
            raise UsageError(f"{chosen[flag]}: expected 0 to below 1", where=f"--{flag}")
    if chosen.get("max-tags", 1) < 1:
        raise UsageError(f"{chosen['max-tags']}: expected at least 1", where="--max-tags")
    for flag, read in (("stop", presentation.read_stop), ("aliases", presentation.read_aliases)):
        if flag in chosen:
            chosen[f"{flag} file"], chosen[flag] = chosen[flag], read(chosen[flag])
    return chosen


def _presentation(preset: dict[str, Any], tagger: "Tagger") -> "Presentation":
    from socialtag_jax.presentation import Presentation, unknown
    from socialtag_jax.tags import loose_key

    aliases: dict[str, str] = preset.get("aliases", {})
    # What an alias shows can be stopped as well.
    shown = set(map(loose_key, aliases.values()))
    stop = [name for name in preset.get("stop", ()) if loose_key(name) not in shown]
    for flag, names in (("stop", stop), ("aliases", aliases)):
        for line in unknown(names, tagger.vocabulary, preset.get(f"{flag} file")):
            log(line)
    return Presentation(
        threshold=preset.get("threshold", tagger.threshold),
        max_tags=preset.get("max-tags", tagger.max_tags),
        min_confidence=preset.get("min-confidence", 0.0),
        hashtags=preset.get("hashtags", False),
        stop=preset.get("stop", []),
        aliases=aliases,
    )


def _journal_path(output: Path | None, first: Path) -> Path:
    """Beside the output; of sidecars alone, in the first folder that is to be tagged."""
    if output is not None:
        return output.with_name(f"{output.name}.journal")
    return _folder(first) / ".socialtag-predict.journal"


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _print_diff(change: Any) -> None:
    print(change.diff(), end="", flush=True)


def _report(counts: "Counts") -> int:
    """Says what was left out; the exit code."""
    if counts.abstained:
        log(f"{counts.abstained:,} of {counts.photos:,} photos have no tag that is sure enough")
    if counts.unreadable:
        log(f"{counts.unreadable:,} of {counts.photos:,} photos could not be read")
    if counts.left:
        log(f"the sidecars of {counts.left:,} of {counts.photos:,} photos were left alone")
    return 1 if counts.unreadable or counts.left else 0
