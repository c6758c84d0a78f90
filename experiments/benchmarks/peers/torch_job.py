"""torchvision, eager float32: one epoch of transfer learning at each call, fed by DataLoader, then validation."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from experiments.benchmarks.peers import torch_vgg16
from experiments.benchmarks.peers.labels import multi_hot
from experiments.benchmarks.peers.serve import Measure, serve


class Photos(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """JPEG files, resized and preprocessed, and their targets."""

    def __init__(self, settings: dict[str, Any], split: str) -> None:
        folder = Path(settings["folder"])
        self._paths = sorted((folder / split).glob("*.jpg"))
        self._targets = torch.from_numpy(multi_hot(folder / f"{split}.json", settings["tags"]))
        self._resize = v2.Resize((settings["size"], settings["size"]))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self._resize(decode_image(str(self._paths[index]), mode=ImageReadMode.RGB))
        return torch_vgg16.preprocessed(image.permute(1, 2, 0).numpy()[None])[0], self._targets[index]


def build(settings: dict[str, Any]) -> Measure:
    """The model and its data."""
    torch.manual_seed(0)
    model = torch_vgg16.Tagger(settings, freeze_layers=19)
    step = torch_vgg16.train_step(model, learning_rate=settings["learning_rate"])
    workers = {"num_workers": settings["workers"], "persistent_workers": True}
    train = DataLoader(Photos(settings, "train"), settings["batch"], shuffle=True, **workers)
    validation = DataLoader(Photos(settings, "validation"), settings["batch"], **workers)

    def measure() -> dict[str, float]:
        start = time.perf_counter()
        losses = [float(step(images, targets)) for images, targets in train]
        middle = time.perf_counter()
        model.eval()
        with torch.inference_mode():
            found = torch.cat([torch_vgg16.image_losses(model(images), targets) for images, targets in validation])
        return {
            "train_seconds": middle - start,
            "validation_seconds": time.perf_counter() - middle,
            "loss": sum(losses) / len(losses),
            "validation_loss": float(found.mean()),
        }

    return measure


if __name__ == "__main__":
    serve(build, ("torch", "torchvision"))
