"""A checkpoint -> a bundle that loads without the trainer."""

import dataclasses
import json
import shutil
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from socialtag_jax import export_keras, export_onnx, files, onnx_file, pretrained, tagger
from socialtag_jax.errors import UsageError, UserError
from socialtag_jax.gcs import RemotePath
from socialtag_jax.shards.images import IMAGE_SIZE
from socialtag_jax.storage import Location, staged
from socialtag_jax.tags import display_path
from socialtag_jax.trained import TrainedModel, inference

PLATFORMS = ("cpu", "cuda", "tpu")


def export_bundle(trained: TrainedModel, output: Location, *, formats: Collection[str] = ()) -> None:
    """Writes a bundle, whole or not at all.

    Preprocessing is inside the exported function, which computes as evaluation does (`trained.inference`).

    Args:
      trained: what to export.
      output: the bundle's folder.
      formats: of `tagger.FORMATS`; what the bundle's own loader needs is always written. "keras" (see `export_keras`)
        and "onnx" (see `export_onnx`) add a file for other programs.

    Raises:
      UsageError: there is no such format.
      UserError: `output` exists, another process exports to it, a format's package cannot be imported, or the model is
        too large for a format.
    """
    unknown = sorted(set(formats) - set(tagger.FORMATS))
    if unknown:
        raise UsageError(f"no format {unknown[0]!r}, expected some of {', '.join(tagger.FORMATS)}", where="formats")
    if output.exists() and not _is_partial(output):
        raise UserError("exists already", where=output, hint="choose another --output, or delete it")
    if isinstance(output, RemotePath):
        # Without its description, which is uploaded last, the rest is no bundle.
        with staged(output, last=tagger.TAGGER) as folder:
            _write_bundle(trained, folder, formats)
            for left in output.objects():
                if not (folder / left.name).exists():
                    (output / left.name).unlink(generation=left.generation)
        return
    partial = output.with_name(f".{output.name}.partial")
    with files.exclusive(partial):
        try:
            folder = partial / "bundle"
            # What a killed export left.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _write_bundle(trained, folder, formats)
            folder.rename(output)
        finally:
            shutil.rmtree(partial)


def _is_partial(output: Location) -> bool:
    """Whether all that lies there is what a killed export had uploaded."""
    tags = {tagger.TAGS, display_path(Path(tagger.TAGS)).name}
    parts = {*tags, tagger.STABLEHLO, tagger.PARAMS, tagger.KERAS, tagger.ONNX}
    return isinstance(output, RemotePath) and output.is_dir() and {path.name for path in output.iterdir()} <= parts


def _write_bundle(trained: TrainedModel, folder: Path, formats: Collection[str]) -> None:
    experiment, vocabulary = trained.config.experiment, trained.vocabulary
    params = jax.tree.map(np.asarray, trained.params)
    size = experiment.model.input_size
    # Whoever loads a bundle need not know where its data set lay.
    trained_on = {key: value for key, value in trained.config.dataset.items() if key != "path"}
    description = {
        "format_version": tagger.FORMAT_VERSION,
        "name": experiment.name,
        "input_size": size,
        "image_size": trained.config.dataset["image_size"] or IMAGE_SIZE,
        "n_tags": len(vocabulary),
        "threshold": experiment.suggestion.threshold,
        "max_tags": experiment.suggestion.max_tags,
        "vocabulary_sha256": vocabulary.sha256,
        "provenance": {"checkpoint_step": trained.step, **dataclasses.asdict(trained.config), "dataset": trained_on},
    }
    # First what may be refused.
    if "onnx" in formats:
        metadata = onnx_file.metadata(description, vocabulary, pretrained.licence(params))
        export_onnx.write_model(params, size, metadata, folder / tagger.ONNX)
    if "keras" in formats:
        export_keras.write_model(trained.model, params, size, folder / tagger.KERAS)
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), params)
    # Parameters are arguments: as constants they would be in the bundle twice, and in every compiled program.
    exported = export.export(jax.jit(inference(trained)), platforms=PLATFORMS)(shapes, images)
    files.write_bytes(folder / tagger.STABLEHLO, bytes(exported.serialize()))
    pretrained.save_weights(
        params,
        folder / tagger.PARAMS,
        source=f"{experiment.name}, step {trained.step}",
        vocabulary_sha256=vocabulary.sha256,
    )
    vocabulary.save(folder / tagger.TAGS)
    hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_text(folder / tagger.TAGGER, json.dumps({**description, "files": hashes}, indent=1) + "\n")
