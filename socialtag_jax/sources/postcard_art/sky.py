"""Everything above the horizon: gradient, clouds, sun, moon, stars, rainbow, fireworks, rain and falling snow."""

import cv2
import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, mix, noise, pick, ramp
from socialtag_jax.sources.postcard_art.stage import Stage


def paint_sky(stage: Stage) -> None:
    """Fills the whole canvas with sky, and hangs in it what the plan asks for."""
    canvas, light = stage.canvas, stage.light
    canvas.gradient(0, stage.horizon, light.sky)
    canvas.gradient(stage.horizon, canvas.height, [light.sky[-1]])
    if stage.scene.time == "night":
        _milky_way(stage)
    if stage.shows("stars"):
        _stars(stage)
    if stage.scene.time == "sunset":
        _glow(stage, (stage.sun_x, stage.horizon * 0.92), 0.75, 0.75)
    if stage.scene.weather == "clouds":
        _clouds(stage)
    if stage.shows("sun", "low sun"):
        _sun(stage)
    if stage.shows("moon"):
        _moon(stage)
    if stage.shows("fireworks"):
        _fireworks(stage)


def paint_weather(stage: Stage) -> None:
    """Lays rain or falling snow over the finished scene."""
    if stage.scene.weather == "rain":
        _rain(stage)
    elif stage.scene.weather == "snowfall":
        _snowfall(stage)


def _top_of_backdrop(stage: Stage) -> float:
    """The row above which the sky is free."""
    return max(stage.horizon - stage.rise, stage.unit * 0.2)


def _glow(stage: Stage, centre: tuple[float, float], radius: float, strength: float) -> None:
    """Brightens the sky around `centre`; `radius` in units."""
    rows, columns = np.ogrid[0 : stage.horizon : 4, 0 : stage.canvas.width : 4]
    distance = np.hypot(columns - centre[0], rows - centre[1]) / (radius * stage.unit)
    halo = (strength * np.exp(-3 * distance)).astype(np.float32)
    stage.canvas.paint(cv2.resize(halo, (stage.canvas.width, stage.horizon)), stage.light.sun)


def _sun(stage: Stage) -> None:
    low = stage.shows("low sun")
    radius = stage.unit * stage.uniform(0.06, 0.1) * (1.25 if low else 1)
    sky = _top_of_backdrop(stage)
    open_horizon = stage.rise < 0.12 * stage.canvas.height
    y = sky - radius * stage.uniform(0.3, 1.6) if low and open_horizon else sky * stage.uniform(0.3, 0.62)
    _glow(stage, (stage.sun_x, y), 0.55 if low else 0.35, 0.95)
    stage.canvas.oval((stage.sun_x, y), (radius, radius), stage.light.sun)


def _moon(stage: Stage) -> None:
    radius = stage.unit * stage.uniform(0.07, 0.11)
    y = max(_top_of_backdrop(stage) * stage.uniform(0.3, 0.6), radius * 1.3)
    _glow(stage, (stage.sun_x, y), 0.4, 0.55)
    pen = stage.pen(stage.sun_x, y, radius).glowing
    if stage.rng.random() < 0.5:
        pen.disc(0, 0, 1, stage.light.sun)
        shadow = mix(stage.light.sun, stage.light.sky[1], 0.22)
        for x, y, size in ((-0.35, 0.3, 0.26), (0.3, 0.1, 0.18), (-0.1, -0.4, 0.22), (0.42, -0.42, 0.12)):
            pen.disc(x, y, size, shadow)
    else:
        angle = np.linspace(-np.pi / 2, np.pi / 2, 24)
        outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        inner = np.stack([np.cos(angle) * 0.45, np.sin(angle)], axis=1)[::-1]
        pen.polygon(np.concatenate([outer, inner]), stage.light.sun)


def _stars(stage: Stage) -> None:
    rng, canvas = stage.rng, stage.canvas
    count = int(rng.integers(110, 220))
    x, y = rng.uniform(0, canvas.width, count), rng.uniform(0, stage.horizon, count)
    sizes = np.sort(stage.unit * (0.002 + 0.006 * rng.random(count) ** 3))
    for star_x, star_y, size in zip(x.tolist(), y.tolist(), sizes.tolist(), strict=True):
        colour = mix(stage.light.sky[1], pick(rng, _STARLIGHT), min(1.0, 0.35 + size / stage.unit * 120))
        canvas.oval((star_x, star_y), (size, size), colour)
    for star_x, star_y in zip(x[-9:].tolist(), y[-9:].tolist(), strict=True):
        ray = stage.unit * stage.uniform(0.018, 0.03)
        pen = stage.pen(star_x, star_y, ray).glowing
        pen.polygon(_SPARKLE, (255, 255, 255))


