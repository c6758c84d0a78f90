"""torchvision: images a second of a training step, in several variants."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.peers import torch_vgg16
from experiments.benchmarks.peers.serve import Measure, serve


def build(settings: dict[str, Any]) -> Measure:
    """Steps on one batch, which lies ready and preprocessed on the device."""
    batch, device = settings["batch"], "cuda" if torch.cuda.is_available() else "cpu"
    rng = np.random.default_rng(0)
    images = torch_vgg16.preprocessed(rng.integers(0, 256, (batch, *[settings["size"]] * 2, 3), np.uint8)).to(device)
    targets = torch.from_numpy((rng.random((batch, settings["tags"])) < 0.01).astype(np.float32)).to(device)
    steps: dict[tuple[str, int], Callable[[], float]] = {}
    for variant in settings["variants"]:
        for freeze in settings["freeze_layers"]:
            steps[variant, freeze] = prepared(settings, variant, freeze, images, targets)
            steps[variant, freeze]()

    def measure(variant: str, freeze_layers: int, count: int) -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(count):
            loss = steps[variant, freeze_layers]()
        return {"images_per_second": batch * count / (time.perf_counter() - start), "loss": loss}

    return measure


def prepared(
    settings: dict[str, Any], variant: str, freeze_layers: int, images: torch.Tensor, targets: torch.Tensor
) -> Callable[[], float]:
    """A step that returns its loss, of a model of its own."""
    options = dict(torch_vgg16.VARIANTS[variant])
    memory = torch.channels_last if options.pop("channels_last", False) else torch.contiguous_format
    model = torch_vgg16.Tagger(settings, freeze_layers).to(images.device, memory_format=memory)
    step = torch_vgg16.train_step(model, learning_rate=settings["learning_rate"], **options)
    laid_out = images.to(memory_format=memory)
    # The loss is fetched after each step: Keras does so too.
    return lambda: float(step(laid_out, targets))


if __name__ == "__main__":
    serve(build, ("torch", "torchvision"))
