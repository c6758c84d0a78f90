"""Cities: towers in the haze, a row of old gables, streets and lamps."""

import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, Pen, jitter, mix, pick
from socialtag_jax.sources.postcard_art.stage import Stage

_FACADES: tuple[Colour, ...] = ((132, 142, 160), (164, 154, 148), (108, 122, 142), (176, 140, 120), (146, 160, 168))
_GABLES: tuple[Colour, ...] = (
    (230, 172, 96), (206, 98, 80), (236, 214, 172), (124, 160, 168), (172, 192, 150), (220, 150, 140), (244, 238, 224),
)  # fmt: skip
_LIT: tuple[Colour, ...] = ((255, 214, 124), (255, 234, 170), (255, 190, 96), (226, 236, 255))


def towers(stage: Stage, row: float, height: float) -> None:
    """Three ranks of high-rise buildings that stand on `row`; the highest is `height` pixels high."""
    for distance, share in ((0.6, 1.0), (0.34, 0.82), (0.04, 0.6)):
        x = -stage.uniform(0, 0.1) * stage.unit
        while x < stage.canvas.width:
            width = stage.unit * stage.uniform(0.09, 0.17)
            tall = height * share * stage.uniform(0.5, 1.0)
            _tower(stage, x, row, width, tall, distance)
            x += width + stage.unit * stage.uniform(-0.01, 0.025)


def _tower(stage: Stage, x: float, row: float, width: float, height: float, distance: float) -> None:
    pen = stage.pen(x, row, width, distance, flip=False)
    tall, colour = height / width, jitter(stage.rng, pick(stage.rng, _FACADES), 8)
    roof = stage.rng.random()
    if roof < 0.2:
        pen.polygon([(0.1, tall), (0.9, tall), (0.5, tall + 0.5)], mix(colour, (0, 0, 0), 0.1))
        pen.stroke([(0.5, tall + 0.3), (0.5, tall + 0.95)], 0.035, colour)
    elif roof < 0.4:
        pen.box(0.18, tall - 0.05, 0.82, tall + 0.28, colour)
        pen.box(0.36, tall + 0.2, 0.64, tall + 0.45, colour)
    elif roof < 0.5:
        pen.oval(0.5, tall, 0.42, 0.36, mix(colour, (120, 160, 150), 0.4))
    elif roof < 0.6:
        pen.stroke([(0.5, tall), (0.5, tall + 0.6)], 0.04, colour)
    pen.box(0, -0.1, 1, tall, colour)
    pen.box(0.72, -0.1, 1, tall, mix(colour, (20, 20, 50), 0.16))
    if stage.scene.season == "winter":
        pen.box(-0.03, tall - 0.09, 1.03, tall + 0.05, (240, 245, 252))
    if distance < 0.6:
        _windows(stage, (x, x + width * 0.96), (row - height, row), colour, distance)


def _windows(
    stage: Stage, columns: tuple[float, float], rows: tuple[float, float], wall: Colour, distance: float
) -> None:
    """A grid of windows on a facade: dark or sky-blue by day, some of them lit when it is dark."""
    cell_x, cell_y = max(6, round(stage.unit * 0.021)), max(8, round(stage.unit * 0.03))
    left, top = round(max(columns[0], 0)) + 4, round(max(rows[0], 0)) + 6
    count_x = (round(min(columns[1], stage.canvas.width)) - left) // cell_x
    count_y = (round(rows[1]) - top) // cell_y
    if count_x < 1 or count_y < 1:
        return
    rate = {"day": 0.0, "sunset": 0.22, "night": 0.5}[stage.scene.time]
    glass = stage.light.shade(mix(wall, (60, 84, 120), 0.55), distance)
    colours = np.broadcast_to(np.asarray(glass, np.float32), (count_y, count_x, 3)).copy()
    lit = stage.rng.random((count_y, count_x)) < rate
    glow = np.asarray(pick(stage.rng, _LIT), np.float32) * (1 - 0.5 * distance)
    colours[lit] = glow
    colours = colours.repeat(cell_y, axis=0).repeat(cell_x, axis=1).astype(np.uint8)
    pane = np.zeros((cell_y, cell_x), bool)
    pane[: cell_y - 4, : cell_x - 3] = True
    facade = stage.canvas.pixels[top : top + count_y * cell_y, left : left + count_x * cell_x]
    np.copyto(facade, colours, where=np.tile(pane, (count_y, count_x))[..., None])


def gables(stage: Stage, row: float, height: float) -> None:
    """A row of narrow old houses, each in its own colour, that stand on `row`."""
    x = -stage.uniform(0, 0.12) * stage.unit
    while x < stage.canvas.width:
        width = stage.unit * stage.uniform(0.15, 0.21)
        _gabled_house(stage, x, row, width, height * stage.uniform(0.62, 0.9) / width)
        x += width


