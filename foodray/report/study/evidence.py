"""What the report speaks of, as frames: photos and items of a run, linked to truth, summed the same way on both sides.

In: a run's tables, and as far as there are any truth, participants, estimates of people and a second run. Out: `Evidence`. Sections read nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from foodray.corpus.manifest import Study

KEYS = {"occasion": ["participant_id", "study_day", "occasion_id"], "day": ["participant_id", "study_day"]}
"""What tells apart the rows of a level."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Frames of a report. Participants are labels that say nothing about people unless the report shows ids."""

    photos: pd.DataFrame
    """One row a row of image_results: image_id, participant_id, study_day, occasion_id, occasion_type, capture_role, status, reason_code, format,
    width_px, height_px, num_bytes, phash, marker_found, marker_px_per_mm, color_delta_e, num_items, energy_kcal; from the manifest, where it is given,
    site_id, device_model, captured_at; `seen`: the side (train, val) on which a model of the run learnt from this participant, else None."""
    items: pd.DataFrame
    """One row an item of the run or of the truth: item_id and truth_item_id (either may be None), `link` (given_id, overlap, None) and `left_out`, why it
    is in no comparison (None where it is); image_id, participant_id, study_day, occasion_id, occasion_type, capture_role, box_source; class_name,
    class_prob, topk (list of {class_name, prob}), truth_class_name; `predicted`, `low`, `high`, `interval_level`, `truth` in the target's unit;
    bbox_x, bbox_y, bbox_w, bbox_h of the run's item; energy_kcal of the run's item."""
    pairs: Mapping[str, pd.DataFrame]
    """By level (item, occasion, day) the rows that are compared: participant_id, study_day, occasion_id, `truth`, `predicted`, `low`, `high`,
    `interval_level` (nan where the run has none), and at item level class_name, truth_class_name, image_id, item_id. Empty frames without truth."""
    occasions: pd.DataFrame
    """The run's occasions, its columns as in the study tables."""
    days: pd.DataFrame
    """The run's days, its columns as in the study tables."""
    participants: pd.DataFrame
    """participant_id, sex, age_years, height_cm, weight_kg, pal, arm, site_id; no rows where the study brings none."""
    estimates: pd.DataFrame
    """Estimates of further raters (people, dietitians, an imported language model): rater_id, rater_role, level, participant_id, study_day, occasion_id,
    truth_item_id, `predicted`, `truth`; those of the target, matched to truth. The models' own are in `pairs`."""
    run: Mapping[str, Any]
    """run.json of the run; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What a reader must know about how the frames came about: whether it is known which participants a model saw, how many rows could not be linked."""
    is_sample: bool = False
    """Whether the study is the rendered sample study: no number of it is a result."""
    keys: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Label to participant_id, for `restricted/`."""
    study: Study | None = None
    """The study that was scored, for its photos; None where it cannot be read."""
    against: "Evidence | None" = None
    """Another run on the same study, with the same labels."""
