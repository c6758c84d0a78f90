"""Backdrops: each paints everything from the horizon down, and says where boats float and people stand."""

from collections.abc import Callable, Mapping

import numpy as np

from socialtag_jax.sources.postcard_art import closeups, land, plants, town
from socialtag_jax.sources.postcard_art.canvas import Colour, mix, pick, ramp, ribbon, ridge
from socialtag_jax.sources.postcard_art.objects import bridge
from socialtag_jax.sources.postcard_art.stage import Stage
from socialtag_jax.sources.postcard_art.water import paint_water

_SAND: tuple[Colour, ...] = ((238, 214, 164), (230, 202, 150), (244, 226, 186), (224, 190, 148))


def _sea(stage: Stage) -> None:
    height = stage.canvas.height
    if stage.rise > 0.012 * height:
        _far_coast(stage)
    if stage.shows("bridge"):
        bridge(stage, stage.horizon)
    paint_water(stage, stage.horizon, height, mirror=stage.uniform(0.35, 0.6), chop=stage.uniform(0.25, 0.8))
    stage.water = (stage.horizon + (height - stage.horizon) * 0.12, height * 0.93)


def _far_coast(stage: Stage) -> None:
    """A blue strip of land on the horizon, on one side."""
    width = stage.canvas.width
    outline = ridge(stage.rng, width, 4, octaves=5)
    taper = ramp(0.35, 0.75, np.linspace(0, 1, width))
    line = outline * (taper if stage.rng.random() < 0.5 else taper[::-1])
    tops = np.where(line > 0.01, stage.horizon - stage.rise * 1.6 * line, stage.horizon + 2)
    land.fill_below(stage, tops, stage.light.shade((70, 98, 112), 0.45), stage.light.shade((84, 110, 120), 0.6))


def _beach(stage: Stage) -> None:
    """Sea, then foam along a slanting waterline, then sand."""
    canvas, light, height = stage.canvas, stage.light, stage.canvas.height
    if stage.rise > 0.02 * height:
        _far_coast(stage)
    paint_water(stage, stage.horizon, height, mirror=stage.uniform(0.3, 0.5), chop=stage.uniform(0.3, 0.7))
    width = canvas.width
    shore = stage.horizon + (height - stage.horizon) * stage.uniform(0.32, 0.5)
    slant = np.linspace(-1, 1, width) * stage.uniform(-0.11, 0.11) * height
    waterline = shore + slant + (ridge(stage.rng, width, 2, octaves=4, gain=0.35) - 0.5) * height * 0.05
    sand = pick(stage.rng, _SAND)
    wet = light.shade(mix(sand, (110, 90, 80), 0.45))
    for back, strength in ((0.17, 0.35), (0.09, 0.55), (0.0, 0.9)):
        _foam(stage, waterline - (shore - stage.horizon) * back, strength)
    land.fill_below(stage, waterline, wet, wet)
    _foam(stage, waterline, 0.95)
    dry = waterline + height * 0.05 + (ridge(stage.rng, width, 2, octaves=3, gain=0.3) - 0.5) * height * 0.02
    land.fill_below(stage, dry, light.shade(sand), light.shade(mix(sand, (150, 110, 70), 0.25)))
    first = int(dry.min())
    land.texture(stage, first + 4, 0.22, light.shade(mix(sand, (120, 84, 60), 0.5)), (40, 40))
    stage.water = (stage.horizon + (shore - stage.horizon) * 0.25, float(waterline.min()) - stage.unit * 0.03)
    stage.ground = (float(dry.max()) + stage.unit * 0.05, height * 0.97)


def _foam(stage: Stage, line: np.ndarray, strength: float) -> None:
    """A strip of foam on the seaward side of `line`, frayed by noise."""
    width, depth = stage.canvas.width, max(6, round(stage.unit * 0.03))
    top = int(line.min()) - depth
    rows = np.arange(top, int(line.max()) + 4, dtype=np.float32)[:, None]
    behind = line[None].astype(np.float32) - rows
    frayed = depth * (0.25 + 0.9 * ridge(stage.rng, width, 9, octaves=3))[None]
    mask = np.clip(behind + 1, 0, 1) * np.clip((frayed - behind) / 3, 0, 1) * strength
    stage.canvas.paint(mask.astype(np.float32), stage.light.shade((255, 255, 255)), top)


def _mountains(stage: Stage) -> None:
    height = stage.canvas.height
    row, capped = stage.horizon, stage.scene.season == "winter" or stage.shows("snowcaps")
    land.far_range(stage, row, stage.rise * 0.8, 0.72)
    land.mountains(stage, row + 0.04 * height, stage.rise + 0.04 * height, capped=capped)
    _mist(stage, row - stage.rise * 0.2)
    colour = land.ground_colour(stage)
    tops = land.hills(stage, row + 0.05 * height, height * 0.07, mix(colour, (40, 70, 60), 0.45), 0.3)
    if stage.rng.random() < 0.75:
        land.tree_row(stage, tops, stage.unit * 0.09, 0.3, firs=True)
    _meadow_floor(stage, row + 0.1 * height, colour)


