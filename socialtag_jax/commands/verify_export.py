"""`verify-export`: do a bundle's formats say what its weights say?"""

import argparse
import json
import math
import sys

from socialtag_jax.commands.arguments import Commands, add_json, log
from socialtag_jax.errors import UsageError
from socialtag_jax.storage import local_path, location

_TOLERANCE = 1e-4
"""Of a probability. float32 sums in another order differ by some 1e-6, those of TensorFloat-32 by some 1e-3."""

_EXAMPLES = """examples:
  socialtag verify-export holiday.tagger --photos photos/
  socialtag verify-export holiday.tagger --photos photos/ --formats stablehlo onnx --json

Exit code 0: every format was checked, and is within the tolerance. 1: one is not, or could not be checked since its
runtime is not installed; --formats leaves it out.
"""


def add_verify_export(commands: Commands) -> None:
    """`socialtag verify-export`."""
    command = commands.add(
        "verify-export",
        run_verify_export,
        "Score photos with every format of a bundle, and say how far each is from the bundle's weights.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("bundle", type=location, metavar="BUNDLE", help="an exported bundle")
    command.add_argument(
        "--photos",
        type=local_path,
        nargs="+",
        required=True,
        metavar="PHOTO_OR_FOLDER",
        help="image files, or folders of them",
    )
    command.add_argument(
        "--formats", nargs="+", choices=("stablehlo", "keras", "onnx"), help="only these (default: all of the bundle)"
    )
    command.add_argument(
        "--tolerance",
        type=float,
        default=_TOLERANCE,
        help=f"largest difference of a probability that passes (default {_TOLERANCE:g})",
    )
    add_json(command)


def run_verify_export(options: argparse.Namespace) -> int:
    """Compares a bundle's formats."""
    from socialtag_jax import compilation_cache, predict, verify_export

    if not (math.isfinite(options.tolerance) and options.tolerance > 0):
        raise UsageError(f"{options.tolerance}: expected a number over 0", where="--tolerance")
    found = predict.find_photos(options.photos)
    if found.skipped:
        log(f"skipped: {predict.skipped_text(found.skipped)}")
    compilation_cache.enable(log)
    verification = verify_export.verify(
        options.bundle,
        found.photos,
        formats=options.formats,
        tolerance=options.tolerance,
        log=log,
        stream=sys.stderr,
    )
    if options.json:
        print(json.dumps(verification.as_json(), ensure_ascii=False))
    else:
        print(verify_export.table(verification))
    if verification.unreadable:
        log(f"{verification.unreadable} of {len(found.photos)} photos could not be read")
    if verification.passed:
        return 0
    for state in ("failed", "not checked"):
        names = [one.format for one in verification.formats if one.result == state]
        if names:
            log(f"{state}: {', '.join(names)}")
    return 1
