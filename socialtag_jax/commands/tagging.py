"""`export` and `predict`: a trained tagger, put to work."""

import argparse
import json
import sys

from socialtag_jax.commands.arguments import Commands, add_checkpoint, add_json, log, positive
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import local_path, location


def add_export(commands: Commands) -> None:
    """`socialtag export`."""
    command = commands.add("export", run_export, "Export a run's checkpoint as a bundle that suggests tags.")
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


def add_predict(commands: Commands) -> None:
    """`socialtag predict`."""
    command = commands.add("predict", run_predict, "Suggest tags for photos.")
    command.add_argument("bundle", type=location, metavar="BUNDLE", help="an exported bundle")
    command.add_argument(
        "photos", type=local_path, nargs="+", metavar="PHOTO_OR_FOLDER", help="image files, or folders of them"
    )
    command.add_argument("--threshold", type=float, help="only tags with a confidence over it (default: the bundle's)")
    command.add_argument("--max-tags", type=positive, help="at most so many tags (default: the bundle's)")
    output = command.add_mutually_exclusive_group()
    add_json(output)
    output.add_argument("--csv", type=local_path, metavar="FILE", help="write a CSV file instead of printing")


def run_predict(options: argparse.Namespace) -> int:
    """Photos -> suggested tags."""
    from socialtag_jax import compilation_cache, predict
    from socialtag_jax.tagger import Tagger

    if options.threshold is not None and not 0 <= options.threshold < 1:
        raise UsageError(f"{options.threshold}: expected 0 to below 1", where="--threshold")
    found = predict.find_photos(options.photos)
    if found.skipped:
        log(f"skipped: {predict.skipped_text(found.skipped)}")
    compilation_cache.enable(log)
    tagger = Tagger.load(options.bundle)
    photos = found.photos
    predictions = predict.predict(
        tagger, photos, threshold=options.threshold, max_tags=options.max_tags, log=log, stream=sys.stderr
    )
    if options.csv:
        read = predict.write_csv(predictions, options.csv)
        log(f"written to {options.csv}")
    elif options.json:
        results = [predict.as_json(prediction) for prediction in predictions]
        read = len(results)
        print(json.dumps(results, ensure_ascii=False))
    else:
        read = 0
        for prediction in predictions:
            # At once: whoever reads along need not wait for the last photo.
            print(predict.as_text(prediction), flush=True)
            read += 1
    if read < len(photos):
        log(f"{len(photos) - read} of {len(photos)} photos could not be read")
        return 1
    return 0
