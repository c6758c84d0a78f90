"""From a plan to pixels: sky, backdrop, things from far to near, weather, then what a camera and an album do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from socialtag_jax.sources.postcard_art import beings, closeups, objects, plants
from socialtag_jax.sources.postcard_art.canvas import Pen, noise
from socialtag_jax.sources.postcard_art.places import PAINTERS
from socialtag_jax.sources.postcard_art.plan import PLACES, Plan
from socialtag_jax.sources.postcard_art.sky import paint_fog, paint_rainbow, paint_sky, paint_weather
from socialtag_jax.sources.postcard_art.stage import Stage, reflect


@dataclass(frozen=True, slots=True)
class _Thing:
    """Something that stands or floats: its painter, the range of its size in units, its half width relative to that."""

    draw: Callable[[Pen, Stage], None]
    size: tuple[float, float]
    half_width: float
    afloat: bool = False


_STANDING: Mapping[str, _Thing] = {
    "boat": _Thing(objects.boat, (0.3, 0.46), 0.55, afloat=True),
    "lighthouse": _Thing(objects.lighthouse, (0.5, 0.7), 0.4, afloat=True),
    "people": _Thing(beings.people, (0.3, 0.46), 0.6),
    "rain umbrella": _Thing(beings.umbrella_person, (0.32, 0.44), 0.45),
    "parasol": _Thing(objects.parasol, (0.32, 0.46), 0.55),
    "palm": _Thing(plants.palm, (0.75, 1.05), 0.35),
    "tree": _Thing(plants.leafy_tree, (0.5, 0.75), 0.4),
    "house": _Thing(objects.house, (0.26, 0.38), 0.75),
    "car": _Thing(objects.car, (0.36, 0.54), 0.5),
    "dog": _Thing(beings.dog, (0.26, 0.38), 0.4),
}


def paint(plan: Plan, rng: np.random.Generator) -> np.ndarray:
    """Paints a plan: uint8 [plan.height, plan.width, 3], RGB."""
    stage = Stage(plan, rng)
    if not PLACES[plan.scene.place].closeup:
        paint_sky(stage)
    PAINTERS[plan.scene.place](stage)
    if plan.scene.weather == "fog":
        paint_fog(stage)
    _paint_things(stage)
    _paint_flyers(stage)
    if stage.shows("flowers"):
        plants.flower_bed(stage, stage.canvas.height * stage.uniform(0.78, 0.86))
    paint_weather(stage)
    _paint_closeup(stage)
    return _develop(stage)


def _paint_things(stage: Stage) -> None:
    planned = [thing for name, thing in _STANDING.items() if stage.shows(name)]
    placed = sorted(((_foot(stage, thing), thing) for thing in planned), key=lambda pair: pair[0])
    for row, thing in placed:
        size = min(stage.unit * stage.uniform(*thing.size), 0.97 * row)  # so that its top is in the picture
        x = stage.claim(size * thing.half_width)
        pen = stage.lit_pen(x, row, size, 0.2)
        if thing.afloat:
            before = stage.canvas.pixels.copy()
            thing.draw(pen, stage)
            reflect(stage, before, row)
        else:
            with stage.canvas.translucent(0.25):
                stage.canvas.oval((x, row), (size * thing.half_width * 0.6, size * 0.045), (20, 16, 40))
            thing.draw(pen, stage)


def _foot(stage: Stage, thing: _Thing) -> float:
    """The row that a thing stands on: in the water if it floats, else on the ground; boats ashore are on the sand."""
    band = (stage.water if thing.afloat else stage.ground) or stage.ground or stage.water
    assert band is not None, f"{stage.scene.place} has nowhere for {stage.plan.things}"
    first, last = band
    return stage.uniform(min(first, last), last)


def _paint_flyers(stage: Stage) -> None:
    sky = max(stage.horizon - stage.rise, stage.unit * 0.42)
    if stage.shows("rainbow"):
        paint_rainbow(stage)
    if stage.shows("balloon"):
        size = stage.unit * stage.uniform(0.26, 0.4)
        foot = max(sky * stage.uniform(0.6, 0.95), size * 1.04)
        objects.balloon(stage.pen(stage.claim(size * 0.4), foot, size, 0.05), stage)
    if stage.shows("birds"):
        size = stage.unit * stage.uniform(0.1, 0.16)
        beings.birds(stage.pen(stage.claim(size * 2), sky * stage.uniform(0.3, 0.7), size), stage)


def _paint_closeup(stage: Stage) -> None:
    canvas, unit = stage.canvas, stage.unit
    if stage.shows("portrait"):
        canvas.soften(unit * 0.014)
        size = unit * stage.uniform(0.62, 0.84)
        x = canvas.width * stage.uniform(0.36, 0.64)
        beings.portrait(stage.lit_pen(x, canvas.height, size, 0.5), stage)
    if stage.shows("window cat"):
        canvas.soften(unit * 0.006)
        closeups.window_cat(stage)
    if stage.shows("coffee"):
        closeups.coffee(stage)
    if stage.shows("cut flowers"):
        closeups.cut_flowers(stage)
    if stage.shows("bouquet"):
        closeups.bouquet(stage)


def _develop(stage: Stage) -> np.ndarray:
    """Shrinks the canvas and adds what a camera does: exposure, vignette, grain; a black-and-white or sepia print."""
    plan, rng, style = stage.plan, stage.rng, stage.scene.style
    small = cv2.resize(stage.canvas.pixels, (plan.width, plan.height), interpolation=cv2.INTER_AREA)
    image = small.astype(np.float32)
    rows, columns = np.ogrid[-1 : 1 : plan.height * 1j, -1 : 1 : plan.width * 1j]
    corner = (rows**2 + columns**2).astype(np.float32) / 2
    fade = stage.uniform(0.2, 0.36) if style != "colour" else stage.uniform(0.06, 0.18)
    image *= (stage.uniform(0.95, 1.05) * (1 - fade * corner**1.5))[..., None]
    grain = rng.random((plan.height, plan.width, 1), dtype=np.float32) - np.float32(0.5)
    if style == "colour":
        return _to_uint8(image + grain * 8)
    grey = image @ np.array([[0.3], [0.59], [0.11]], np.float32)
    grey = _expose(grey) + grain * 14
    if style == "blackandwhite":
        return _to_uint8(np.repeat(grey, 3, axis=2))
    stains = noise(rng, (plan.height, plan.width), (3, 4), octaves=3)[..., None] * 16
    sepia = np.array([1.0, 0.84, 0.62], np.float32) * (grey * 0.8 + 42) + np.array([14, 8, 0], np.float32)
    return _to_uint8(sepia - stains)


def _expose(grey: np.ndarray) -> np.ndarray:
    """Prints a negative (float32 [H, W, 1]) so that it uses the paper's tones, and so that a night is not all black."""
    dark, bright = np.percentile(grey, (1, 99))
    tones = np.clip((grey - dark) / max(bright - dark, 60), 0.01, 1.1).astype(np.float32)
    gamma = np.clip(np.log(0.4) / np.log(min(float(tones.mean()), 0.9)), 0.72, 1.0)
    return 20 + 214 * tones ** np.float32(gamma)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
