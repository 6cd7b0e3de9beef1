"""Who eats what when: the photos of a sample study, before anything is rendered.

In: a `SampleConfig`. Out: one `Plan` per manifest row, and from each its `Photo`. Every plan draws from its own
generator, seeded with the study's seed and its own place in the study, so that photos can be rendered in any order.
"""

import datetime
import itertools
from dataclasses import dataclass, replace

import numpy as np

from foodray.corpus.sample.files import BROKEN, UNUSUAL, Kind
from foodray.corpus.sample.scene import Photo, after_meal, make_scene, take_photo
from foodray.corpus.schema import OCCASION_TYPES
from foodray.errors import ConfigError

FIRST_DAY = datetime.date(2024, 3, 4)
DEVICES = ("sample-phone-a", "sample-phone-b", "sample-phone-c", "sample-phone-d")
HOURS = {"breakfast": 7.5, "lunch": 12.5, "dinner": 18.5, "snack": 10.25, "drink": 15.25, "other": 21.0, "unknown": 21.0}
TURNED = (3, 6, 8, 6, 8, 2, 4, 5, 7)
"""EXIF orientations of turned photos; phones write 6 and 8, the mirrored ones come from editors."""
ODD_MEALS = ("snack", "drink", "other")
"""Occasions of the odd files, so that no planned meal is spoilt by them."""

_OCCASION, _APPETITE, _PHOTO, _SCHEDULE = range(4)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What the sample study holds."""

    seed: int = 0
    """Everything follows from it."""
    study_id: str = "sample"
    """Name of the study."""
    num_participants: int = 24
    """Participants; the last one agrees to scoring but not to training."""
    num_days: int = 2
    """Recall days of each participant."""
    meals: tuple[str, ...] = ("breakfast", "lunch", "dinner")
    """Eating occasions of each day."""
    width_px: int = 960
    """Longer side of the photos."""
    height_px: int = 720
    """Shorter side of the photos."""
    after_share: float = 0.3
    """Share of the occasions that also have an after photo."""
    tray_share: float = 0.35
    """Share of the meals on a buffet tray instead of a plate."""
    markerless_share: float = 0.05
    """Share of the photos without the fiducial marker."""
    turned_share: float = 0.3
    """Share of the photos whose pixels are stored turned, with an EXIF orientation."""
    broken: bool = True
    """Whether to add broken files and unusual formats."""

    def __post_init__(self) -> None:
        for name in ("after_share", "tray_share", "markerless_share", "turned_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a share lies between 0 and 1")
        for name, least in (("seed", 0), ("num_participants", 1), ("num_days", 1), ("width_px", 64), ("height_px", 64)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        unknown = [meal for meal in self.meals if meal not in OCCASION_TYPES]
        if unknown or not self.meals or len(set(self.meals)) < len(self.meals):
            raise ConfigError(f"meals is {self.meals}; it takes different words out of {', '.join(OCCASION_TYPES)}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One manifest row."""

    index: int
    """Place in the study; seeds the look."""
    occasion: int
    """Which occasion; before and after share it, and it seeds the meal."""
    participant: int
    """Number of the participant, from 1."""
    study_day: int
    """Recall day, from 1."""
    meal: str
    """Kind of occasion."""
    role: str = "before"
    """before or after."""
    kind: Kind = "jpeg"
    """What the row points to."""
    orientation: int = 1
    """EXIF orientation of the file."""
    captured_at: str
    """Local time, ISO 8601."""

    @property
    def participant_id(self) -> str:
        """P001 and so on."""
        return f"P{self.participant:03d}"

    @property
    def pair_id(self) -> str:
        """Name of the serving."""
        return f"{self.participant_id}-d{self.study_day}-{self.meal}" + ("" if self.kind == "jpeg" else f"-{self.kind}")

    @property
    def image_id(self) -> str:
        """Name of the photo."""
        return f"{self.pair_id}-{self.role}"

    @property
    def image_uri(self) -> str:
        """Key of the file in the study; a broken file is called .jpg like any other."""
        return f"photos/{self.image_id}.{'png' if self.kind.endswith('_png') else 'jpg'}"

    @property
    def device_model(self) -> str:
        """Phone of the participant."""
        return DEVICES[self.participant % len(DEVICES)]


def plan_photos(config: SampleConfig) -> list[Plan]:
    """Every manifest row of a study: by participant, day and meal, then the odd files."""
    rng = np.random.default_rng([config.seed, _SCHEDULE])
    people, days = range(1, config.num_participants + 1), range(1, config.num_days + 1)
    meals = list(itertools.product(people, days, config.meals))
    plans: list[Plan] = []
    for occasion, (person, day, meal) in enumerate(meals):
        moment = _time(rng, person, day, meal)
        roles = ("before", "after") if rng.random() < config.after_share else ("before",)
        for role in roles:
            orientation = int(rng.choice(TURNED)) if rng.random() < config.turned_share else 1
            plan = Plan(index=len(plans), occasion=occasion, participant=person, study_day=day, meal=meal, captured_at=moment.isoformat(timespec="seconds"))
            plans.append(replace(plan, role=role, orientation=orientation))
            moment += datetime.timedelta(minutes=int(rng.integers(10, 40)))
    return plans + (_odd_files(config, rng, first=len(plans), occasion=len(meals)) if config.broken else [])


def _odd_files(config: SampleConfig, rng: np.random.Generator, *, first: int, occasion: int) -> list[Plan]:
    """One row a broken file and unusual format, spread over the participants' first day."""
    plans = []
    for number, kind in enumerate(BROKEN + UNUSUAL):
        person, meal = number % config.num_participants + 1, ODD_MEALS[min(number // config.num_participants, len(ODD_MEALS) - 1)]
        moment = _time(rng, person, 1, meal).isoformat(timespec="seconds")
        plans.append(Plan(index=first + number, occasion=occasion + number, participant=person, study_day=1, meal=meal, kind=kind, captured_at=moment))
    return plans


def compose(config: SampleConfig, plan: Plan) -> Photo:
    """The photo of a plan, ready to render; its `marker_px_per_mm` is the truth an analysis should recover."""
    appetite = float(np.exp(np.random.default_rng([config.seed, _APPETITE, plan.participant]).normal(0, 0.15)))
    scene = make_scene(np.random.default_rng([config.seed, _OCCASION, plan.occasion]), meal=plan.meal, appetite=appetite, tray_share=config.tray_share)
    rng = np.random.default_rng([config.seed, _PHOTO, plan.index])
    if plan.role == "after":
        scene = after_meal(scene, rng)
    return take_photo(scene, rng, width_px=config.width_px, height_px=config.height_px, markerless_share=config.markerless_share)


def _time(rng: np.random.Generator, person: int, day: int, meal: str) -> datetime.datetime:
    """When a meal begins: around its hour; participants start one day after another, and recall days lie a week apart."""
    date = datetime.datetime.combine(FIRST_DAY, datetime.time()) + datetime.timedelta(days=person - 1 + 7 * (day - 1))
    return date + datetime.timedelta(seconds=int(3600 * HOURS[meal]) + int(rng.normal(0, 1500)))
