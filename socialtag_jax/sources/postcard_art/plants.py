"""Trees, palms, cacti and flowers. Each is drawn by a pen: its foot at (0, 0), its height about 1."""

from collections.abc import Callable

import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, Pen, jitter, mix, pick, ribbon
from socialtag_jax.sources.postcard_art.stage import Stage

_TRUNK: Colour = (96, 70, 54)
_LEAVES: dict[str, tuple[Colour, ...]] = {
    "summer": ((70, 126, 62), (88, 142, 66), (58, 110, 66), (104, 150, 74)),
    "autumn": ((222, 134, 44), (206, 88, 40), (232, 176, 60), (178, 62, 44)),
}
_NEEDLES: tuple[Colour, ...] = ((40, 84, 66), (48, 96, 70), (34, 72, 64), (58, 104, 72))
_SNOW: Colour = (240, 245, 252)


def fir(pen: Pen, stage: Stage) -> None:
    """A fir; in winter with snow on its boughs."""
    colour = jitter(stage.rng, pick(stage.rng, _NEEDLES), 6)
    pen.box(-0.025, -0.02, 0.025, 0.2, _TRUNK)
    pen.polygon(_FIR, colour)
    pen.polygon(_FIR_RIGHT, mix(colour, (0, 0, 0), 0.18))
    if stage.scene.season == "winter":
        for bottom, half in _TIERS:
            edge, top = bottom + 0.13, bottom + 0.33
            drifts = [(-half * 0.62, edge - 0.05), (-half * 0.2, edge), (0.02, edge - 0.04), (half * 0.45, edge)]
            pen.polygon([*drifts, (0, top)], _SNOW)


_TIERS = tuple((0.06 + 0.2 * tier, 0.24 - 0.05 * tier) for tier in (3, 2, 1, 0))  # bottom and half width, from the top
_BOUGHS = [point for bottom, half in _TIERS for point in ((half, bottom - 0.03), (half * 0.45, bottom + 0.03))]
_FIR_RIGHT = [(0.0, 1.0), *_BOUGHS, (0.0, 0.09)]
_FIR = [(0.0, 1.0), *_BOUGHS, *((-x, y) for x, y in reversed(_BOUGHS))]


def leafy_tree(pen: Pen, stage: Stage) -> None:
    """A broad-leaved tree; bare and snowed up in winter. Far ones have fewer twigs and leaves."""
    close = pen.size > 0.25 * stage.unit
    if stage.scene.season == "winter":
        pen.stroke([(0, -0.02), (0, 0.35)], 0.06, _TRUNK)
        _branch(pen, stage.rng, (0.0, 0.3), np.pi / 2, 0.25, shortest=0.07 if close else 0.12)
        return
    trunk = mix(_TRUNK, (0, 0, 0), 0.1)
    pen.polygon([(-0.06, -0.02), (0.06, -0.02), (0.028, 0.5), (-0.028, 0.5)], trunk)
    if close:
        pen.stroke([(0, 0.25), (0.16, 0.5)], 0.03, trunk)
        pen.stroke([(0, 0.3), (-0.14, 0.52)], 0.03, trunk)
    colour, count = pick(stage.rng, _LEAVES[stage.scene.season]), 14 if close else 4
    angle, reach = np.linspace(0, 2 * np.pi, count) + stage.uniform(0, 6), stage.rng.uniform(0.35, 1.0, count)
    blobs = np.stack([0.27 * reach * np.cos(angle), 0.66 + 0.22 * reach * np.sin(angle)], axis=1).tolist()
    for shift, size, towards, amount in _CROWN if close else _FAR_CROWN:
        for x, y in blobs:
            pen.disc(x + shift, y - shift * 1.2, size, jitter(stage.rng, mix(colour, towards, amount), 7))


_SHADOW: Colour = (20, 40, 30)
_SUNLIT: Colour = (255, 246, 180)
_CROWN = ((0.0, 0.155, _SHADOW, 0.28), (-0.025, 0.12, _SHADOW, 0.0), (-0.05, 0.07, _SUNLIT, 0.2))
_FAR_CROWN = ((0.0, 0.19, _SHADOW, 0.2), (-0.04, 0.13, _SUNLIT, 0.06))


def _branch(
    pen: Pen, rng: np.random.Generator, start: tuple[float, float], angle: float, length: float, *, shortest: float
) -> None:
    width = 0.18 * length
    end = start[0] + length * float(np.cos(angle)), start[1] + length * float(np.sin(angle))
    pen.stroke([start, end], width, _TRUNK)
    lifted = [(x, y + width * 0.4) for x, y in (start, end)]
    pen.stroke(lifted, width * 0.4, _SNOW)
    if length > shortest:
        for turn in (-0.5, 0.0, 0.45):
            bend, rest = angle + turn + float(rng.normal(0, 0.14)), length * float(rng.uniform(0.58, 0.76))
            _branch(pen, rng, end, bend, rest, shortest=shortest)


