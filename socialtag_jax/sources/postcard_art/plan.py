"""What is in a postcard, and what its uploader writes under it; decided before a pixel is painted.

A plan is drawn from a table of recipes: a place, a time of day, a season, a weather and the things in the picture, each
with its probability. The content tags follow from the plan, so they are true of the picture. The uploader forgets some
of them, and adds social tags, which do not depend on the picture at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")

FORGET_RATE = 0.1
"""How often an uploader leaves out a tag that is true of the picture."""

SOCIAL_RATES: Mapping[str, float] = {
    "instagood": 0.25,
    "photooftheday": 0.20,
    "beautiful": 0.16,
    "picoftheday": 0.13,
    "happy": 0.12,
    "love": 0.10,
    "instadaily": 0.10,
    "follow": 0.09,
    "fun": 0.08,
    "friends": 0.07,
    "travel": 0.06,
    "amazing": 0.05,
    "memories": 0.04,
    "nofilter": 0.03,
    "throwback": 0.02,
}
"""How often each social tag is given, whatever the picture shows: 1.5 of them a postcard on average."""


@dataclass(frozen=True, slots=True)
class Place:
    """A backdrop: its tags, the range of its horizon's row, and how far it rises above that (fractions of the height).

    A close-up fills the frame: there is neither sky nor season.
    """

    tags: tuple[str, ...]
    horizon: tuple[float, float] = (0.4, 0.6)
    rise: tuple[float, float] = (0.0, 0.0)
    closeup: bool = False


PLACES: Mapping[str, Place] = {
    "sea": Place(("sea",), horizon=(0.36, 0.68), rise=(0.0, 0.05)),
    "beach": Place(("beach", "sea"), horizon=(0.34, 0.56), rise=(0.0, 0.05)),
    "mountains": Place(("mountains",), horizon=(0.6, 0.76), rise=(0.3, 0.45)),
    "lake": Place(("lake",), horizon=(0.46, 0.58), rise=(0.16, 0.3)),
    "park": Place(("city",), horizon=(0.66, 0.76), rise=(0.38, 0.56)),
    "riverside": Place(("city",), horizon=(0.58, 0.74), rise=(0.36, 0.5)),
    "harbour": Place(("city", "sea"), horizon=(0.52, 0.64), rise=(0.24, 0.4)),
    "street": Place(("city",), horizon=(0.72, 0.8), rise=(0.4, 0.56)),
    "firs": Place(("forest",), horizon=(0.42, 0.56), rise=(0.12, 0.24)),
    "woods": Place(("forest",), horizon=(0.56, 0.66), rise=(0.6, 0.6)),
    "meadow": Place(("meadow",), horizon=(0.4, 0.66), rise=(0.02, 0.08)),
    "desert": Place(("desert",), horizon=(0.44, 0.64), rise=(0.02, 0.1)),
    "blossom": Place((), closeup=True),
    "table": Place((), closeup=True),
}
"""Every backdrop that `painting` knows."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where and when: a place, "day", "sunset" or "night", a season, a weather; and what it is printed in."""

    place: str
    time: str
    season: str
    weather: str
    style: str


@dataclass(frozen=True, slots=True)
class Needs:
    """In which scenes a thing can be seen at all."""

    places: tuple[str, ...] = tuple(PLACES)
    times: tuple[str, ...] = ("day", "sunset", "night")
    seasons: tuple[str, ...] = ("summer", "autumn", "winter")
    weathers: tuple[str, ...] = ("clear", "clouds", "rain", "fog", "snowfall")
    styles: tuple[str, ...] = ("colour", "blackandwhite", "vintage")

    def met_by(self, scene: Scene) -> bool:
        """Whether the scene suits the thing."""
        return (
            scene.place in self.places
            and scene.time in self.times
            and scene.season in self.seasons
            and scene.weather in self.weathers
            and scene.style in self.styles
        )


