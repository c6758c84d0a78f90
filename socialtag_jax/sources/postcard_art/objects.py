"""What people build: boats, houses, lighthouses, bridges, cars, balloons and parasols. Each stands on (0, 0)."""

from itertools import pairwise

import numpy as np

from socialtag_jax.sources.postcard_art.beings import canopy
from socialtag_jax.sources.postcard_art.canvas import Colour, Pen, mix, pick, ribbon
from socialtag_jax.sources.postcard_art.stage import Stage

_PAINT: tuple[Colour, ...] = (
    (204, 58, 54),
    (52, 96, 150),
    (242, 236, 224),
    (52, 128, 116),
    (236, 170, 62),
    (66, 60, 70),
)
_LAMP: Colour = (255, 220, 130)


def boat(pen: Pen, stage: Stage) -> None:
    """A sailing boat, a fishing boat or a rowing boat; a sailing boat has height 1."""
    pick(stage.rng, (_sailing_boat, _sailing_boat, _fishing_boat, _rowing_boat))(pen, stage)


def _sailing_boat(pen: Pen, stage: Stage) -> None:
    sail = pick(stage.rng, ((252, 250, 244), (252, 250, 244), (226, 84, 66), (246, 190, 90), (90, 150, 190)))
    pen.stroke([(0, 0.05), (0, 1.0)], 0.022, (110, 84, 64))
    pen.curve([(0.03, 0.97), (0.2, 0.6), (0.42, 0.2), (0.2, 0.17), (0.03, 0.18)], sail)
    pen.curve([(-0.03, 0.86), (-0.18, 0.5), (-0.34, 0.2), (-0.15, 0.19), (-0.03, 0.2)], mix(sail, (90, 90, 120), 0.18))
    pen.stroke([(0.06, 0.42), (0.3, 0.4)], 0.014, mix(sail, (90, 90, 120), 0.3))
    _hull(pen, 0.42, 0.14, pick(stage.rng, _PAINT))


def _hull(pen: Pen, half: float, height: float, colour: Colour) -> None:
    pen.curve(
        [(-half, height), (0, height * 0.82), (half * 1.1, height * 1.15), (half * 0.75, 0), (-half * 0.7, 0)], colour
    )
    pen.sweep(
        [(-half, height), (0, height * 0.84), (half * 1.1, height * 1.12)],
        height * 0.2,
        mix(colour, (255, 255, 255), 0.6),
    )


def _fishing_boat(pen: Pen, stage: Stage) -> None:
    colour = pick(stage.rng, _PAINT)
    pen.box(-0.25, 0.16, 0.12, 0.44, (246, 242, 232))
    pen.box(-0.3, 0.43, 0.17, 0.48, mix(colour, (0, 0, 0), 0.2))
    night = stage.scene.time == "night"
    glass = pen.glowing if night else pen
    for left in (-0.2, -0.03):
        glass.box(left, 0.28, left + 0.11, 0.39, _LAMP if night else (84, 124, 150))
    pen.stroke([(0.2, 0.15), (0.2, 0.78)], 0.022, (96, 76, 64))
    pen.stroke([(0.2, 0.76), (0.56, 0.24)], 0.01, (70, 66, 70))
    pen.polygon([(0.21, 0.78), (0.21, 0.68), (0.34, 0.73)], (226, 70, 60))
    _hull(pen, 0.52, 0.22, colour)


def _rowing_boat(pen: Pen, stage: Stage) -> None:
    colour = pick(stage.rng, _PAINT)
    pen.oval(0.02, 0.25, 0.55, 0.07, (92, 66, 50))
    pen.stroke([(-0.16, 0.24), (-0.16, 0.29)], 0.1, (150, 110, 80))
    pen.curve([(-0.6, 0.3), (-0.3, 0.2), (0.2, 0.2), (0.66, 0.34), (0.42, 0.0), (-0.4, 0.0)], colour)
    pen.sweep([(-0.6, 0.29), (-0.3, 0.2), (0.2, 0.2), (0.66, 0.33)], 0.035, mix(colour, (255, 255, 255), 0.5))
    pen.stroke([(-0.05, 0.3), (-0.5, 0.02)], 0.025, (170, 130, 92))
    pen.oval(-0.53, 0.01, 0.09, 0.03, (170, 130, 92), 30)