def palm(pen: Pen, stage: Stage) -> None:
    """A coconut palm that leans over."""
    lean = stage.uniform(0.08, 0.3)
    height = np.linspace(0, 1, 12)
    x, y = lean * height**1.7, 0.78 * height
    half = 0.034 - 0.016 * height
    pen.polygon(ribbon(x - half, x + half, y), (134, 104, 76))
    pen.polygon(ribbon(x, x + half, y), (104, 78, 60))
    green = pick(stage.rng, ((60, 126, 62), (78, 138, 58), (50, 112, 70)))
    angles = np.linspace(-0.35, np.pi + 0.35, 9) + stage.rng.normal(0, 0.07, 9)
    for rank in (0, 8, 1, 7, 4, 2, 6, 3, 5):
        shade = mix(green, (16, 44, 34), 0.4 if rank in (0, 1, 7, 8) else stage.uniform(0, 0.2))
        _frond(pen, (float(x[-1]), float(y[-1])), float(angles[rank]), stage.uniform(0.34, 0.42), shade)
    for dx, dy in ((-0.03, -0.02), (0.03, -0.025), (0.0, -0.05)):
        pen.disc(float(x[-1]) + dx, float(y[-1]) + dy, 0.028, (92, 62, 42))


def _frond(pen: Pen, root: tuple[float, float], angle: float, length: float, colour: Colour) -> None:
    """A leaf that arches under its own weight, its lower edge cut into fingers."""
    t = np.linspace(0, 1, 15)
    spine_x = root[0] + length * np.cos(angle) * t
    spine_y = root[1] + length * np.sin(angle) * t - length * 0.62 * t**2
    width = 0.085 * np.sin(np.pi * np.clip(t * 0.93 + 0.07, 0, 1)) ** 0.7
    fingers = np.where(np.arange(15) % 2, 1.0, 0.35) * width * 1.25
    upper = np.stack([spine_x, spine_y + width * 0.35], axis=1)
    lower = np.stack([spine_x - 0.3 * fingers * np.cos(angle), spine_y - fingers], axis=1)
    pen.polygon(np.concatenate([upper, lower[::-1]]), colour)


def cactus(pen: Pen, stage: Stage) -> None:
    """A saguaro with two arms."""
    green = pick(stage.rng, ((74, 120, 78), (88, 128, 76), (66, 108, 84)))
    left, right = stage.uniform(0.3, 0.45), stage.uniform(0.4, 0.55)
    for width, colour in ((1.0, green), (0.35, mix(green, (255, 250, 200), 0.25))):
        pen.sweep([(0, -0.02), (0, 0.5), (0, 0.93)], 0.15 * width, colour)
        pen.sweep([(0, left), (-0.2, left + 0.03), (-0.22, left + 0.28)], 0.1 * width, colour)
        pen.sweep([(0, right), (0.19, right + 0.03), (0.21, right + 0.26)], 0.1 * width, colour)


def tussock(pen: Pen, stage: Stage) -> None:
    """A tuft of reeds."""
    for lean in stage.rng.normal(0, 0.22, 12).tolist():
        tip = lean, stage.uniform(0.6, 1.0)
        colour = jitter(stage.rng, (96, 118, 60), 14)
        pen.polygon([(lean * 0.3 - 0.02, 0), (lean * 0.3 + 0.02, 0), tip], colour)


def daisy(pen: Pen, stage: Stage, colour: Colour) -> None:
    """Many narrow petals around a yellow heart; centred on (0, 0), radius 1."""
    count = int(stage.rng.integers(9, 15))
    for turn in np.linspace(0, 360, count, endpoint=False) + stage.uniform(0, 30):
        x, y = float(np.cos(np.radians(turn))) * 0.6, float(np.sin(np.radians(turn))) * 0.6
        pen.oval(x, y, 0.42, 0.19, jitter(stage.rng, colour, 7), float(turn))
    pen.disc(0, 0, 0.3, (240, 186, 48))
    pen.disc(-0.06, 0.06, 0.18, (250, 212, 88))


def poppy(pen: Pen, stage: Stage, colour: Colour) -> None:
    """Four broad petals around a dark heart."""
    for turn in np.array([45, 225, 135, 315]) + stage.uniform(-20, 20):
        x, y = float(np.cos(np.radians(turn))) * 0.42, float(np.sin(np.radians(turn))) * 0.42
        pen.oval(x, y, 0.6, 0.5, mix(jitter(stage.rng, colour, 8), (60, 0, 20), 0.16), float(turn))
        pen.oval(x * 1.15, y * 1.15, 0.5, 0.42, jitter(stage.rng, colour, 8), float(turn))
    pen.disc(0, 0, 0.2, (48, 36, 44))
    pen.disc(0, 0, 0.09, (140, 150, 90))


