"""The model in torch: torchvision's VGG16 with weights from a safetensors file, the tag head, the loss, Adam."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors.numpy import load_file
from torch import nn

POSITIVE_WEIGHT = 10.0

VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "eager float32": {},
    "eager float32, channels last": {"channels_last": True},
    "compiled float32, channels last": {"channels_last": True, "compiled": True},
    "compiled bfloat16, channels last": {"channels_last": True, "compiled": True, "bfloat16": True},
}


class Tagger(nn.Module):
    """float32 BGR less ImageNet's mean [batch, 3, size, size] -> tag logits."""

    def __init__(self, settings: dict[str, Any], freeze_layers: int) -> None:
        super().__init__()
        self.features = torchvision.models.vgg16(weights=None, init_weights=False).features
        self.hidden = nn.Linear(512, 512)
        self.dropout = nn.Dropout(0.5)
        self.logits = nn.Linear(512, settings["tags"])
        arrays = load_file(settings["weights"])
        # Keras counts layers where torchvision counts convolutions, rectifiers and pools: names are matched in order.
        names = [name for block, count in enumerate([2, 2, 3, 3, 3], 1) for name in convolutions(block, count)]
        layers = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        trainable = {0: 13, 16: 2, 19: 0}[freeze_layers]
        for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
            assign(layer, arrays[f"{name}/kernel"].transpose(3, 2, 0, 1), arrays[f"{name}/bias"])
            layer.requires_grad_(number >= len(layers) - trainable)
        for name, dense in (("tags_hidden", self.hidden), ("tags_logits", self.logits)):
            assign(dense, arrays[f"{name}/kernel"].T, arrays[f"{name}/bias"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`images`: as `preprocessed` returns them."""
        pooled = self.features(images).float().mean((2, 3))
        return self.logits(self.dropout(torch.relu(self.hidden(pooled)))).float()


def convolutions(block: int, count: int) -> list[str]:
    return [f"block{block}_conv{number}" for number in range(1, count + 1)]


def assign(layer: nn.Conv2d | nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        layer.bias.copy_(torch.from_numpy(bias))


def image_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy from logits with a weight on the positive term, mean over tags: [batch]."""
    weight = torch.full((logits.shape[1],), POSITIVE_WEIGHT, device=logits.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none").mean(1)


def preprocessed(images: np.ndarray) -> torch.Tensor:
    """uint8 RGB [batch, height, width, 3] -> float32 BGR less ImageNet's mean, [batch, 3, height, width]."""
    bgr = images[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    return torch.from_numpy(np.ascontiguousarray(bgr.transpose(0, 3, 1, 2)))


def train_step(
    model: nn.Module, *, learning_rate: float, compiled: bool = False, bfloat16: bool = False
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """One step of Adam on (images, targets), returning the mean loss."""
    device = next(model.parameters()).device.type
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, learning_rate, eps=1e-7)
    forward = torch.compile(model) if compiled else model

    def step(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = forward(images)
        loss = image_losses(logits, targets).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
