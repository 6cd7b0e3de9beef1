"""The whole report: evidence in, sections in the order of a paper, and the header that stands above them."""

import datetime
import logging
from collections.abc import Callable

import pandas as pd
from PIL import Image

from foodray.corpus.photo import decode
from foodray.errors import FoodrayError
from foodray.report.study.agreement import agreement_section
from foodray.report.study.background import checklists, model_card, operations, reproducibility
from foodray.report.study.change import change_section
from foodray.report.study.classification import classification_section
from foodray.report.study.config import ReportConfig
from foodray.report.study.description import data_section
from foodray.report.study.evidence import Evidence
from foodray.report.study.failures import failures_section
from foodray.report.study.flow import flow_section
from foodray.report.study.gather import Sources, gather
from foodray.report.study.intake import intake_section
from foodray.report.study.methods import dictionary_section, methods_section
from foodray.report.study.page import Header
from foodray.report.study.parts import Number, Section
from foodray.report.study.portion import portion_section
from foodray.report.study.raters import raters_section
from foodray.report.study.study_mean import review_list, study_mean_section
from foodray.report.study.subgroups import subgroups_section
from foodray.report.study.uncertainty import uncertainty_section
from foodray.report.study.write import Report

log = logging.getLogger(__name__)
HEADLINES = (
    *("top1", "top5", "ece_width", "item_mae_{end}", "item_bias_{end}", "item_ep", "occasion_mae_{end}", "occasion_ep", "day_mae_{end}", "day_ep", "day_icc"),
    *(
        "day_lower_{end}",
        "day_upper_{end}",
        "occasion_icc",
        "occasion_lower_{end}",
        "occasion_upper_{end}",
        "day_powered_{end}",
        "occasion_powered_{end}",
        "mean_day_kcal",
    ),
)
"""Numbers of the summary box, as far as they are there."""


def make_report(sources: Sources, config: ReportConfig, *, today: datetime.date | None = None) -> Report:
    """The report of a run, or of people's estimates alone. Raises what `gather` raises."""
    evidence = gather(sources, config)
    sections = _of_run(evidence, config) if evidence.run else [raters_section(evidence, config)]
    sections.append(methods_section(evidence, sections, config))
    if evidence.run:
        sections.append(checklists({*(section.key for section in sections if not section.missing), "dictionary"}))
    sections.append(dictionary_section(sections))
    return Report(header=_header(evidence, sections, config, today), sections=tuple(sections), config=config, restricted=_restricted(evidence, config))


def _of_run(evidence: Evidence, config: ReportConfig) -> list[Section]:
    """The sections that speak of a run."""
    of_run = [flow_section, data_section] if len(evidence.photos) else []
    compared = [classification_section, portion_section, agreement_section, uncertainty_section, study_mean_section]
    sections = [make(evidence, config) for make in (*of_run, *compared, intake_section, raters_section, subgroups_section)]
    sections += [failures_section(evidence, config, _reader(evidence)), change_section(evidence, config)]
    return [*sections, operations(evidence, config), model_card(evidence, config), reproducibility(evidence, config)]


def _header(evidence: Evidence, sections: list[Section], config: ReportConfig, today: datetime.date | None) -> Header:
    run = evidence.run
    facts = [
        ("study", str(run.get("study", "")).rstrip("/").rpartition("/")[2]),
        ("run", str(run.get("run_id", ""))),
        ("models", ", ".join(str(model.get("task")) for model in run.get("models", []))),
        ("code", f"foodray {run.get('lineage', {}).get('foodray', '')}".strip() if run else ""),
        ("manifest", str(run.get("manifest_sha256", ""))[:12]),
        ("target", f"{config.target.removesuffix('_' + config.end)} in {config.unit}"),
        ("date", (today or datetime.datetime.now(datetime.UTC).date()).isoformat()),
    ]
    return Header(
        title="Study report" if run else "Raters against the truth",
        lead=_lead(evidence, config),
        facts=tuple((name, value) for name, value in facts if value),
        headlines=tuple(_headlines(sections, config)),
        notes=evidence.notes,
        is_sample=evidence.is_sample,
    )


def _lead(evidence: Evidence, config: ReportConfig) -> str:
    if not evidence.run:
        return "Estimates of people beside the truth; no model and no photograph is part of this report."
    eaten = int((evidence.occasions["consumed_assumption"] == "all_eaten").sum()) if len(evidence.occasions) else 0
    meals = (
        f" Of {len(evidence.occasions):,} meals {eaten:,} have no photograph after the meal and are taken as eaten whole: for them served stands for eaten."
        if eaten
        else ""
    )
    return f"What the models read in the photographs, and how far it can be relied on.{meals}"


def _headlines(sections: list[Section], config: ReportConfig) -> list[Number]:
    told = [number for section in sections for number in section.numbers]
    found = {number.key: number for number in told}
    assert len(found) == len(told), "two numbers of one name"
    keys = [key.format(end=config.end) for key in HEADLINES]
    if not any(key in found for key in keys):
        keys = [key for key in found if "_mae_" in key or key.endswith("_ep")]
    return [found[key] for key in keys if key in found and not _all_coded(found[key], found)]


def _all_coded(one: Number, found: dict[str, Number]) -> bool:
    """Whether it is a corrected mean that is that of the truths, as all rows are coded: no headline then."""
    return "_powered_" in one.key and one.interval.num_items == found[one.key.replace("powered", "truths")].interval.num_items


def _reader(evidence: Evidence) -> Callable[[str], Image.Image | None]:
    """Reads a photo of the scored study by its id or label, through the project's one decoder; None where it cannot be had."""
    ids, study = _photo_ids(evidence), evidence.study
    if study is None:
        return lambda image_id: None
    wanted = set(evidence.pairs["item"]["image_id"].map(lambda label: ids.get(label, label)))
    table = study.images.select(["image_id", "image_uri"]).to_pandas()
    places = dict(table[table["image_id"].isin(wanted)].itertuples(index=False, name=None))

    def read(image_id: str) -> Image.Image | None:
        try:
            data = study.photos.read(places[ids.get(image_id, image_id)])
            return Image.fromarray(decode(data).rgb_HW3)
        except (KeyError, FoodrayError, OSError) as error:
            log.info("a photo for the gallery could not be read: %s", type(error).__name__)
            return None

    return read


def _photo_ids(evidence: Evidence) -> dict[str, str]:
    """Label to id of photos; none where the report shows ids."""
    keys = evidence.keys
    return dict(keys.loc[keys["kind"] == "photo", ["label", "id"]].itertuples(index=False, name=None)) if len(keys) else {}


def _restricted(evidence: Evidence, config: ReportConfig) -> dict[str, pd.DataFrame]:
    """Who is who, and which photos to review, with their real ids."""
    review = review_list(evidence, config)
    if len(evidence.keys):
        review = review.assign(label=review["image_id"], image_id=review["image_id"].map(_photo_ids(evidence)))
    found = {"review": review} if config.num_review and len(review) else {}
    return found | ({"keys": evidence.keys} if len(evidence.keys) else {})
