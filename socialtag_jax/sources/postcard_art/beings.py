"""People, cats, dogs and birds."""

import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, Pen, jitter, mix, pick
from socialtag_jax.sources.postcard_art.stage import Stage

_SKIN: tuple[Colour, ...] = ((248, 212, 184), (232, 184, 148), (196, 140, 104), (142, 94, 68), (104, 68, 52))
_HAIR: tuple[Colour, ...] = ((44, 34, 34), (92, 58, 40), (150, 96, 52), (218, 176, 102), (176, 74, 44), (190, 186, 182))
_CLOTHES: tuple[Colour, ...] = (
    (214, 64, 60), (240, 178, 64), (62, 120, 176), (250, 246, 238), (74, 150, 130), (236, 140, 150), (70, 66, 110),
    (150, 96, 160), (250, 120, 70),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = ((52, 62, 92), (70, 66, 70), (150, 128, 100), (96, 120, 150))


def people(pen: Pen, stage: Stage) -> None:
    """One to three people side by side; the tallest has height 1."""
    count = int(stage.rng.choice(3, p=[0.4, 0.4, 0.2])) + 1
    for rank, x in enumerate(((np.arange(count) - (count - 1) / 2) * 0.42).tolist()):
        size = 1.0 if rank == 0 else stage.uniform(0.6, 0.98)
        person(pen.at(x, 0, size, flip=bool(stage.rng.random() < 0.5)), stage)


def person(pen: Pen, stage: Stage, *, holds_up: bool = False) -> None:
    """Somebody of height 1, standing, walking or cheering; `holds_up` one hand for something to be put into it."""
    skin, hair, top = pick(stage.rng, _SKIN), pick(stage.rng, _HAIR), pick(stage.rng, _CLOTHES)
    stride, long_hair = stage.uniform(0.03, 0.13), stage.rng.random() < 0.5
    if stage.rng.random() < 0.4:
        legs, sleeve = skin, skin
        _legs(pen, stride, legs)
        pen.curve([(-0.085, 0.78), (0.085, 0.78), (0.1, 0.62), (0.2, 0.3), (0, 0.27), (-0.2, 0.3), (-0.1, 0.62)], top)
    else:
        trousers, sleeve = pick(stage.rng, _TROUSERS), mix(top, (0, 0, 0), 0.12)
        _legs(pen, stride, trousers)
        pen.polygon([(-0.1, 0.8), (0.1, 0.8), (0.115, 0.46), (-0.115, 0.46)], top)
        pen.disc(-0.085, 0.78, 0.04, top)
        pen.disc(0.085, 0.78, 0.04, top)
    _arms(pen, stage, sleeve, skin, holds_up=holds_up)
    pen.stroke([(0, 0.78), (0, 0.86)], 0.06, mix(skin, (80, 30, 20), 0.15))
    if long_hair:
        pen.curve([(-0.095, 0.92), (0, 1.01), (0.095, 0.92), (0.105, 0.77), (0, 0.79), (-0.105, 0.77)], hair)
        pen.stroke([(0, 0.78), (0, 0.86)], 0.05, mix(skin, (80, 30, 20), 0.15))
    pen.disc(0, 0.905, 0.082, skin)
    for side in (-1, 1):
        pen.disc(side * 0.03, 0.9, 0.011, (50, 36, 38))
    pen.curve([(-0.088, 0.9), (-0.07, 0.98), (0.02, 1.005), (0.09, 0.95), (0.085, 0.9), (0.03, 0.945)], hair)


def _legs(pen: Pen, stride: float, colour: Colour) -> None:
    for side in (-1, 1):
        pen.stroke([(side * 0.05, 0.48), (side * stride, 0.02)], 0.085, mix(colour, (0, 0, 0), 0.12 * (side > 0)))
        pen.oval(side * stride + 0.02, 0.015, 0.055, 0.025, (60, 48, 48))


def _arms(pen: Pen, stage: Stage, sleeve: Colour, skin: Colour, *, holds_up: bool) -> None:
    cheers = stage.rng.random() < 0.22
    for side in (-1, 1):
        if cheers or (holds_up and side > 0):
            elbow, hand = (side * 0.19, 0.86), (side * 0.24, 1.02)
        else:
            elbow, hand = (side * 0.15, 0.62), (side * stage.uniform(0.12, 0.2), 0.47)
        pen.stroke([(side * 0.09, 0.77), elbow, hand], 0.05, sleeve)
        pen.disc(*hand, 0.03, skin)


def umbrella_person(pen: Pen, stage: Stage) -> None:
    """Somebody under an umbrella."""
    person(pen, stage, holds_up=True)
    colour = pick(stage.rng, ((214, 50, 56), (246, 186, 56), (54, 110, 180), (238, 130, 150)))
    pen.stroke([(0.24, 0.95), (0.14, 1.4)], 0.02, (60, 56, 60))
    canopy(pen.at(0.14, 1.12, 0.46), colour, mix(colour, (255, 255, 255), 0.28))


def canopy(pen: Pen, first: Colour, second: Colour) -> None:
    """The roof of an umbrella: half width 1, its rim at y = 0."""
    angle = np.linspace(0, np.pi, 25)
    for panel, squeeze in enumerate((1.0, 0.68, 0.24)):
        x, y = np.cos(angle) * squeeze, np.sin(angle) * 0.82
        pen.polygon(np.stack([x, y], axis=1), first if panel % 2 == 0 else second)
    for left in np.linspace(-1, 0.5, 4):
        pen.oval(float(left) + 0.25, 0.0, 0.25, 0.09, first if int(left * 2) % 2 else second)
    pen.stroke([(0, 0.8), (0, 0.95)], 0.06, (70, 60, 60))


def portrait(pen: Pen, stage: Stage) -> None:
    """Head and shoulders: the crown of the head at y = 1, cut off by the picture's lower edge at y = 0."""
    skin, hair, top = pick(stage.rng, _SKIN), pick(stage.rng, _HAIR), pick(stage.rng, _CLOTHES)
    shadow = mix(skin, (150, 60, 50), 0.28)
    style = pick(stage.rng, ("long", "long", "bob", "short", "short", "bun"))
    if style in ("long", "bob"):
        low = -0.05 if style == "long" else 0.36
        pen.curve(
            [(-0.27, 0.75), (0, 1.02), (0.27, 0.75), (0.31, low + 0.2), (0.2, low), (-0.2, low), (-0.31, low + 0.2)],
            hair,
        )
    if style == "bun":
        pen.disc(0, 1.04, 0.12, hair)
    pen.curve([(-0.52, -0.2), (-0.47, 0.16), (-0.2, 0.31), (0.2, 0.31), (0.47, 0.16), (0.52, -0.2)], top)
    pen.polygon([(-0.09, 0.5), (0.09, 0.5), (0.11, 0.29), (0, 0.2), (-0.11, 0.29)], shadow)
    pen.curve([(-0.215, 0.72), (-0.12, 0.92), (0.12, 0.92), (0.215, 0.72), (0.17, 0.5), (0, 0.4), (-0.17, 0.5)], skin)
    _face(pen, stage, skin, hair)
    pen.curve(
        [
            (-0.24, 0.66),
            (-0.25, 0.84),
            (-0.1, 0.99),
            (0.1, 0.99),
            (0.25, 0.84),
            (0.24, 0.66),
            (0.17, 0.82),
            (-0.05, 0.86),
            (-0.18, 0.78),
        ],
        hair,
    )
    if stage.rng.random() < 0.22:
        straw = (226, 190, 122)
        pen.oval(0, 0.88, 0.42, 0.075, straw)
        pen.curve([(-0.24, 0.9), (-0.2, 1.08), (0, 1.14), (0.2, 1.08), (0.24, 0.9)], straw)
        pen.polygon([(-0.245, 0.9), (0.245, 0.9), (0.235, 0.96), (-0.235, 0.96)], pick(stage.rng, _CLOTHES))


def _face(pen: Pen, stage: Stage, skin: Colour, hair: Colour) -> None:
    dark = (52, 38, 40)
    for side in (-1, 1):
        pen.oval(side * 0.12, 0.58, 0.045, 0.03, mix(skin, (236, 96, 96), 0.35))
    if stage.rng.random() < 0.25:
        pen.stroke([(-0.2, 0.7), (0.2, 0.7)], 0.02, (40, 36, 44))
        for side in (-1, 1):
            pen.oval(side * 0.09, 0.68, 0.075, 0.055, (40, 36, 44))
            pen.oval(side * 0.09 - 0.02, 0.695, 0.025, 0.015, (120, 130, 150))
    else:
        for side in (-1, 1):
            pen.oval(side * 0.085, 0.67, 0.024, 0.03, dark)
            pen.disc(side * 0.085 + 0.008, 0.68, 0.008, (255, 255, 255))
            pen.sweep([(side * 0.13, 0.735), (side * 0.09, 0.75), (side * 0.05, 0.74)], 0.014, mix(hair, dark, 0.4))
    pen.sweep([(0.0, 0.64), (0.018, 0.59), (-0.006, 0.585)], 0.012, mix(skin, (130, 50, 40), 0.4))
    pen.curve([(-0.07, 0.53), (0, 0.515), (0.07, 0.53), (0.035, 0.48), (-0.035, 0.48)], (176, 60, 64))
    pen.curve([(-0.055, 0.527), (0, 0.515), (0.055, 0.527), (0, 0.507)], (255, 252, 248))


_FUR: tuple[Colour, ...] = ((44, 42, 50), (226, 146, 72), (142, 142, 152), (240, 232, 220), (104, 76, 60))


def cat(pen: Pen, stage: Stage) -> None:
    """A sitting cat that looks at the viewer, or away from them; height 1."""
    fur = pick(stage.rng, _FUR)
    dark = mix(fur, (20, 10, 20), 0.3)
    faces_us = stage.rng.random() < 0.6
    pen.sweep([(0.2, 0.06), (0.42, 0.04), (0.5, 0.2), (0.44, 0.34)], 0.075, dark)
    pen.curve(
        [(-0.27, 0.02), (-0.29, 0.2), (-0.16, 0.5), (0, 0.62), (0.16, 0.5), (0.29, 0.2), (0.27, 0.02), (0, -0.01)], fur
    )
    for side in (-1, 1):
        pen.polygon([(side * 0.22, 0.72), (side * 0.21, 1.0), (side * 0.03, 0.86)], fur)
        if faces_us:
            pen.polygon([(side * 0.185, 0.78), (side * 0.185, 0.93), (side * 0.08, 0.85)], (236, 160, 160))
    pen.oval(0, 0.71, 0.235, 0.195, fur)
    if fur in (_FUR[1], _FUR[2]):
        for x in (-0.07, 0, 0.07):
            pen.stroke([(x, 0.9), (x, 0.82)], 0.025, dark)
        for y in (0.2, 0.3, 0.4):
            for side in (-1, 1):
                pen.stroke([(side * (0.28 - y * 0.22), y), (side * 0.1, y + 0.02)], 0.03, dark)
    if faces_us:
        _cat_face(pen, fur)


def _cat_face(pen: Pen, fur: Colour) -> None:
    chest = mix(fur, (255, 255, 255), 0.55)
    pen.oval(0, 0.33, 0.1, 0.17, chest)
    for side in (-1, 1):
        pen.oval(side * 0.08, 0.03, 0.07, 0.045, chest)
        pen.glowing.oval(side * 0.1, 0.73, 0.05, 0.055, (214, 206, 96))
        pen.oval(side * 0.1, 0.73, 0.018, 0.05, (20, 18, 22))
        for lift in (-0.02, 0.03):
            pen.stroke([(side * 0.1, 0.645), (side * 0.3, 0.65 + lift)], 0.008, (250, 248, 244))
    pen.oval(0, 0.65, 0.075, 0.05, chest)
    pen.polygon([(-0.03, 0.68), (0.03, 0.68), (0, 0.645)], (222, 120, 124))


def dog(pen: Pen, stage: Stage) -> None:
    """A sitting dog with hanging ears that looks at the viewer; height 1."""
    fur = pick(stage.rng, ((198, 140, 84), (236, 214, 176), (120, 82, 60), (70, 62, 62)))
    dark, pale = mix(fur, (40, 20, 10), 0.4), mix(fur, (255, 250, 240), 0.6)
    pen.sweep([(0.2, 0.1), (0.4, 0.16), (0.46, 0.36)], 0.08, fur)
    pen.curve([(-0.26, 0.03), (-0.25, 0.25), (-0.14, 0.55), (0.14, 0.55), (0.25, 0.25), (0.26, 0.03), (0, 0)], fur)
    for side in (-1, 1):
        pen.stroke([(side * 0.08, 0.36), (side * 0.09, 0.04)], 0.1, fur)
        pen.oval(side * 0.095, 0.03, 0.075, 0.045, pale)
    pen.oval(0, 0.38, 0.1, 0.14, pale)
    pen.box(-0.13, 0.5, 0.13, 0.55, pick(stage.rng, _CLOTHES))
    pen.curve([(-0.2, 0.72), (-0.14, 0.94), (0.14, 0.94), (0.2, 0.72), (0.12, 0.54), (-0.12, 0.54)], fur)
    pen.oval(0, 0.63, 0.105, 0.085, pale)
    for side in (-1, 1):
        pen.curve([(side * 0.13, 0.94), (side * 0.26, 0.86), (side * 0.28, 0.62), (side * 0.19, 0.66)], dark)
        pen.disc(side * 0.085, 0.77, 0.028, (36, 26, 26))
    pen.oval(0, 0.67, 0.042, 0.032, (36, 26, 26))
    pen.oval(0, 0.555, 0.035, 0.045, (228, 104, 112))


def birds(pen: Pen, stage: Stage) -> None:
    """A loose flock of gulls; the span of the nearest is 1."""
    colour = jitter(
        stage.rng, (250, 250, 250) if stage.scene.time == "day" and stage.rng.random() < 0.4 else (44, 46, 58), 4
    )
    for rank in range(int(stage.rng.integers(4, 8))):
        size = 1.0 if rank == 0 else stage.uniform(0.5, 0.9)
        x, y = (0.0, 0.0) if rank == 0 else (stage.uniform(-2.2, 2.2), stage.uniform(-0.9, 0.9))
        _gull(pen.at(x, y, size), stage.uniform(0.1, 0.32), colour)


def _gull(pen: Pen, lift: float, colour: Colour) -> None:
    for side in (-1, 1):
        wing = [
            (0, 0.03),
            (side * 0.22, lift + 0.07),
            (side * 0.52, lift * 0.6),
            (side * 0.24, lift - 0.03),
            (0, -0.07),
        ]
        pen.curve(wing, colour)
    pen.oval(0, -0.02, 0.07, 0.06, colour)