def tulip(pen: Pen, stage: Stage, colour: Colour) -> None:
    """A cup of three petals."""
    deep = mix(colour, (60, 0, 40), 0.22)
    pen.curve([(-0.6, 0.9), (-0.7, 0.1), (-0.3, -0.75), (0.1, -0.5), (0.0, 0.4)], deep)
    pen.curve([(0.6, 0.9), (0.7, 0.1), (0.3, -0.75), (-0.1, -0.5), (0.0, 0.4)], deep)
    pen.curve([(0, 1.0), (-0.45, 0.3), (-0.35, -0.6), (0, -0.85), (0.35, -0.6), (0.45, 0.3)], colour)
    pen.curve([(-0.06, 0.8), (-0.3, 0.3), (-0.24, -0.4), (-0.1, -0.5)], mix(colour, (255, 255, 255), 0.25))


def rose(pen: Pen, stage: Stage, colour: Colour) -> None:
    """Petals wound into a spiral."""
    for ring, (radius, count) in enumerate(((0.74, 7), (0.5, 6), (0.28, 4))):
        shade = mix(colour, (70, 0, 30), 0.32 - 0.1 * ring)
        for turn in np.linspace(0, 2 * np.pi, count, endpoint=False) + stage.uniform(0, 1):
            x, y = float(np.cos(turn)) * radius * 0.72, float(np.sin(turn)) * radius * 0.72
            pen.disc(x, y, 0.4 - 0.07 * ring, mix(shade, (0, 0, 0), 0.12))
            pen.disc(x * 1.08, y * 1.08, 0.36 - 0.07 * ring, jitter(stage.rng, shade, 5))
    pen.disc(0, 0, 0.2, mix(colour, (70, 0, 30), 0.3))
    pen.disc(-0.03, 0.03, 0.12, mix(colour, (255, 255, 255), 0.12))


def sunflower(pen: Pen, stage: Stage, colour: Colour) -> None:
    """Two rings of pointed petals around a brown disc."""
    for ring, shade in ((0.0, mix(colour, (190, 90, 0), 0.35)), (12.0, colour)):
        for turn in np.radians(np.arange(0, 360, 24) + ring + stage.uniform(-3, 3)):
            ray = np.array([np.cos(turn), np.sin(turn)])
            side = np.array([-ray[1], ray[0]]) * 0.15
            pen.polygon(
                [
                    tuple(ray * 0.35 + side),
                    tuple(ray * 0.7 + side),
                    tuple(ray),
                    tuple(ray * 0.7 - side),
                    tuple(ray * 0.35 - side),
                ],
                shade,
            )
    pen.disc(0, 0, 0.46, (92, 58, 34))
    pen.disc(0, 0, 0.3, (64, 40, 28))


Flower = Callable[[Pen, Stage, Colour], None]

FLOWERS: tuple[tuple[Flower, tuple[Colour, ...]], ...] = (
    (daisy, ((252, 250, 244), (246, 170, 196), (196, 150, 226), (250, 214, 110))),
    (poppy, ((222, 52, 44), (238, 106, 60), (246, 180, 60))),
    (tulip, ((226, 54, 72), (246, 176, 60), (236, 122, 170), (150, 90, 190))),
    (rose, ((208, 44, 66), (240, 150, 168), (250, 214, 190))),
    (sunflower, ((250, 196, 48), (252, 210, 70))),
)
"""Every kind of flower head with its colours."""


def flower(pen: Pen, stage: Stage, head: Flower, colour: Colour, size: float) -> None:
    """A flower of height 1 with a head of radius `size` on a leafy stem."""
    stem, leaf = (84, 136, 66), (98, 152, 72)
    bend = stage.uniform(-0.14, 0.14)
    pen.sweep([(0, -0.1), (bend * 0.3, 0.5), (bend, 1)], max(0.025, size * 0.16), stem)
    for side, y in ((1, 0.25), (-1, 0.42)):
        length = 0.26 * side
        pen.curve([(bend * 0.2, y), (length * 0.6, y + 0.03), (length, y + 0.18), (length * 0.4, y + 0.14)], leaf)
    head(pen.at(bend, 1, size), stage, colour)


def flower_bed(stage: Stage, top: float) -> None:
    """A strip of flowers along the lower edge, from row `top` down; large enough to be what the picture is about."""
    height, width, unit = stage.canvas.height, stage.canvas.width, stage.unit
    kinds = [FLOWERS[k] for k in stage.rng.choice(len(FLOWERS), int(stage.rng.integers(1, 3)), replace=False)]
    rows = np.linspace(0, 1, 26) ** 0.8
    for near in rows.tolist():
        head, colours = pick(stage.rng, kinds)
        size = unit * (0.05 + 0.15 * near)
        foot = top + (height * 1.1 - top) * near + size
        pen = stage.pen(stage.uniform(-0.02, 1.02) * width, foot, size)
        flower(pen, stage, head, pick(stage.rng, colours), 0.3)
