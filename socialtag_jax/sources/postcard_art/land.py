"""Solid ground: hills, faceted mountains, dunes, rows of trees, grass and roads."""

import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, jitter, mix, noise, pick, ribbon, ridge, vertical_gradient
from socialtag_jax.sources.postcard_art.plants import fir, leafy_tree
from socialtag_jax.sources.postcard_art.stage import Stage

SNOW: Colour = (240, 245, 252)
_GRASS: tuple[Colour, ...] = ((110, 158, 70), (92, 148, 84), (140, 166, 78), (76, 136, 72))
_DRY: tuple[Colour, ...] = ((190, 150, 74), (170, 130, 66), (176, 146, 90))


def ground_colour(stage: Stage) -> Colour:
    """What the season makes of a meadow."""
    if stage.scene.season == "winter":
        return SNOW
    return pick(stage.rng, _DRY if stage.scene.season == "autumn" else _GRASS)


def fill_below(stage: Stage, tops: np.ndarray, upper: Colour, lower: Colour) -> None:
    """Covers everything below the line `tops` (row per column, float [W]) with a gradient."""
    canvas = stage.canvas
    first = int(np.clip(tops.min(), 0, canvas.height - 1))
    rows = np.arange(first, canvas.height, dtype=np.float32)[:, None]
    mask = np.clip(rows - tops[None].astype(np.float32) + 0.5, 0, 1)
    canvas.paint(mask, vertical_gradient(len(rows), [upper, lower]), first)


def hills(
    stage: Stage, row: float, height: float, colour: Colour, distance: float, *, cells: float = 2.0
) -> np.ndarray:
    """Rolling hills that end at `row` and rise up to `height` pixels above it; returns their outline, float32 [W]."""
    tops = row - height * ridge(stage.rng, stage.canvas.width, cells, octaves=4, gain=0.32)
    lower = mix(colour, (0, 0, 0), 0.08 if stage.scene.season == "winter" else 0.22)
    fill_below(stage, tops, stage.light.shade(colour, distance), stage.light.shade(lower, distance * 0.6))
    return tops


def far_range(stage: Stage, row: float, height: float, distance: float) -> None:
    """A jagged, hazy mountain range in the distance."""
    tops = row - height * (0.25 + 0.75 * ridge(stage.rng, stage.canvas.width, 3, octaves=6, gain=0.5))
    rock = SNOW if stage.scene.season == "winter" else (84, 98, 124)
    colour = stage.light.shade(rock, distance)
    fill_below(stage, tops, colour, mix(colour, stage.light.haze, 0.5))


def mountains(stage: Stage, row: float, height: float, *, capped: bool) -> None:
    """Peaks with a lit and a shaded face, the nearest and highest last."""
    count = int(stage.rng.integers(3, 6))
    places = (np.arange(count) + stage.rng.uniform(0.2, 0.8, count)) / count
    heights = height * np.sort(stage.rng.uniform(0.55, 1.0, count))
    rock = pick(stage.rng, _ROCK)
    for rank, (place, peak) in enumerate(zip(stage.rng.permutation(places), heights.tolist(), strict=True)):
        distance = 0.42 - 0.3 * rank / count
        _peak(stage, float(place) * stage.canvas.width, row, peak, jitter(stage.rng, rock, 5), distance, capped=capped)


_ROCK: tuple[Colour, ...] = ((98, 96, 112), (112, 98, 92), (84, 100, 112), (122, 112, 104))


def _peak(stage: Stage, x: float, row: float, height: float, rock: Colour, distance: float, *, capped: bool) -> None:
    """One mountain, its summit at column `x`, its foot at `row`; a crest parts the lit face from the shaded one."""
    down = np.linspace(0, 1, 14)
    y = row - height * (1 - down)
    rough = stage.rng.normal(0, 0.022, (3, len(down))) * height * np.minimum(1, down * 5)
    left = x - height * stage.uniform(0.8, 1.25) * down + rough[0]
    right = x + height * stage.uniform(0.8, 1.25) * down + rough[1]
    crest = x + height * 0.16 * down * np.sin(down * 9 + stage.uniform(0, 6)) + rough[2] * 2
    lit, shaded = (left, right) if stage.sun_x < x else (right, left)
    snow_line = 9 if stage.scene.season == "winter" else int(stage.rng.integers(5, 7))
    for edge, tone, snow in ((lit, (255, 255, 255), SNOW), (shaded, (0, 0, 0), (176, 194, 220))):
        stage.canvas.polygon(ribbon(edge, crest, y), stage.light.shade(mix(rock, tone, 0.22), distance))
        if capped:
            cap = _snow_cap(stage.rng, edge[: snow_line + 1], crest[: snow_line + 1], y[: snow_line + 1])
            stage.canvas.polygon(cap, stage.light.shade(snow, distance * 0.6))


