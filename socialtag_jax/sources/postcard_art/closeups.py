"""What fills the frame: blossoms, a coffee table from above, a cat on a window sill."""

import numpy as np

from socialtag_jax.sources.postcard_art.beings import cat
from socialtag_jax.sources.postcard_art.canvas import Colour, Pen, jitter, mix, noise, pick
from socialtag_jax.sources.postcard_art.plants import FLOWERS, flower
from socialtag_jax.sources.postcard_art.stage import Stage


def blossom(stage: Stage) -> None:
    """A garden out of focus, for a bouquet to stand before."""
    canvas = stage.canvas
    top, bottom = pick(stage.rng, _GARDENS)
    canvas.gradient(0, canvas.height, [top, bottom])
    for _ in range(40):
        centre = stage.uniform(0, canvas.width), stage.uniform(0, canvas.height)
        radius = stage.unit * stage.uniform(0.05, 0.16)
        blot = pick(
            stage.rng,
            (mix(top, (255, 255, 255), 0.3), bottom, mix(bottom, (20, 60, 30), 0.4), jitter(stage.rng, top, 40)),
        )
        box = tuple(slice(max(0, int(c - radius) - 2), int(c + radius) + 3) for c in centre[::-1])
        with canvas.translucent(0.4, (box[0], box[1])):
            canvas.oval(centre, (radius, radius), blot)
    canvas.soften(stage.unit * 0.018)


_GARDENS: tuple[tuple[Colour, Colour], ...] = (
    ((176, 206, 140), (70, 120, 72)), ((160, 200, 214), (94, 142, 92)), ((236, 206, 170), (110, 138, 84)),
    ((206, 190, 220), (90, 124, 100)), ((60, 84, 70), (24, 48, 40)),
)  # fmt: skip


def bouquet(stage: Stage) -> None:
    """Large flowers in the foreground of the blurred garden; from one that fills the frame to a handful."""
    height, width, unit = stage.canvas.height, stage.canvas.width, stage.unit
    head, colours = pick(stage.rng, FLOWERS)
    colour, count = pick(stage.rng, colours), int(stage.rng.choice([1, 2, 3, 5, 7]))
    radius = unit * stage.uniform(0.85, 1.1) * (0.3, 0.23, 0.2, 0.17, 0.15)[(1, 2, 3, 5, 7).index(count)]
    places = (np.arange(count) + 0.5 + stage.rng.uniform(-0.22, 0.22, count)) / count
    places = 0.5 + (places - 0.5) * (0.94 if count > 1 else 0.5)
    tops = np.sort(stage.rng.uniform(0.3, 0.62, count))
    for x, y in zip(stage.rng.permutation(places).tolist(), tops.tolist(), strict=True):
        stalk = height * (1.05 - y)
        flower(stage.pen(x * width, height * 1.05, stalk), stage, head, jitter(stage.rng, colour, 8), radius / stalk)


def table(stage: Stage) -> None:
    """A table top seen from above: boards, or a cloth."""
    canvas = stage.canvas
    if stage.rng.random() < 0.6:
        _boards(stage)
    else:
        _cloth(stage)
    shape = canvas.height, canvas.width
    canvas.paint(noise(stage.rng, shape, (3, 3), octaves=2) * np.float32(0.22), (60, 40, 40))


def _boards(stage: Stage) -> None:
    canvas = stage.canvas
    wood = pick(stage.rng, ((176, 128, 86), (214, 184, 146), (110, 78, 60), (226, 220, 210)))
    board = round(stage.unit * 0.17)
    for left in range(0, canvas.width, board):
        tone = jitter(stage.rng, wood, 6)
        canvas.polygon([(left, 0), (left + board, 0), (left + board, canvas.height), (left, canvas.height)], tone)
        canvas.stroke([(left, 0), (left, canvas.height)], 4, mix(wood, (30, 16, 10), 0.55))
    grain = noise(stage.rng, (canvas.height, canvas.width), (4, 60), octaves=3)
    canvas.paint(0.5 * grain**2, mix(wood, (50, 26, 14), 0.5))