def _mist(stage: Stage, row: float) -> None:
    """A band of haze at the foot of the mountains."""
    rows = (np.arange(stage.canvas.height, dtype=np.float32) - row) / (stage.unit * 0.12)
    band = 0.4 * np.exp(-(rows**2))[:, None] * np.ones((1, stage.canvas.width), np.float32)
    stage.canvas.paint(band, stage.light.haze)


def _meadow_floor(stage: Stage, row: float, colour: Colour) -> None:
    """The foreground of every landscape: a hill, a road if there is one, grass, and flowers."""
    height = stage.canvas.height
    tops = land.hills(stage, row, height * 0.06, colour, 0.05)
    land.texture(stage, int(tops.max()), 0.3, stage.light.shade(mix(colour, (30, 50, 30), 0.5)), (10, 10))
    if stage.shows("road"):
        land.road(stage, float(np.median(tops)))
    land.grass(stage, float(tops.max()), colour, count=80 if stage.shows("road") else 180)
    stage.ground = (float(tops.max()) + stage.unit * 0.05, height * 0.95)


def _lake(stage: Stage) -> None:
    canvas, height = stage.canvas, stage.canvas.height
    row, colour = stage.horizon, land.ground_colour(stage)
    if stage.shows("peaks"):
        land.far_range(stage, row, stage.rise * 0.7, 0.7)
        land.mountains(stage, row + 2, stage.rise, capped=stage.scene.season == "winter")
    else:
        land.hills(stage, row, stage.rise * 0.75, mix(colour, (50, 80, 80), 0.5), 0.5)
        land.hills(stage, row, stage.rise * 0.4, mix(colour, (50, 80, 80), 0.3), 0.3)
    firs = stage.scene.season != "autumn" or stage.rng.random() < 0.25
    land.tree_row(stage, float(row + 2), stage.unit * stage.uniform(0.08, 0.13), 0.22, firs=firs)
    if stage.shows("bridge"):
        bridge(stage, row)
    calm = stage.shows("mirror")
    bottom = round(height * 0.9)
    paint_water(stage, row, height, mirror=0.9 if calm else 0.35, chop=0.03 if calm else 0.5)
    bank = height * stage.uniform(0.84, 0.9)
    tops = land.hills(stage, bottom, bottom - bank + height * 0.05, colour, 0.0, cells=1.3)
    land.grass(stage, float(tops.min()), colour, count=160)
    for x in stage.rng.uniform(0, canvas.width, 5).tolist():
        if stage.scene.season != "winter":
            plants.tussock(stage.pen(x, float(tops[int(x)]) + stage.unit * 0.04, stage.unit * 0.15), stage)
    stage.water = (row + (height - row) * 0.15, float(tops.min()) - stage.unit * 0.02)
    stage.ground = (float(tops.max()) + stage.unit * 0.03, height * 0.97)


def _riverside(stage: Stage) -> None:
    height = stage.canvas.height
    town.towers(stage, stage.horizon, stage.rise)
    if stage.shows("bridge"):
        bridge(stage, stage.horizon + stage.unit * 0.02)
    paint_water(stage, stage.horizon, height, mirror=0.72, chop=stage.uniform(0.15, 0.4))
    stage.water = (stage.horizon + (height - stage.horizon) * 0.35, height * 0.93)


def _park(stage: Stage) -> None:
    height = stage.canvas.height
    town.towers(stage, stage.horizon, stage.rise)
    town.park(stage, stage.horizon, land.ground_colour(stage))
    size = stage.unit * stage.uniform(0.13, 0.18)
    land.tree_row(stage, float(stage.horizon + stage.unit * 0.04), size, 0.05, firs=False, density=0.6)
    stage.ground = (stage.horizon + (height - stage.horizon) * 0.55, height * 0.97)


def _harbour(stage: Stage) -> None:
    height = stage.canvas.height
    if stage.rng.random() < 0.5:
        town.towers(stage, stage.horizon, stage.rise)
    else:
        land.far_range(stage, stage.horizon, stage.rise * 0.9, 0.75)
        town.gables(stage, stage.horizon, stage.rise)
    if stage.shows("bridge"):
        bridge(stage, stage.horizon + stage.unit * 0.03)
    paint_water(stage, stage.horizon, height, mirror=0.62, chop=stage.uniform(0.2, 0.5))
    stage.water = (stage.horizon + (height - stage.horizon) * 0.25, height * 0.93)