def _snow_cap(rng: np.random.Generator, edge: np.ndarray, crest: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The outline [N, 2] of the snow on one face of a peak, which runs down in tongues."""
    across = np.linspace(0, 1, 9)[1:-1]
    tongue_x = edge[-1] + (crest[-1] - edge[-1]) * across
    tongue_y = y[-1] + (y[1] - y[0]) * rng.uniform(-1.8, 0.8, len(across))
    x, y = np.concatenate([edge, tongue_x, crest[::-1]]), np.concatenate([y, tongue_y, y[::-1]])
    return np.stack([x, y], axis=1)


def tree_row(
    stage: Stage, tops: np.ndarray | float, size: float, distance: float, *, firs: bool, density: float = 1.0
) -> None:
    """A line of trees, `size` pixels high, along the outline `tops` (or on one row)."""
    width = stage.canvas.width
    rows = np.broadcast_to(np.asarray(tops, np.float32), (width,))
    spacing = size * (0.34 if firs else 0.62) / density
    for x in np.arange(-spacing, width + spacing, spacing):
        x = float(x) + stage.uniform(-0.4, 0.4) * spacing
        foot = float(rows[int(np.clip(x, 0, width - 1))]) + size * 0.08
        (fir if firs else leafy_tree)(stage.pen(x, foot, size * stage.uniform(0.7, 1.15), distance), stage)


def dune(stage: Stage, row: float, height: float, sand: Colour, distance: float) -> None:
    """A dune with a sharp crest: one side in the sun, the other in its own shadow."""
    width = stage.canvas.width
    line = ridge(stage.rng, width, 1.5, octaves=2, gain=0.3)
    tops, foot_colour = row - height * line, mix(sand, (120, 60, 30), 0.25)
    fill_below(stage, tops, stage.light.shade(sand, distance), stage.light.shade(foot_colour, distance))
    peak = int(np.argmax(line[width // 8 : -width // 8])) + width // 8
    side = 1 if stage.sun_x < peak else -1
    reach = np.arange(0, width - peak if side > 0 else peak, 4)
    x = peak + side * reach
    run = np.linspace(0, 1, len(x))
    depth = height * 0.9 * np.sin(run * np.pi * 0.9) ** 0.8 * (0.6 + 0.4 * run)
    shadow = ribbon(tops[x], tops[x] + depth, x)[:, ::-1]
    with stage.canvas.translucent(0.75):
        stage.canvas.polygon(shadow, stage.light.shade(mix(sand, (96, 50, 40), 0.5), distance))


def texture(stage: Stage, top: int, strength: float, colour: Colour, cells: tuple[int, int] = (24, 12)) -> None:
    """Speckles the rows from `top` down, so that ground is not as flat as paper."""
    shape = stage.canvas.height - top, stage.canvas.width
    if shape[0] > 0:
        stage.canvas.paint(strength * noise(stage.rng, shape, cells, octaves=3) ** 2, colour, top)


def grass(stage: Stage, row: float, colour: Colour, *, count: int = 180) -> None:
    """Blades of grass below `row`, longer towards the viewer."""
    if stage.scene.season == "winter":
        return
    near = np.sort(stage.rng.random(count))
    x, y = stage.rng.random(count) * stage.canvas.width, row + (stage.canvas.height * 1.04 - row) * near
    length = stage.unit * (0.012 + 0.07 * near**2)
    foot, lean = 0.09 * length, stage.rng.uniform(-0.4, 0.4, count) * length
    blades = np.stack([x - foot, y, x + foot, y, x + lean, y - length], axis=1).reshape(count, 3, 2)
    shades = [
        stage.light.shade(mix(jitter(stage.rng, colour, 14), (20, 50, 20), dark)) for dark in np.linspace(0, 0.5, 9)
    ]
    for blade in blades:
        stage.canvas.polygon(blade, pick(stage.rng, shades))


def road(stage: Stage, horizon: float) -> None:
    """A road that winds from the viewer's feet to the horizon."""
    height, width = stage.canvas.height, stage.canvas.width
    near = np.linspace(0, 1, 40) ** 1.6
    y = horizon + (height * 1.02 - horizon) * near
    start, sway = stage.uniform(0.35, 0.65) * width, stage.uniform(0.06, 0.2) * width * pick(stage.rng, (-1, 1))
    centre = start + (width * 0.5 - start) * near + sway * np.sin(near**0.6 * 2 * np.pi) * (0.15 + 0.85 * near)
    half = stage.unit * (0.006 + 0.3 * near)
    asphalt: Colour = (150, 156, 168) if stage.scene.season == "winter" else (92, 92, 98)
    for scale, colour in ((1.12, (214, 206, 186)), (1.0, asphalt)):
        lane = ribbon(centre - half * scale, centre + half * scale, y)
        stage.canvas.polygon(lane, stage.light.shade(colour))
    for first in range(4, 39, 4):
        x, reach = centre[first : first + 2], half[first : first + 2] * 0.05
        stage.canvas.polygon(ribbon(x - reach, x + reach, y[first : first + 2]), stage.light.shade((244, 238, 214)))
