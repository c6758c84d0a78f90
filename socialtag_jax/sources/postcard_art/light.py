"""Palettes: the colours of a sky, and what its light makes of everything below."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from socialtag_jax.sources.postcard_art.canvas import Colour, mix, pick


@dataclass(frozen=True, slots=True)
class Light:
    """The light of a scene.

    Attributes:
      sky: colours of the sky from the zenith down to the horizon.
      sun: the disc of the sun or moon, and the glow around it.
      ambient: what the light leaves of a colour, per channel, 0 to 1.
      haze: what distance turns everything into.
      water: deep water, where it mirrors nothing.
      cloud: lit and shaded side of a cloud.
    """

    sky: tuple[Colour, ...]
    sun: Colour
    ambient: Colour
    haze: Colour
    water: Colour
    cloud: tuple[Colour, Colour]

    def fill(self, colour: Colour, amount: float) -> Colour:
        """How `colour` looks close to the camera, where `amount` (0 to 1) of white light is added."""
        return mix(self.shade(colour), colour, amount)

    def shade(self, colour: Colour, distance: float = 0.0) -> Colour:
        """How `colour` looks in this light, from right here (`distance` 0) to lost in the haze (1)."""
        (r, g, b), (red, green, blue) = colour, self.ambient
        lit = r * red, g * green, b * blue
        # Snow, sails and foam take the colour of the sky, and stay the brightest things at dusk.
        whiteness = max(0.0, min(r, g, b) - 190) / 65
        lit = mix(lit, mix(self.cloud[0], (255, 255, 255), 0.45), 0.75 * whiteness)
        return mix(lit, self.haze, distance)


_WHITE_CLOUDS = ((255, 255, 255), (196, 208, 222))
_GREY_CLOUDS = ((176, 182, 190), (128, 135, 146))
_DARK_CLOUDS = ((72, 80, 116), (30, 36, 66))


def _day(zenith: Colour, middle: Colour, horizon: Colour, water: Colour) -> Light:
    return Light(
        sky=(zenith, middle, horizon),
        sun=(255, 250, 222),
        ambient=(1, 1, 1),
        haze=mix(horizon, middle, 0.45),
        water=water,
        cloud=_WHITE_CLOUDS,
    )


def _grey(zenith: Colour, middle: Colour, horizon: Colour) -> Light:
    return Light(
        sky=(zenith, middle, horizon),
        sun=(240, 240, 236),
        ambient=(0.74, 0.77, 0.8),
        haze=horizon,
        water=mix(zenith, (50, 80, 90), 0.5),
        cloud=_GREY_CLOUDS,
    )


def _sunset(*sky: Colour, ambient: Colour, cloud: tuple[Colour, Colour]) -> Light:
    return Light(
        sky=sky,
        sun=mix(sky[-1], (255, 246, 200), 0.7),
        ambient=ambient,
        haze=mix(sky[-1], sky[-2], 0.5),
        water=mix(sky[0], (20, 24, 50), 0.45),
        cloud=cloud,
    )


def _night(zenith: Colour, middle: Colour, horizon: Colour) -> Light:
    return Light(
        sky=(zenith, middle, horizon),
        sun=(252, 246, 218),
        ambient=(0.36, 0.43, 0.62),
        haze=mix(horizon, middle, 0.4),
        water=mix(zenith, (4, 14, 34), 0.5),
        cloud=_DARK_CLOUDS,
    )


_LIGHTS: Mapping[str, tuple[Light, ...]] = {
    "day": (
        _day((42, 112, 198), (112, 172, 226), (212, 232, 242), water=(20, 92, 142)),
        _day((24, 134, 196), (98, 190, 218), (224, 242, 240), water=(12, 128, 148)),
        _day((118, 170, 216), (172, 206, 228), (240, 238, 226), water=(58, 128, 152)),
        _day((26, 82, 168), (84, 148, 212), (196, 224, 242), water=(14, 70, 128)),
        _day((98, 164, 214), (176, 208, 222), (252, 230, 206), water=(40, 120, 140)),
    ),
    "grey": (
        _grey((112, 124, 138), (150, 159, 168), (194, 199, 202)),
        _grey((96, 112, 126), (140, 154, 162), (186, 196, 196)),
        _grey((134, 138, 148), (168, 170, 176), (206, 204, 202)),
    ),
    "sunset": (
        _sunset(  # violet to amber
            (58, 46, 104), (158, 72, 112), (238, 118, 86), (255, 192, 104),
            ambient=(0.62, 0.44, 0.46), cloud=((255, 150, 110), (118, 62, 104)),
        ),
        _sunset(  # teal to rose
            (74, 112, 154), (176, 140, 164), (240, 166, 150), (255, 214, 160),
            ambient=(0.7, 0.58, 0.58), cloud=((255, 186, 170), (150, 122, 152)),
        ),
        _sunset(  # gold
            (126, 104, 112), (208, 146, 92), (246, 184, 86), (255, 226, 136),
            ambient=(0.7, 0.54, 0.42), cloud=((255, 214, 150), (160, 112, 96)),
        ),
        _sunset(  # crimson
            (48, 22, 62), (132, 32, 66), (216, 68, 60), (255, 158, 72),
            ambient=(0.6, 0.42, 0.42), cloud=((240, 104, 84), (86, 30, 66)),
        ),
        _sunset(  # lavender
            (76, 76, 148), (148, 112, 172), (224, 148, 172), (255, 206, 170),
            ambient=(0.62, 0.5, 0.58), cloud=((255, 176, 178), (116, 92, 150)),
        ),
    ),
    "night": (
        _night((6, 10, 32), (14, 28, 70), (44, 66, 118)),
        _night((14, 8, 42), (36, 26, 86), (88, 62, 122)),
        _night((4, 16, 36), (10, 44, 72), (34, 90, 112)),
    ),
}  # fmt: skip


def choose_light(rng: np.random.Generator, time: str, weather: str) -> Light:
    """One of the palettes that suit the time of day ("day", "sunset", "night") and the weather."""
    overcast = time == "day" and weather in ("rain", "fog", "snowfall")
    return pick(rng, _LIGHTS["grey" if overcast else time])