def _street(stage: Stage) -> None:
    row = stage.horizon
    if stage.rng.random() < 0.5:
        town.towers(stage, row, stage.rise)
    town.gables(stage, row, stage.rise * stage.uniform(0.75, 1.0))
    town.street(stage, row)
    depth = stage.canvas.height - row
    town.street_lamps(stage, row + depth * 0.36)
    stage.ground = (row + depth * 0.42, row + depth * 0.9)


def _firs(stage: Stage) -> None:
    """Wooded hills, one behind the other, down to the nearest trees."""
    height, unit = stage.canvas.height, stage.unit
    colour: Colour = {"summer": (56, 92, 72), "autumn": (176, 116, 56), "winter": land.SNOW}[stage.scene.season]
    firs = stage.scene.season != "autumn"
    land.far_range(stage, stage.horizon, stage.rise, 0.75)
    for rank, distance in enumerate((0.62, 0.42, 0.22)):
        row = stage.horizon + height * (0.05 + 0.1 * rank)
        tops = land.hills(stage, row, height * 0.09, colour, distance)
        land.tree_row(stage, tops, unit * (0.09 + 0.055 * rank), distance, firs=firs, density=1.1)
    _meadow_floor(stage, stage.horizon + height * 0.34, land.ground_colour(stage))
    size = unit * stage.uniform(0.5, 0.72)
    for x in (stage.uniform(-0.04, 0.1), stage.uniform(0.9, 1.04)):
        draw = plants.fir if firs else plants.leafy_tree
        draw(stage.pen(x * stage.canvas.width, height * stage.uniform(0.9, 1.0), size), stage)


def _woods(stage: Stage) -> None:
    """Among the trunks, the light coming from behind them."""
    canvas, light, height, unit = stage.canvas, stage.light, stage.canvas.height, stage.unit
    leaf = {"summer": (118, 166, 84), "autumn": (232, 158, 66), "winter": (214, 224, 236)}[stage.scene.season]
    air = mix(light.shade(leaf), light.sky[-1], 0.55)
    canvas.gradient(0, stage.horizon, [light.shade(mix(leaf, (0, 0, 0), 0.25)), air, mix(air, light.sun, 0.5)])
    floor: Colour = {"summer": (112, 124, 68), "autumn": (196, 118, 52), "winter": land.SNOW}[stage.scene.season]
    for rank, distance in enumerate((0.7, 0.45, 0.2, 0.0)):
        row = stage.horizon + (height - stage.horizon) * (0.02 + 0.2 * rank)
        _trunks(stage, row + unit * 0.03, unit * (0.014 + 0.02 * rank), 11 - 2 * rank, distance)
        _canopy(stage, height * (0.24 - 0.035 * rank), leaf, distance)
        land.hills(stage, row, unit * 0.03, mix(floor, (20, 30, 20), 0.1 * rank), distance * 0.8)
    if stage.shows("road"):
        land.road(stage, stage.horizon + (height - stage.horizon) * 0.3)
    if stage.scene.season == "autumn":
        _fallen_leaves(stage, height * 0.8)
    stage.ground = (height * 0.82, height * 0.96)


def _trunks(stage: Stage, row: float, half: float, count: int, distance: float) -> None:
    width = stage.canvas.width
    bark = pick(stage.rng, ((84, 66, 54), (104, 84, 70), (72, 62, 60)))
    for place in (np.arange(count) + stage.rng.uniform(0.1, 0.9, count)) / count:
        x = float(place) * width
        if distance == 0.0 and abs(x - width / 2) < 0.22 * width:
            continue  # the middle stays open, to see the light and whoever walks there
        lean, w = stage.uniform(-0.05, 0.05) * stage.unit, half * stage.uniform(0.7, 1.3)
        y = np.array([-5, row - w * 2, row])
        axis, half_widths = np.array([x + lean, x, x]), w * np.array([0.7, 1.0, 1.25])
        stage.canvas.polygon(ribbon(axis - half_widths, axis + half_widths, y), stage.light.shade(bark, distance))
        lit = ribbon(axis - half_widths * 0.9, axis - half_widths * 0.45, y)
        stage.canvas.polygon(lit, stage.light.shade(mix(bark, (255, 236, 190), 0.25), distance))


def _canopy(stage: Stage, depth: float, leaf: Colour, distance: float) -> None:
    """Leaves that hang in from above."""
    width, unit = stage.canvas.width, stage.unit
    colour = mix(leaf, (20, 50, 30), 0.15 + 0.3 * (1 - distance))
    if stage.scene.season == "winter":
        colour = mix(leaf, (150, 165, 190), 0.3 * (1 - distance))
    for x in stage.rng.uniform(-0.03, 1.03, 34).tolist():
        y = depth * stage.uniform(-0.2, 1.0) * (0.55 + 0.9 * abs(x - 0.5))
        size = unit * stage.uniform(0.03, 0.075)
        shade = stage.light.shade(mix(colour, (255, 250, 190), stage.uniform(0, 0.22)), distance)
        stage.canvas.oval((x * width, y), (size * 1.3, size * 0.85), shade)