def _gabled_house(stage: Stage, x: float, row: float, width: float, tall: float) -> None:
    pen = stage.pen(x, row, width, 0.04, flip=False)
    wall = jitter(stage.rng, pick(stage.rng, _GABLES), 7)
    eaves, snowy = tall - 0.55, stage.scene.season == "winter"
    roof: Colour = (238, 243, 250) if snowy else pick(stage.rng, ((150, 76, 60), (104, 84, 84), (128, 96, 80)))
    pen.box(0, -0.1, 1, eaves, wall)
    shape = stage.rng.random()
    if shape < 0.4:
        pen.polygon([(-0.03, eaves), (1.03, eaves), (0.5, tall)], wall)
        pen.stroke([(-0.03, eaves - 0.02), (0.5, tall), (1.03, eaves - 0.02)], 0.07, roof)
    elif shape < 0.7:
        for step in range(4):
            inset = 0.12 * step
            pen.box(inset, eaves, 1 - inset, eaves + 0.14 * (step + 1), wall)
            pen.box(inset, eaves + 0.14 * (step + 1) - 0.04, 1 - inset, eaves + 0.14 * (step + 1), roof)
    else:
        pen.polygon([(-0.02, eaves), (0.16, tall - 0.1), (0.84, tall - 0.1), (1.02, eaves)], roof)
        pen.box(0.38, eaves, 0.62, eaves + 0.3, wall)
    _sash_windows(pen, stage, eaves)
    pen.box(0.985, -0.1, 1.0, eaves, mix(wall, (30, 20, 40), 0.35))


def _sash_windows(pen: Pen, stage: Stage, eaves: float) -> None:
    """Three white-framed windows on every floor up to `eaves`, some of them lit after sunset."""
    dark = stage.scene.time != "day"
    floors = max(2, int(eaves / 0.5))
    for floor in range(floors):
        bottom = 0.16 + floor * (eaves - 0.1) / floors
        for left in (0.12, 0.41, 0.7):
            lit = dark and stage.rng.random() < 0.55
            pen.box(left - 0.025, bottom - 0.025, left + 0.205, bottom + 0.305, (248, 246, 238))
            glass = pick(stage.rng, _LIT) if lit else (92, 116, 136)
            (pen.glowing if lit else pen).box(left, bottom, left + 0.18, bottom + 0.28, glass)


def street(stage: Stage, row: float) -> None:
    """A pavement and a road in front of the houses, from `row` down; wet and shining when it rains."""
    canvas, light = stage.canvas, stage.light
    winter = stage.scene.season == "winter"
    kerb, bottom = round(row + (canvas.height - row) * 0.42), canvas.height
    paving: Colour = (232, 236, 244) if winter else (186, 178, 168)
    asphalt: Colour = (170, 176, 188) if winter else (98, 98, 106)
    canvas.gradient(round(row), kerb, [light.shade(paving, 0.15), light.shade(paving)])
    canvas.gradient(kerb, bottom, [light.shade(asphalt, 0.1), light.shade(mix(asphalt, (0, 0, 0), 0.2))])
    canvas.stroke([(0, kerb), (canvas.width, kerb)], 5, light.shade((214, 208, 200)))
    middle = (kerb + bottom) / 2 + stage.unit * 0.02
    for x in np.arange(0, canvas.width, stage.unit * 0.26):
        dash = [(x, middle), (x + stage.unit * 0.13, middle)]
        canvas.stroke(dash, stage.unit * 0.012, light.shade((236, 230, 210)))
    if stage.scene.weather == "rain" or (stage.scene.time == "night" and not winter):
        _shine(stage, round(row))


def _shine(stage: Stage, row: int) -> None:
    """The lights of the houses, smeared down over the wet street."""
    pixels = stage.canvas.pixels
    rows = min(len(pixels) - row, row)
    smear = pixels[row - rows : row][::-1].astype(np.float32)
    averaged = np.cumsum(smear, axis=0) / np.arange(1, rows + 1, dtype=np.float32)[:, None, None]
    mask = np.full((rows, pixels.shape[1]), 0.4, np.float32)
    stage.canvas.paint(mask, averaged, row)


def street_lamps(stage: Stage, row: float) -> None:
    """Two or three lamp posts that stand on `row`, burning unless it is day."""
    dark = stage.scene.time != "day"
    start = stage.uniform(0.05, 0.2)
    for place in np.arange(start, 1.0, 0.38).tolist():
        pen = stage.pen(place * stage.canvas.width, row, stage.unit * 0.34, flip=False)
        pen.stroke([(0, 0), (0, 0.86)], 0.03, (48, 48, 54))
        pen.polygon([(-0.06, 1.0), (0.06, 1.0), (0.04, 0.85), (-0.04, 0.85)], (232, 232, 214))
        pen.polygon([(-0.08, 0.99), (0.08, 0.99), (0, 1.07)], (48, 48, 54))
        if dark:
            for radius, alpha in ((0.3, 0.08), (0.22, 0.12), (0.14, 0.2)):
                with stage.canvas.translucent(alpha):
                    pen.glowing.disc(0, 0.92, radius, (255, 214, 130))
            pen.glowing.polygon([(-0.055, 0.99), (0.055, 0.99), (0.04, 0.86), (-0.04, 0.86)], (255, 238, 180))


def park(stage: Stage, row: float, colour: Colour) -> None:
    """A lawn with a path instead of a street, from `row` down."""
    canvas, light = stage.canvas, stage.light
    canvas.gradient(round(row), canvas.height, [light.shade(colour, 0.1), light.shade(mix(colour, (0, 0, 0), 0.25))])
    depth = canvas.height - row
    for lift, tone in ((0.0, (222, 206, 176)), (0.03, (232, 220, 194))):
        top = row + depth * (0.4 + lift)
        path = [
            (0, top + depth * 0.08),
            (canvas.width, top),
            (canvas.width, top + depth * 0.26),
            (0, top + depth * 0.4),
        ]
        canvas.polygon(path, light.shade(tone))