def house(pen: Pen, stage: Stage) -> None:
    """A cottage with a lit window; height 1, nearly 1.5 wide."""
    wall = pick(stage.rng, ((246, 238, 222), (236, 206, 170), (206, 110, 90), (176, 202, 210), (150, 112, 84)))
    snowy, dark = stage.scene.season == "winter", stage.scene.time != "day"
    roof: Colour = (238, 243, 250) if snowy else pick(stage.rng, ((160, 74, 58), (96, 84, 88), (122, 84, 64)))
    pen.box(0.34, 0.7, 0.46, 1.02, (150, 96, 80))
    pen.box(-0.1, 0, 0.7, 0.5, mix(wall, (60, 50, 70), 0.2))
    pen.polygon([(-0.42, 0.96), (0.52, 0.96), (0.78, 0.46), (-0.06, 0.46)], roof)
    pen.polygon([(-0.7, 0), (-0.1, 0), (-0.1, 0.5), (-0.4, 0.96), (-0.7, 0.5)], wall)
    pen.stroke([(-0.77, 0.44), (-0.4, 0.98), (-0.04, 0.44)], 0.075, mix(roof, (0, 0, 0), 0.12))
    pen.box(-0.5, 0, -0.3, 0.33, (110, 70, 54))
    glass = pen.glowing if dark else pen
    for left, bottom in ((0.06, 0.16), (0.38, 0.16), (-0.47, 0.47)):
        pen.box(left - 0.025, bottom - 0.025, left + 0.205, bottom + 0.205, (250, 248, 240))
        glass.box(left, bottom, left + 0.18, bottom + 0.18, _LAMP if dark else (112, 150, 172))
        pen.stroke([(left + 0.09, bottom), (left + 0.09, bottom + 0.18)], 0.02, (250, 248, 240))


def lighthouse(pen: Pen, stage: Stage) -> None:
    """A striped tower on a rock; height 1. Its lamp burns when the sun is low."""
    if stage.scene.time != "day":
        with stage.canvas.translucent(0.3):
            for side in (-1, 1):
                pen.glowing.polygon([(0, 0.85), (side * 1.8, 1.0), (side * 1.8, 0.72)], (255, 240, 180))
    pen.curve([(-0.46, -0.03), (-0.36, 0.08), (-0.15, 0.16), (0.12, 0.17), (0.33, 0.1), (0.5, -0.03)], (92, 84, 82))
    pen.curve([(-0.2, 0.0), (-0.1, 0.14), (0.15, 0.14), (0.34, 0.0)], (118, 108, 102))
    stripe = pick(stage.rng, ((206, 54, 50), (206, 54, 50), (46, 84, 140), (60, 56, 64)))
    levels = np.linspace(0.12, 0.78, 6).tolist()
    for band, (low, high) in enumerate(pairwise(levels)):
        half_low, half_high = 0.125 - 0.07 * low, 0.125 - 0.07 * high
        colour = (250, 246, 238) if band % 2 else stripe
        pen.polygon([(-half_low, low), (half_low, low), (half_high, high), (-half_high, high)], colour)
        shaded = mix(colour, (40, 40, 70), 0.25)
        pen.polygon([(half_low * 0.3, low), (half_low, low), (half_high, high), (half_high * 0.3, high)], shaded)
    pen.box(-0.1, 0.77, 0.1, 0.8, (60, 56, 64))
    pen.glowing.box(-0.05, 0.8, 0.05, 0.9, (255, 236, 160))
    pen.polygon([(-0.08, 0.9), (0.08, 0.9), (0, 1.0)], stripe)