_STARLIGHT: tuple[Colour, ...] = ((255, 255, 255), (255, 236, 200), (206, 224, 255))
_SPARKLE = [(0, 1), (0.13, 0.13), (1, 0), (0.13, -0.13), (0, -1), (-0.13, -0.13), (-1, 0), (-0.13, 0.13)]


def _milky_way(stage: Stage) -> None:
    """A faint band of light across the sky; too faint to deserve a tag."""
    shape = stage.horizon, stage.canvas.width
    rows, columns = np.ogrid[0 : shape[0], 0 : shape[1]]
    slope = stage.uniform(-0.8, 0.8)
    across = (rows - shape[0] * 0.5 - slope * (columns - stage.canvas.width / 2)) / (0.35 * stage.unit)
    band = np.exp(-(across.astype(np.float32) ** 2)) * noise(stage.rng, shape, (3, 4)) * 0.45
    stage.canvas.paint(band, stage.light.sky[-1])


def _clouds(stage: Stage) -> None:
    if stage.rng.random() < 0.45:
        _cumulus(stage)
    else:
        _drifting_clouds(stage)


def _drifting_clouds(stage: Stage) -> None:
    """Banks of cloud from noise: lit where they are thin towards the light, shaded where they are thick."""
    shape = stage.horizon, stage.canvas.width
    cells = int(stage.rng.integers(3, 6)), int(stage.rng.integers(2, 4))
    lift = max(4, shape[0] // 14)
    density = noise(stage.rng, (shape[0] + lift, shape[1]), cells, octaves=5)
    cover = ramp(stage.uniform(0.42, 0.5), 0.72, density[lift:]) * 0.95
    lit, shaded = stage.light.cloud
    thickness = ramp(0.35, 0.85, density[:-lift])[..., None]
    colours = np.asarray(lit, np.float32) + thickness * (np.asarray(shaded, np.float32) - np.asarray(lit, np.float32))
    stage.canvas.paint(cover, colours)


def _cumulus(stage: Stage) -> None:
    """Heaped clouds with flat feet; smaller and paler towards the horizon."""
    sky = _top_of_backdrop(stage)
    rows = np.sort(stage.rng.uniform(0.12, 0.9, int(stage.rng.integers(4, 8))))[::-1]
    for row in rows.tolist():
        nearness = 1.25 - row
        _heap(stage, stage.uniform(0, stage.canvas.width), sky * row, stage.unit * 0.42 * nearness, 0.7 * row**2)


def _heap(stage: Stage, x: float, y: float, width: float, distance: float) -> None:
    count = int(stage.rng.integers(6, 10))
    offsets = np.linspace(-0.5, 0.5, count) + stage.rng.normal(0, 0.03, count)
    radii = (0.1 + 0.13 * np.cos(offsets * 2.6)) * stage.rng.uniform(0.75, 1.25, count)
    lit, shaded = (mix(colour, stage.light.sky[-1], distance) for colour in stage.light.cloud)
    layers = ((0.0, 0.0, shaded), (-0.012, 0.035, mix(shaded, lit, 0.6)), (-0.02, 0.07, lit))
    for shift, lift, colour in layers:
        pen = stage.pen(x, y, width, flip=False).glowing
        for offset, radius in zip(offsets.tolist(), radii.tolist(), strict=True):
            r = radius * (1 - 1.6 * lift)
            pen.oval(offset + shift, radius * 0.75 + lift, r, r * 0.86, colour)
    stage.pen(x, y, width, flip=False).glowing.oval(0, 0.035, 0.55, 0.045, shaded)


def paint_rainbow(stage: Stage) -> None:
    """A bow that ends at the horizon, in front of whatever rises there."""
    width, horizon = stage.canvas.width, stage.horizon
    centre = (width - stage.sun_x) * 0.7 + width * 0.15, float(horizon) * 1.05
    radius, band = max(horizon * 0.86, stage.unit * 0.3), stage.unit * 0.021
    with stage.canvas.translucent(0.62, (slice(0, horizon), slice(None))):
        for ring, colour in enumerate(_SPECTRUM):
            angle = np.linspace(np.pi, 2 * np.pi, 64)
            r = radius - ring * band
            arc = np.stack([centre[0] + r * np.cos(angle) * 1.1, centre[1] + r * np.sin(angle)], axis=1)
            stage.canvas.stroke(arc, band + 1, colour)


_SPECTRUM: tuple[Colour, ...] = (
    (232, 64, 64), (246, 150, 60), (250, 226, 92), (96, 196, 108), (74, 146, 226), (132, 92, 198),
)  # fmt: skip


def _fireworks(stage: Stage) -> None:
    sky = _top_of_backdrop(stage)
    for burst in range(int(stage.rng.integers(3, 6))):
        x = stage.canvas.width * ((burst * 0.37 + stage.uniform(0, 0.2)) % 0.84 + 0.08)
        y, radius = sky * stage.uniform(0.25, 0.85), stage.unit * stage.uniform(0.12, 0.22)
        colour = pick(stage.rng, _SPARKS)
        _glow(stage, (x, y), radius / stage.unit * 1.6, 0.35)
        pen = stage.pen(x, y, radius).glowing
        rays = int(stage.rng.integers(14, 24))
        for angle in np.linspace(0, 2 * np.pi, rays, endpoint=False) + stage.uniform(0, 1):
            reach = stage.uniform(0.8, 1.0)
            tip = np.cos(angle) * reach, np.sin(angle) * reach - 0.08
            middle = np.cos(angle) * reach * 0.6, np.sin(angle) * reach * 0.6
            pen.sweep([(np.cos(angle) * 0.15, np.sin(angle) * 0.15), middle, tip], 0.028, colour)
            pen.disc(*tip, 0.045, mix(colour, (255, 255, 255), 0.6))


_SPARKS: tuple[Colour, ...] = (
    (255, 110, 110), (255, 214, 110), (130, 240, 150), (120, 190, 255), (240, 140, 255), (255, 250, 230),
)  # fmt: skip


def paint_fog(stage: Stage) -> None:
    """Lays fog over the backdrop, thickest at the horizon; what stands in front of it stays clear."""
    height, width = stage.canvas.height, stage.canvas.width
    distance = (np.arange(height) - stage.horizon) / height
    above, below = 0.4 + 0.35 * np.exp(-((distance / 0.2) ** 2)), 0.75 * np.exp(-((distance / 0.26) ** 2))
    veil = np.where(distance < 0, above, below).astype(np.float32)
    banks = 0.72 + 0.5 * noise(stage.rng, (height, width), (4, 2), octaves=3)
    haze = mix(stage.light.haze, stage.light.sky[-1], 0.5)
    stage.canvas.paint(np.clip(veil[:, None] * banks, 0, 0.92).astype(np.float32), haze)


def _rain(stage: Stage) -> None:
    canvas, rng = stage.canvas, stage.rng
    slant, colour = stage.uniform(-0.25, 0.25), mix(stage.light.sky[-1], (255, 255, 255), 0.55)
    for alpha, count, length in ((0.3, 170, 0.06), (0.5, 90, 0.11)):
        with canvas.translucent(alpha):
            drops = rng.uniform((-0.1, -0.1), (1.1, 1.0), (count, 2)) * (canvas.width, canvas.height)
            fall = np.array([slant, 1.0]) * length * stage.unit
            for drop in drops:
                canvas.stroke(np.stack([drop, drop + fall * rng.uniform(0.6, 1.2)]), length * 25, colour)


def _snowfall(stage: Stage) -> None:
    canvas, rng = stage.canvas, stage.rng
    for alpha, count, size in ((0.6, 160, 0.004), (0.8, 70, 0.008), (0.7, 12, 0.016)):
        with canvas.translucent(alpha):
            flakes = rng.uniform((0, 0), (canvas.width, canvas.height), (count, 2))
            for x, y in flakes.tolist():
                radius = size * stage.unit * stage.uniform(0.7, 1.3)
                canvas.oval((x, y), (radius, radius), (250, 252, 255))