_FAIR = ("clear", "clouds")
_CITIES = tuple(name for name, place in PLACES.items() if "city" in place.tags)
_WATERSIDE = ("sea", "beach", "lake", "harbour", "riverside")
_WALKABLE = tuple(name for name in PLACES if name not in ("sea", "harbour", "riverside"))
_NEEDS: Mapping[str, Needs] = {
    "sun": Needs(times=("day",), weathers=_FAIR),
    "low sun": Needs(times=("sunset",), weathers=_FAIR),
    "moon": Needs(times=("night",), weathers=_FAIR),
    "stars": Needs(times=("night",), weathers=("clear",)),
    "fireworks": Needs(times=("night",), weathers=("clear",), places=_CITIES),
    "rainbow": Needs(times=("day",), weathers=("clouds", "rain"), seasons=("summer", "autumn"), styles=("colour",)),
    "birds": Needs(times=("day", "sunset"), weathers=("clear", "clouds", "fog")),
    "balloon": Needs(times=("day", "sunset"), weathers=_FAIR),
    "parasol": Needs(times=("day", "sunset"), weathers=_FAIR, seasons=("summer",)),
    "rain umbrella": Needs(weathers=("rain",), places=_WALKABLE),
    "flowers": Needs(times=("day", "sunset"), weathers=("clear", "clouds", "fog"), seasons=("summer",)),
    "city lights": Needs(times=("night",), places=_CITIES),
    "boat": Needs(places=_WATERSIDE),
    "bridge": Needs(places=_WATERSIDE),
    "people": Needs(places=_WALKABLE),
    "car": Needs(places=("street", "meadow", "desert")),
    "snowcaps": Needs(seasons=("summer", "autumn")),
}

_THING_TAGS: Mapping[str, tuple[str, ...]] = {
    "low sun": ("sun",),
    "parasol": ("umbrella",),
    "rain umbrella": ("umbrella", "people"),
    "portrait": ("portrait", "people"),
    "window cat": ("cat", "window"),
    "bouquet": ("flowers",),
    "city lights": ("lights",),
    "mirror": ("reflection",),
    "peaks": ("mountains",),
    "cut flowers": ("flowers",),
    "snowcaps": ("snow",),
}  # Every other thing is tagged with its own name.

_STANDING = ("boat", "people", "rain umbrella", "parasol", "palm", "tree", "house", "lighthouse", "car", "dog")
"""Things that need a place of their own, most wanted first when there are too many of them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kind of postcard: weights of the choices for each part, and the probability of each thing on its own."""

    weight: float
    places: Mapping[str, float]
    things: Mapping[str, float]
    times: Mapping[str, float] = field(default_factory=lambda: {"day": 0.62, "sunset": 0.23, "night": 0.15})
    seasons: Mapping[str, float] = field(default_factory=lambda: {"summer": 1.0})
    weathers: Mapping[str, float] = field(default_factory=lambda: {"clear": 0.5, "clouds": 0.5})


_SKY: Mapping[str, float] = {
    "sun": 0.4, "low sun": 0.75, "moon": 0.8, "stars": 0.8, "rainbow": 0.11, "birds": 0.2, "balloon": 0.07,
}  # fmt: skip
_DAY: Mapping[str, float] = {"day": 1.0}
_DAYLIGHT: Mapping[str, float] = {"day": 0.7, "sunset": 0.3}
_FOUR_SEASONS: Mapping[str, float] = {"summer": 0.6, "autumn": 0.15, "winter": 0.25}