def car(pen: Pen, stage: Stage) -> None:
    """A small car or a camper van, seen from the side; about 1 long."""
    colour = pick(stage.rng, ((208, 56, 52), (72, 140, 176), (246, 196, 74), (242, 236, 224), (108, 168, 140)))
    if stage.scene.place != "street":
        _track(stage, pen.foot[1])
    pen.oval(0, 0.015, 0.52, 0.03, (40, 40, 46))
    glass = (70, 96, 116)
    if stage.rng.random() < 0.35:
        pen.curve([(-0.49, 0.1), (-0.5, 0.3), (-0.46, 0.5), (0.4, 0.5), (0.49, 0.3), (0.5, 0.1)], colour)
        pen.polygon([(-0.48, 0.33), (-0.44, 0.51), (0.38, 0.51), (0.46, 0.33)], (248, 244, 234))
        for left, right in ((-0.4, -0.2), (-0.15, 0.06), (0.11, 0.36)):
            pen.box(left, 0.35, right, 0.47, glass)
    else:
        pen.curve([(-0.3, 0.25), (-0.22, 0.4), (-0.05, 0.46), (0.12, 0.43), (0.28, 0.25)], colour)
        pen.curve([(-0.24, 0.27), (-0.18, 0.37), (-0.04, 0.42), (-0.02, 0.27)], glass)
        pen.curve([(0.02, 0.27), (0.03, 0.415), (0.12, 0.385), (0.22, 0.27)], glass)
        pen.curve([(-0.5, 0.1), (-0.48, 0.24), (-0.28, 0.29), (0.28, 0.28), (0.47, 0.22), (0.5, 0.1)], colour)
        pen.stroke([(-0.47, 0.16), (0.48, 0.16)], 0.02, mix(colour, (255, 255, 255), 0.5))
    for x in (-0.29, 0.29):
        pen.disc(x, 0.09, 0.1, (40, 38, 42))
        pen.disc(x, 0.09, 0.05, (200, 200, 204))
    pen.glowing.oval(0.475, 0.19, 0.025, 0.035, (255, 244, 190))
    if stage.scene.time == "night":
        with stage.canvas.translucent(0.4):
            pen.glowing.polygon([(0.49, 0.19), (1.05, 0.24), (1.05, 0.0)], (255, 236, 170))


def _track(stage: Stage, row: float) -> None:
    """A country lane, for a car to be on."""
    width, half = stage.canvas.width, stage.unit * 0.055
    edges = [
        [(0, row + side * half), (width / 2, row + side * half * 0.8), (width, row + side * half)] for side in (-1, 1)
    ]
    stage.canvas.polygon(edges[0] + edges[1][::-1], stage.light.shade((168, 152, 134)))
    stage.canvas.stroke(edges[0], stage.unit * 0.008, stage.light.shade((214, 200, 176)))


def balloon(pen: Pen, stage: Stage) -> None:
    """A hot-air balloon; height 1, its basket at y = 0."""
    first, second = (pick(stage.rng, _PAINT[:5]) for _ in range(2))
    second = (250, 224, 130) if second == first else second
    for x in (-0.09, 0.09):
        pen.stroke([(x * 0.75, 0.1), (x * 1.6, 0.34)], 0.012, (90, 72, 60))
    pen.box(-0.075, 0, 0.075, 0.12, (150, 104, 66))
    turn = np.linspace(0, np.pi, 20)
    y = 0.64 + 0.36 * np.cos(turn)
    half = 0.35 * np.sin(turn) ** 0.8 * (1 - 0.12 * (turn / np.pi) ** 3) + 0.09 * (turn / np.pi) ** 4
    for panel, squeeze in enumerate((1.0, 0.8, 0.5, 0.17)):
        pen.polygon(ribbon(-half * squeeze, half * squeeze, y), first if panel % 2 == 0 else second)
    with stage.canvas.translucent(0.18):
        pen.polygon(ribbon(half * 0.45, half, y), (30, 20, 60))


