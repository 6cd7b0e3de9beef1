"""What a report is asked to do: every bound and cut-off is an input here, and the page prints it."""

from dataclasses import dataclass, field
from typing import Literal

from foodray.errors import ConfigError

UNITS = {"energy_kcal": "kcal", "mass_g": "g", "volume_ml": "mL"}
"""What a portion may be measured as, with its unit."""


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Limits beyond which a day or an item is flagged, after Intake24's guidance on cleaning; a flag removes nothing."""

    min_day_kcal: float = 400.0
    """Days below are flagged."""
    max_day_kcal: float = 4_000.0
    """Days above are flagged."""
    min_day_items: int = 10
    """Days with fewer items are flagged."""
    max_item_kcal: float = 2_000.0
    """Items above are flagged."""


@dataclass(frozen=True, kw_only=True)
class GoldbergConfig:
    """Goldberg's cut-offs for the ratio of energy intake to basal metabolic rate (Black 2000)."""

    pal: float = 1.55
    """Physical activity level where a participant has none of their own."""
    cv_intake_percent: float = 23.0
    """Within-person variation of daily intake."""
    cv_bmr_percent: float = 8.5
    """Error of predicted basal metabolic rate."""
    cv_pal_percent: float = 15.0
    """Variation of physical activity between people."""
    num_sd: float = 2.0
    """Width of the band in standard deviations; 2 is about 95 %."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `foodray report`."""

    target: Literal["energy_kcal", "mass_g", "volume_ml"] = "energy_kcal"
    """Portion that is compared with truth."""
    confidence: float = 0.95
    """Nominal coverage of the report's intervals."""
    num_resamples: int = 1_999
    """Bootstrap draws of participants."""
    seed: int = 0
    """Of the draws."""
    equivalence_bound_percent: float = 10.0
    """Bound of the equivalence test, in % of the mean truth; decide on it before you see the data."""
    min_cell: int = 5
    """Groups of fewer participants are not told apart."""
    include_seen: bool = False
    """Whether photos of participants that a model was trained or calibrated on count as well; their errors are too small."""
    show_ids: bool = False
    """Whether participant and photo ids stand in the report; by default participants are numbered, and only `restricted/` tells who is who."""
    num_failures: int = 24
    """Crops of the worst items that are shown."""
    num_review: int = 200
    """Photos in the list of those most worth a dietitian's review."""
    days_expected: int | None = None
    """Study days that every participant should have; by default the largest that is seen."""
    usd_per_hour: float | None = None
    """Price of the cluster, for the cost of scoring."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Flags of unlikely days and items."""
    goldberg: GoldbergConfig = field(default_factory=GoldbergConfig)
    """Misreporting of energy."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; it must be at least 0.5 and below 1")
        if not self.equivalence_bound_percent > 0:
            raise ConfigError(f"equivalence_bound_percent is {self.equivalence_bound_percent}; it must be above 0")
        for name, least in (
            ("num_resamples", 199),
            ("min_cell", 1),
            ("num_failures", 0),
            ("num_review", 0),
            ("seed", 0),
            ("days_expected", 1),
            ("usd_per_hour", 0),
        ):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def end(self) -> str:
        """What names of columns in the target's unit end with: kcal, g or ml."""
        return self.target.rpartition("_")[2]

    @property
    def unit(self) -> str:
        """Unit of the target."""
        return UNITS[self.target]
