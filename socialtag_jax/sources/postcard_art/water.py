"""Seas and lakes: the sky mirrored in ripples that shrink towards the horizon."""

import cv2
import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, mix, noise, ramp, vertical_gradient
from socialtag_jax.sources.postcard_art.stage import Stage


def paint_water(stage: Stage, top: int, bottom: int, *, mirror: float, chop: float) -> None:
    """Fills the rows from `top` to `bottom` with water that reflects what is above `top`.

    Args:
      stage: where to paint.
      top: the far shore, in pixels.
      bottom: the near end.
      mirror: how much it reflects, 0 (deep water only) to 1 (a mirror).
      chop: how rough it is, 0 to 1.
    """
    canvas, light = stage.canvas, stage.light
    rows, width = bottom - top, canvas.width
    waves = ripples(stage, rows)
    nearness = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    image = _mirrored(canvas.pixels[:top], rows, waves, nearness, chop)
    deep = vertical_gradient(
        rows, [mix(light.water, light.sky[-1], 0.4), light.water, mix(light.water, (0, 0, 0), 0.2)]
    )
    canvas.pixels[top:bottom] = image
    canvas.paint((1 - mirror) * (0.5 + 0.5 * nearness) * np.ones((1, width), np.float32), deep, top)
    crests = ramp(0.15, 0.7, waves) * (0.14 + 0.3 * chop)
    canvas.paint(crests, mix(light.sky[-1], light.cloud[0], 0.4), top)
    canvas.paint(ramp(0.1, 0.7, -waves) * (0.08 + 0.25 * chop), mix(light.water, (0, 0, 0), 0.35), top)
    if stage.shows("sun", "low sun", "moon"):
        _glitter(stage, waves, top, light.sun)


def ripples(stage: Stage, rows: int) -> np.ndarray:
    """Wave heights, float32 [rows, W], -1 to 1: a noise plane seen from just above it, its horizon at row 0."""
    width, half = stage.canvas.width, max(rows // 2, 1)
    plane = noise(stage.rng, (512, 512), (24, 12), octaves=3) * 2 - 1
    depth = 1 / (np.linspace(0, 1, half, dtype=np.float32) + 0.12)
    y = np.repeat((depth * 110)[:, None], width // 2, axis=1)
    x = (np.arange(width // 2, dtype=np.float32) - width / 4) * depth[:, None] * 0.3
    seen = cv2.remap(plane, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return cv2.resize(seen, (width, rows), interpolation=cv2.INTER_LINEAR)


def _mirrored(above: np.ndarray, rows: int, waves: np.ndarray, nearness: np.ndarray, chop: float) -> np.ndarray:
    """What is above the shore, upside down and broken by the waves: uint8 [rows, W, 3]."""
    reach = (4 + 60 * chop) * (0.15 + nearness)
    x = np.arange(above.shape[1], dtype=np.float32)[None] + waves * reach * 0.3
    squeeze = min(0.95, (len(above) - 1) / rows)
    y = (len(above) - 1) - np.arange(rows, dtype=np.float32)[:, None] * squeeze - np.abs(waves) * reach
    return cv2.remap(above, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _glitter(stage: Stage, waves: np.ndarray, top: int, colour: Colour) -> None:
    """The road of light under the sun or moon."""
    rows, width = waves.shape
    nearness = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    spread = stage.unit * (0.05 + 0.16 * nearness)
    offset = (np.arange(width, dtype=np.float32)[None] - stage.sun_x) / spread
    strength = 0.95 if stage.scene.time != "day" else 0.7
    road = ramp(-0.15, 0.5, waves) * np.exp(-(offset**2)) * strength * (1 - 0.45 * nearness)
    stage.canvas.paint(road.astype(np.float32), colour, top)