RECIPES: Mapping[str, Recipe] = {
    "sea": Recipe(
        weight=13,
        places={"sea": 1.0},
        things={**_SKY, "boat": 0.65, "birds": 0.32, "lighthouse": 0.24, "bridge": 0.07},
        weathers={"clear": 0.47, "clouds": 0.45, "rain": 0.04, "fog": 0.04},
    ),
    "beach": Recipe(
        weight=14,
        places={"beach": 1.0},
        things={**_SKY, "palm": 0.5, "people": 0.55, "parasol": 0.45, "boat": 0.25, "dog": 0.12},
    ),
    "mountains": Recipe(
        weight=12,
        places={"mountains": 1.0},
        things={**_SKY, "snowcaps": 0.4, "house": 0.25, "people": 0.27, "flowers": 0.25, "road": 0.15, "balloon": 0.12},
        seasons=_FOUR_SEASONS,
        weathers={"clear": 0.47, "clouds": 0.43, "fog": 0.1},
    ),
    "lake": Recipe(
        weight=8,
        places={"lake": 1.0},
        things={
            **_SKY, "mirror": 0.6, "peaks": 0.5, "boat": 0.45, "people": 0.25, "tree": 0.3, "house": 0.12,
            "bridge": 0.1,
        },
        seasons=_FOUR_SEASONS,
        weathers={"clear": 0.5, "clouds": 0.38, "fog": 0.12},
    ),
    "city": Recipe(
        weight=16,
        places={"park": 0.2, "riverside": 0.22, "harbour": 0.2, "street": 0.38},
        things={
            **_SKY, "city lights": 1.0, "fireworks": 0.6, "car": 0.55, "people": 0.4, "rain umbrella": 0.8,
            "bridge": 0.3, "stars": 0.3, "birds": 0.1, "boat": 0.35,
        },
        times={"day": 0.42, "sunset": 0.18, "night": 0.4},
        seasons={"summer": 0.9, "winter": 0.1},
        weathers={"clear": 0.46, "clouds": 0.36, "rain": 0.14, "fog": 0.04},
    ),
    "forest": Recipe(
        weight=5.5,
        places={"firs": 1.0},
        things={**_SKY, "people": 0.27, "house": 0.27, "road": 0.2, "flowers": 0.15},
        seasons={"summer": 0.45, "autumn": 0.33, "winter": 0.22},
        weathers={"clear": 0.48, "clouds": 0.3, "rain": 0.05, "fog": 0.17},
    ),
    "woods": Recipe(  # under the leaves, where nobody sees the sky
        weight=4,
        places={"woods": 1.0},
        things={"people": 0.35, "road": 0.35, "dog": 0.2},
        times={"day": 0.9, "night": 0.1},
        seasons={"summer": 0.42, "autumn": 0.38, "winter": 0.2},
        weathers={"clear": 0.65, "rain": 0.05, "fog": 0.3},
    ),
    "meadow": Recipe(
        weight=10,
        places={"meadow": 1.0},
        things={
            **_SKY, "flowers": 0.55, "tree": 0.5, "house": 0.35, "road": 0.2, "car": 0.15, "dog": 0.16, "people": 0.2,
            "rainbow": 0.2, "balloon": 0.15,
        },
        seasons={"summer": 0.7, "autumn": 0.15, "winter": 0.15},
        weathers={"clear": 0.4, "clouds": 0.48, "rain": 0.06, "fog": 0.06},
    ),
    "desert": Recipe(
        weight=4,
        places={"desert": 1.0},
        things={**_SKY, "road": 0.3, "car": 0.2, "people": 0.3, "balloon": 0.15},
    ),
    "blossom": Recipe(weight=6, places={"blossom": 1.0}, things={"bouquet": 1.0}, times=_DAY),
    "portrait": Recipe(
        weight=7,
        places={"beach": 0.3, "meadow": 0.25, "park": 0.25, "mountains": 0.2},
        things={"portrait": 1.0, "sun": 0.2},
        times=_DAYLIGHT,
        weathers={"clear": 1.0},
    ),
    "window cat": Recipe(
        weight=4,
        places={"park": 0.2, "riverside": 0.2, "meadow": 0.3, "sea": 0.3},
        things={"window cat": 1.0, "moon": 0.8, "city lights": 1.0},
        times={"day": 0.6, "sunset": 0.2, "night": 0.2},
        weathers={"clear": 0.8, "rain": 0.2},
    ),
    "coffee": Recipe(weight=4, places={"table": 1.0}, things={"coffee": 1.0, "cut flowers": 0.35}, times=_DAY),
}  # fmt: skip
"""The kinds of postcards."""

_STYLES: Mapping[str, float] = {"colour": 0.88, "blackandwhite": 0.07, "vintage": 0.05}
_FORMATS: Mapping[tuple[int, int], float] = {(240, 320): 0.7, (320, 240): 0.18, (240, 240): 0.12}


@dataclass(frozen=True, slots=True)
class Plan:
    """One postcard, not yet painted.

    Attributes:
      recipe: its kind.
      scene: where and when.
      things: what is in it.
      height, width: its size in pixels.
      horizon, rise: the row of the horizon, and how far the backdrop rises above it, as fractions of the height.
      visible: the content tags that are true of the picture.
      content: those of them that the uploader gave.
      social: tags that no model can see.
    """

    recipe: str
    scene: Scene
    things: tuple[str, ...]
    height: int
    width: int
    horizon: float
    rise: float
    visible: tuple[str, ...]
    content: tuple[str, ...]
    social: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """What the uploader wrote."""
        return self.content + self.social