def _cloth(stage: Stage) -> None:
    canvas = stage.canvas
    colour = pick(stage.rng, ((206, 66, 66), (70, 120, 180), (90, 150, 110), (236, 180, 190)))
    canvas.pixels[:] = (250, 246, 238)
    square = round(stage.unit * 0.09)
    rows, columns = np.ogrid[0 : canvas.height, 0 : canvas.width]
    check = ((rows // square) % 2).astype(np.float32) * 0.35 + ((columns // square) % 2).astype(np.float32) * 0.35
    canvas.paint(check, colour)


def coffee(stage: Stage) -> None:
    """A cup of coffee with a leaf or a heart in its foam, and something to eat beside it."""
    width, height, unit = stage.canvas.width, stage.canvas.height, stage.unit
    x, y = width * stage.uniform(0.36, 0.64), height * stage.uniform(0.4, 0.6)
    size = unit * stage.uniform(0.22, 0.31)
    _snack(stage, _beside(stage, (x, y), size))
    pen = stage.pen(x, y, size, flip=bool(stage.rng.random() < 0.5))
    china = pick(stage.rng, ((250, 248, 242), (70, 130, 150), (226, 120, 100), (240, 200, 110), (60, 60, 70)))
    with stage.canvas.translucent(0.35):
        pen.disc(0.1, -0.12, 1.5, (30, 16, 14))
    pen.disc(0, 0, 1.45, mix(china, (255, 255, 255), 0.25))
    pen.disc(0, 0, 1.32, china)
    pen.disc(0, 0, 0.98, mix(china, (0, 0, 0), 0.14))
    pen.stroke([(0.7, 0.5), (1.25, 0.9)], 0.24, china)
    pen.disc(0, 0, 0.92, mix(china, (255, 255, 255), 0.5))
    pen.disc(0, 0, 0.8, (94, 54, 32))
    pen.disc(-0.02, 0.02, 0.74, (168, 108, 64))
    _foam_art(pen, stage)


def cut_flowers(stage: Stage) -> None:
    """A few flower heads laid in a corner of the table."""
    head, colours = pick(stage.rng, FLOWERS)
    colour, size = pick(stage.rng, colours), stage.unit * stage.uniform(0.11, 0.15)
    corner_x = stage.canvas.width * pick(stage.rng, (0.1, 0.9))
    corner_y = stage.canvas.height * pick(stage.rng, (0.12, 0.88))
    for turn in np.linspace(0, 2 * np.pi, 4, endpoint=False) + stage.uniform(0, 2):
        pen = stage.pen(corner_x + size * float(np.cos(turn)), corner_y + size * float(np.sin(turn)), size)
        pen.oval(0.6, -0.6, 0.8, 0.24, (92, 140, 70), -45 + float(np.degrees(turn)))
        head(pen, stage, jitter(stage.rng, colour, 8))


def _beside(stage: Stage, cup: tuple[float, float], size: float) -> Pen:
    """A pen for a plate next to the cup, where the picture has more room for it."""
    room = np.array([stage.canvas.width, stage.canvas.height]) / 2
    along = int(np.argmax(room))
    plate = np.array(cup) + stage.rng.uniform(-0.3, 0.3, 2) * size
    plate[along] += size * 2.3 * (1 if cup[along] < room[along] else -1)
    x, y = plate.tolist()
    return stage.pen(x, y, size, flip=False)


def _foam_art(pen: Pen, stage: Stage) -> None:
    cream = (250, 232, 204)
    if stage.rng.random() < 0.5:
        pen.curve(
            [(0, -0.55), (-0.4, -0.05), (-0.38, 0.3), (-0.14, 0.36), (0, 0.2), (0.14, 0.36), (0.38, 0.3), (0.4, -0.05)],
            cream,
        )
    else:
        for y in (-0.35, -0.14, 0.07, 0.28):
            half = 0.44 - 0.3 * abs(y + 0.02)
            pen.sweep([(-half, y + 0.16), (0, y - 0.08), (half, y + 0.16)], 0.1, cream)
        pen.stroke([(0, -0.55), (0, 0.52)], 0.07, cream)


def _snack(stage: Stage, pen: Pen) -> None:
    """A plate with a croissant, or with a slice of cake."""
    with stage.canvas.translucent(0.3):
        pen.disc(0.08, -0.1, 1.05, (30, 16, 14))
    pen.disc(0, 0, 1.0, (248, 246, 240))
    pen.disc(0, 0, 0.78, (234, 230, 222))
    if stage.rng.random() < 0.5:
        crust = (206, 138, 66)
        pen.curve(
            [
                (-0.75, -0.3),
                (-0.5, 0.25),
                (0, 0.45),
                (0.5, 0.25),
                (0.75, -0.3),
                (0.35, -0.02),
                (0, 0.02),
                (-0.35, -0.02),
            ],
            crust,
        )
        for turn in (-0.42, -0.16, 0.12, 0.4):
            pen.sweep([(turn, 0.36 - abs(turn) * 0.4), (turn * 0.9, 0.02)], 0.06, mix(crust, (90, 40, 10), 0.4))
            pen.sweep(
                [(turn + 0.09, 0.34 - abs(turn) * 0.4), (turn * 0.9 + 0.08, 0.08)],
                0.05,
                mix(crust, (255, 230, 160), 0.5),
            )
    else:
        pen.polygon([(-0.6, -0.3), (0.55, -0.5), (0.35, 0.45)], (246, 206, 190))
        pen.polygon([(-0.6, -0.3), (0.55, -0.5), (0.55, -0.66), (-0.6, -0.44)], (150, 88, 60))
        for x, y in ((0.0, -0.2), (0.3, 0.1), (0.28, -0.28)):
            pen.disc(x, y, 0.11, (206, 40, 56))
            pen.disc(x - 0.03, y + 0.03, 0.035, (255, 190, 190))


def window_cat(stage: Stage) -> None:
    """A room's window round the view that is already painted, with a cat on the sill."""
    canvas = stage.canvas
    height, width, unit = canvas.height, canvas.width, stage.unit
    dim = {"day": 0.0, "sunset": 0.25, "night": 0.55}[stage.scene.time]
    wall = mix(pick(stage.rng, ((226, 206, 186), (186, 200, 196), (222, 186, 170), (176, 186, 206))), (40, 36, 60), dim)
    frame = mix((250, 247, 240), (50, 46, 70), dim)
    edge, sill = unit * stage.uniform(0.09, 0.13), height * stage.uniform(0.8, 0.86)
    for left, right in ((0, edge), (width - edge, width)):
        canvas.polygon([(left, 0), (right, 0), (right, height), (left, height)], wall)
    canvas.polygon([(0, 0), (width, 0), (width, edge * 0.7), (0, edge * 0.7)], wall)
    bars = [[(edge, sill), (edge, edge * 0.7), (width - edge, edge * 0.7), (width - edge, sill)]]
    bars.append([(width / 2, edge * 0.7), (width / 2, sill)])
    for bar in bars:
        canvas.stroke(bar, unit * 0.032, frame)
    canvas.polygon([(0, sill), (width, sill), (width, height), (0, height)], wall)
    lip = unit * 0.05
    canvas.polygon(
        [(edge * 0.5, sill), (width - edge * 0.5, sill), (width - edge * 0.3, sill + lip), (edge * 0.3, sill + lip)],
        frame,
    )
    _curtains(stage, edge, sill, dim)
    x, size = stage.claim(edge + unit * 0.24), unit * stage.uniform(0.42, 0.56)
    cat(stage.lit_pen(x, sill + lip * 0.6, size, 0.5), stage)


def _curtains(stage: Stage, edge: float, sill: float, dim: float) -> None:
    width, unit = stage.canvas.width, stage.unit
    cloth = mix(pick(stage.rng, ((206, 84, 76), (90, 130, 120), (232, 190, 110), (120, 110, 160))), (30, 26, 50), dim)
    for side in (-1, 1):
        for fold in range(4):
            near = edge * 0.5 + unit * 0.045 * fold
            x = near if side < 0 else width - near
            tone = mix(cloth, (255, 255, 255) if fold % 2 else (0, 0, 0), 0.1)
            foot = x + side * unit * 0.02 * fold
            half = unit * 0.03
            stage.canvas.polygon(
                [(x - half, 0), (x + half, 0), (foot + half, sill * 0.98), (foot - half, sill * 0.98)], tone
            )
