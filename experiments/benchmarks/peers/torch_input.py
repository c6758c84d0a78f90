"""torch's DataLoader with torchvision's transforms: images a second of augmented uint8 batches."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from experiments.benchmarks.peers.serve import Measure, serve


class Photos(Dataset[torch.Tensor]):
    """JPEG files, resized and transformed at random: uint8 [3, size, size]."""

    def __init__(self, folder: Path, size: int) -> None:
        self._paths = sorted(folder.glob("*.jpg"))
        self._transform = v2.Compose(
            [
                v2.Resize((size, size)),
                v2.RandomAffine(
                    degrees=30,
                    translate=(0.2, 0.2),
                    scale=(0.8, 1.2),
                    shear=0.2,
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        # A tenth faster than Pillow and the same transforms.
        return self._transform(decode_image(str(self._paths[index]), mode=ImageReadMode.RGB))


def build(settings: dict[str, Any]) -> Measure:
    """Batches without end, so that no turn waits for workers to start."""
    photos = Photos(Path(settings["folder"]), settings["size"])
    sampler = RandomSampler(photos, replacement=True, num_samples=10**9)
    loader = DataLoader(photos, settings["batch"], sampler=sampler, num_workers=settings["workers"])
    batches: Iterator[torch.Tensor] = iter(loader)
    for _ in range(8):
        next(batches)

    def measure() -> dict[str, float]:
        start, count = time.perf_counter(), 0
        for _ in range(settings["batches"]):
            count += len(next(batches))
        return {"images_per_second": count / (time.perf_counter() - start)}

    return measure


if __name__ == "__main__":
    serve(build, ("torch", "torchvision"))