def plan_postcard(index: int, seed: int) -> Plan:
    """Decides what postcard `index` of the data set `seed` shows and how it is tagged; takes 0.2 ms."""
    planner, uploader, _ = random_streams(index, seed)
    name = _choose(planner, {name: recipe.weight for name, recipe in RECIPES.items()})
    recipe, scene = RECIPES[name], _choose_scene(planner, RECIPES[name])
    height, width = _choose(planner, _FORMATS)
    things = _choose_things(planner, recipe, scene, room=3 if width > height else 2)
    place = PLACES[scene.place]
    horizon, rise = float(planner.uniform(*place.horizon)), float(planner.uniform(*place.rise))
    visible = _visible_tags(scene, things, open_sky=horizon - rise)
    content, social = _uploaded_tags(uploader, visible)
    return Plan(name, scene, things, height, width, horizon, rise, visible, content, social)


def random_streams(index: int, seed: int) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
    """Independent generators for the plan, the uploader and the painter of one postcard; a function of both numbers."""
    planner, uploader, painter = np.random.default_rng((seed, index)).spawn(3)
    return planner, uploader, painter


def _choose(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    options, sizes = list(weights), np.cumsum(list(weights.values()))
    return options[int(np.searchsorted(sizes, rng.random() * sizes[-1], side="right"))]


def _choose_scene(rng: np.random.Generator, recipe: Recipe) -> Scene:
    style, place = _choose(rng, _STYLES), _choose(rng, recipe.places)
    # Without colour, nobody can tell a sunset from a noon, or autumn from summer.
    untold = () if style == "colour" else ("sunset", "autumn")
    time, season, weather = (
        _choose(rng, {option: weight for option, weight in weights.items() if option not in untold})
        for weights in (recipe.times, recipe.seasons, recipe.weathers)
    )
    if season == "winter" and (weather in ("rain", "clouds") or place in ("riverside", "harbour")):
        weather = "snowfall"  # also where there is no ground for snow to lie on
    if time != "day" and weather == "fog":
        weather = "clear"  # fog in the dark leaves nothing to see
    return Scene(place, time, season, weather, style)


def _choose_things(rng: np.random.Generator, recipe: Recipe, scene: Scene, *, room: int) -> tuple[str, ...]:
    rolls = rng.random(len(recipe.things))
    wanted = [name for (name, rate), roll in zip(recipe.things.items(), rolls, strict=True) if roll < rate]
    things = [name for name in wanted if _NEEDS.get(name, Needs()).met_by(scene)]
    crowded_out = [name for name in _STANDING if name in things][room:]
    return tuple(name for name in things if name not in crowded_out)


def _visible_tags(scene: Scene, things: tuple[str, ...], *, open_sky: float) -> tuple[str, ...]:
    place = PLACES[scene.place]
    tags = list(place.tags)
    if not place.closeup:
        big_sky = scene.time == "day" and scene.weather in _FAIR and open_sky > 0.45
        tags += [scene.time] * (scene.time != "day")
        tags += {"autumn": ["autumn"], "winter": ["snow"]}.get(scene.season, [])
        tags += [scene.weather] * (scene.weather in ("clouds", "rain", "fog"))
        tags += ["sky"] * big_sky
    for thing in things:
        tags += _THING_TAGS.get(thing, (thing,))
    tags += [scene.style] * (scene.style != "colour")
    return tuple(dict.fromkeys(tags))


def _uploaded_tags(rng: np.random.Generator, visible: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    remembered = rng.random(len(visible)) >= FORGET_RATE
    content = tuple(tag for tag, kept in zip(visible, remembered, strict=True) if kept)
    given = rng.random(len(SOCIAL_RATES)) < np.fromiter(SOCIAL_RATES.values(), float)
    social = tuple(tag for tag, is_given in zip(SOCIAL_RATES, given, strict=True) if is_given)
    return content or visible[:1], social  # nobody uploads a photo without saying what it is