def _fallen_leaves(stage: Stage, row: float) -> None:
    for near in np.sort(stage.rng.random(150)).tolist():
        y = row + (stage.canvas.height - row) * near
        size = stage.unit * (0.005 + 0.011 * near)
        colour = pick(stage.rng, ((226, 120, 40), (240, 178, 62), (184, 66, 40)))
        centre = stage.uniform(0, stage.canvas.width), y
        stage.canvas.oval(centre, (size * 1.4, size * 0.7), stage.light.shade(colour), stage.uniform(0, 180))


def _meadow(stage: Stage) -> None:
    height = stage.canvas.height
    colour = land.ground_colour(stage)
    far = mix(colour, (60, 100, 110), 0.35)
    for rank, distance in enumerate((0.6, 0.36, 0.16)):
        row = stage.horizon + height * (0.03 + 0.055 * rank)
        ripeness = stage.uniform(0, 0.3) if stage.scene.season == "summer" else 0.0
        tone = mix(mix(far, colour, rank / 3), (226, 200, 96), ripeness)
        tops = land.hills(stage, row, stage.rise + height * 0.05, tone, distance, cells=1.6)
        if stage.rng.random() < 0.5:
            land.tree_row(stage, tops, stage.unit * (0.04 + 0.02 * rank), distance, firs=False, density=0.55)
    _meadow_floor(stage, stage.horizon + height * 0.2, colour)


def _desert(stage: Stage) -> None:
    height, unit = stage.canvas.height, stage.unit
    sand = pick(stage.rng, ((232, 178, 108), (222, 154, 96), (236, 196, 132), (206, 128, 86)))
    if stage.rng.random() < 0.5:
        _mesas(stage, mix(sand, (150, 60, 40), 0.5))
        land.hills(stage, stage.horizon + height * 0.03, height * 0.03, sand, 0.25)
    for rank, distance in enumerate((0.4, 0.2, 0.04)):
        row = stage.horizon + height * (0.06 + 0.13 * rank)
        land.dune(stage, row, height * (0.06 + 0.045 * rank), sand, distance)
    top = round(stage.horizon + height * 0.34)
    land.texture(stage, top, 0.2, stage.light.shade(mix(sand, (110, 60, 40), 0.5)), (30, 8))
    if stage.shows("road"):
        land.road(stage, stage.horizon + height * 0.24)
    for x in (stage.rng.uniform(0.04, 0.96, 3) * stage.canvas.width).tolist():
        if stage.rng.random() < 0.6:
            foot, size = stage.horizon + height * stage.uniform(0.2, 0.3), unit * stage.uniform(0.16, 0.26)
            plants.cactus(stage.pen(x, foot, size, 0.1), stage)
    stage.ground = (stage.horizon + height * 0.34, height * 0.95)


def _mesas(stage: Stage, rock: Colour) -> None:
    """Table mountains on the horizon."""
    for place in stage.rng.permutation([0.14, 0.45, 0.8])[:2].tolist():
        tall, half = stage.unit * stage.uniform(0.13, 0.24), stage.unit * stage.uniform(0.06, 0.13)
        pen = stage.pen(place * stage.canvas.width, stage.horizon + stage.unit * 0.05, tall, 0.3)
        wide = half / tall
        pen.polygon([(-wide * 1.9, 0), (-wide * 1.1, 0.45), (wide * 1.1, 0.45), (wide * 1.9, 0)], rock)
        pen.polygon([(-wide, 0.4), (-wide * 0.94, 1), (wide * 0.9, 0.97), (wide, 0.4)], rock)
        shaded = [(wide * 0.2, 0), (wide * 0.3, 0.98), (wide * 0.9, 0.97), (wide, 0.45), (wide * 1.9, 0)]
        pen.polygon(shaded, mix(rock, (60, 20, 40), 0.3))


PAINTERS: Mapping[str, Callable[[Stage], None]] = {
    "sea": _sea,
    "beach": _beach,
    "mountains": _mountains,
    "lake": _lake,
    "park": _park,
    "riverside": _riverside,
    "harbour": _harbour,
    "street": _street,
    "firs": _firs,
    "woods": _woods,
    "meadow": _meadow,
    "desert": _desert,
    "blossom": closeups.blossom,
    "table": closeups.table,
}
"""A painter for every place that a plan can name."""