def parasol(pen: Pen, stage: Stage) -> None:
    """A beach umbrella with a towel under it; height 1."""
    first, second = pick(stage.rng, _PARASOLS)
    pen.polygon([(-0.1, -0.02), (0.5, -0.02), (0.42, 0.07), (-0.04, 0.07)], mix(first, (255, 255, 255), 0.4))
    pen.stroke([(0, 0), (0.05, 0.95)], 0.035, (246, 240, 230))
    canopy(pen.at(0.04, 0.6, 0.52), first, second)


_PARASOLS: tuple[tuple[Colour, Colour], ...] = (
    ((226, 62, 60), (252, 248, 240)), ((250, 190, 60), (250, 246, 236)), ((54, 136, 182), (252, 248, 240)),
    ((238, 118, 140), (252, 226, 150)), ((60, 160, 140), (250, 224, 120)),
)  # fmt: skip


def bridge(stage: Stage, row: float) -> None:
    """A bridge across the whole width, standing in the water at `row`."""
    (_suspension_bridge if stage.scene.place in ("sea", "harbour") else _stone_bridge)(stage, row)


def _suspension_bridge(stage: Stage, row: float) -> None:
    width, unit = stage.canvas.width, stage.unit
    colour = stage.light.shade(pick(stage.rng, ((192, 72, 52), (206, 84, 56), (78, 92, 112))), 0.08)
    deck, tower = row - unit * 0.13, row - unit * stage.uniform(0.38, 0.46)
    towers = width * 0.24, width * 0.76
    spans = ((-0.28 * width, towers[0]), towers, (towers[1], width * 1.28))
    for left, right in spans:
        x = np.linspace(left, right, 25)
        sag = ((x - (left + right) / 2) / ((right - left) / 2)) ** 2
        y = deck - unit * 0.02 + (tower - deck + unit * 0.02) * sag
        stage.canvas.stroke(np.stack([x, y], axis=1), unit * 0.012, colour)
        for cable_x, cable_y in zip(x[1:-1].tolist(), y[1:-1].tolist(), strict=True):
            stage.canvas.stroke([(cable_x, cable_y), (cable_x, deck)], unit * 0.004, colour)
    for x in towers:
        half = unit * 0.022
        stage.canvas.polygon(
            [(x - half, row), (x + half, row), (x + half * 0.8, tower), (x - half * 0.8, tower)], colour
        )
    stage.canvas.polygon(
        [(0, deck), (width, deck), (width, deck + unit * 0.03), (0, deck + unit * 0.03)], mix(colour, (0, 0, 0), 0.15)
    )
    if stage.scene.time == "night":
        for x in np.linspace(0, width, 18).tolist():
            stage.canvas.oval((x, deck - unit * 0.012), (unit * 0.009, unit * 0.009), _LAMP)


def _stone_bridge(stage: Stage, row: float) -> None:
    width, unit, pixels = stage.canvas.width, stage.unit, stage.canvas.pixels
    stone = stage.light.shade(pick(stage.rng, ((168, 152, 132), (150, 146, 144), (176, 134, 110))), 0.06)
    top, rows = row - unit * 0.2, round(unit * 0.28)
    behind = pixels[round(row) - rows : round(row)].copy()
    stage.canvas.polygon([(0, top), (width / 2, top - unit * 0.05), (width, top), (width, row), (0, row)], stone)
    stage.canvas.stroke(
        [(0, top), (width / 2, top - unit * 0.05), (width, top)], unit * 0.03, mix(stone, (255, 255, 255), 0.25)
    )
    opening = np.zeros(behind.shape[:2], np.float32)
    columns, lines = np.arange(width, dtype=np.float32)[None], np.arange(rows, dtype=np.float32)[:, None] - rows
    count = 3 if width > stage.canvas.height else 2
    for centre in (np.arange(count) + 0.5) * width / count:
        half = width / count * 0.38
        opening = np.maximum(opening, ((columns - centre) / half) ** 2 + (lines / (unit * 0.155)) ** 2 < 1)
    stage.canvas.paint(opening.astype(np.float32), behind.astype(np.float32), round(row) - rows)
