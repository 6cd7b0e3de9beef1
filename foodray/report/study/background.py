"""Sections about how the run came about: operations, what it takes to do it again, what the models are, and the reporting checklists.

All follow from run.json and from what the other sections show.
"""

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.parts import Section, Table

NOTHING = "The report was made without a scored run."


def operations(evidence: Evidence, config: ReportConfig) -> Section:
    """Throughput, submissions and retries."""
    submissions = evidence.run.get("submissions", [])
    if not submissions:
        return Section(key="operations", title="Operations", missing=NOTHING)
    rows = [
        {
            "submission": place,
            "finished_at": entry.get("finished_at"),
            "num_scored": entry.get("num_scored"),
            "seconds": entry.get("seconds"),
            "photos_per_s": entry["num_scored"] / entry["seconds"] if entry.get("seconds") else None,
        }
        for place, entry in enumerate(submissions, start=1)
    ]
    meanings = {
        "submission": "place in the order of submissions that completed",
        "finished_at": "when it ended, UTC",
        "num_scored": "photos that it scored",
        "seconds": "wall time of scoring, start of the workers included",
        "photos_per_s": "photos a second of that time",
    }
    seconds = sum(float(entry.get("seconds") or 0) for entry in submissions)
    text = [f"{sum(int(entry.get('num_scored') or 0) for entry in submissions):,} photographs were scored in {seconds:,.0f} s of wall time."]
    if config.usd_per_hour is not None:
        text.append(
            f"At the price given, {config.usd_per_hour:g} dollars an hour for the whole cluster, that is {seconds / 3600 * config.usd_per_hour:,.2f} dollars."
        )
    tables = (Table(key="submissions", title="Submissions of the run", frame=pd.DataFrame(rows), meanings=meanings),)
    return Section(key="operations", title="Operations", text=tuple(text), tables=tables)


def reproducibility(evidence: Evidence, config: ReportConfig) -> Section:
    """Identities, versions and settings: what somebody else needs to get the same tables."""
    run = evidence.run
    if not run:
        return Section(key="reproducibility", title="Reproducibility", missing=NOTHING)
    known = {
        "run": run.get("run_id"),
        "fingerprint of models, code and settings": run.get("fingerprint"),
        "hash of the manifest": run.get("manifest_sha256"),
        **{f"digest of the table {name}": digest for name, digest in run.get("digests", {}).items()},
        **{f"version of {name}": version for name, version in run.get("lineage", {}).items()},
        "seed of the report's resampling": config.seed,
    }
    known = {name: value for name, value in known.items() if value is not None}
    settings = [{"setting": name, "value": json.dumps(value)} for name, value in _flat(run.get("config", {}))]
    return Section(
        key="reproducibility",
        title="Reproducibility",
        text=(
            "Scoring is deterministic: the same bundles, code, settings and photographs give tables of the same digests, whatever the number of workers. "
            f"The settings below, as a JSON file, are the input of foodray score --config; this report was made by: {_command(evidence, config)}",
        ),
        tables=(
            Table(
                key="identities",
                title="What identifies the run",
                frame=pd.DataFrame({"what": list(known), "value": [str(value) for value in known.values()]}),
                meanings={"what": "identity", "value": "its value"},
            ),
            Table(
                key="settings",
                title="Settings of the run",
                frame=pd.DataFrame(settings, columns=["setting", "value"]),
                meanings={"setting": "name of the setting", "value": "its value, as JSON"},
                most_rows=0,
            ),
        ),
    )


def _command(evidence: Evidence, config: ReportConfig) -> str:
    given = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in _flat(_changed(config))]
    return " ".join(["foodray report RUN --out OUT", *given])


def _changed(config: ReportConfig) -> dict[str, Any]:
    """The settings that are not the defaults."""
    default = ReportConfig()
    return {name: value for name, value in vars(config).items() if value != getattr(default, name) and not hasattr(value, "__dataclass_fields__")}


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(f"{before}{name}", value)]
    return found


def model_card(evidence: Evidence, config: ReportConfig) -> Section:
    """What scored the photographs: each model's task, data, calibration and its own test."""
    models = evidence.run.get("models", [])
    if not models:
        return Section(key="models", title="Models", missing=NOTHING)
    rows, scores = [], []
    for model in models:
        data, fitted = model.get("data") or {}, model.get("calibration") or {}
        sides = data.get("num_samples") or {}
        rows.append(
            {
                "task": model.get("task"),
                "created_at": model.get("created_at"),
                "weights_sha256": model.get("weights_sha256"),
                "target": model.get("target"),
                **{f"num_{side}": sides.get(side) for side in ("train", "val", "test")},
                "interval_level": fitted.get("level"),
                "temperature": fitted.get("temperature"),
                "rendered_data": data.get("sample_data"),
            }
        )
        for side, found in (model.get("metrics") or {}).items():
            scores += [
                {"task": model.get("task"), "side": side, "metric": name, "value": value} for name, value in found.items() if isinstance(value, int | float)
            ]
    meanings = {
        "task": "family of the model",
        "created_at": "when it was made, UTC",
        "weights_sha256": "hash of its weights",
        "target": "portion that it estimates",
        "num_train": "samples it was trained on",
        "num_val": "samples that chose its epoch and calibrated it",
        "num_test": "samples of participants it never saw, on which it was tested",
        "interval_level": "nominal coverage of its intervals",
        "temperature": "what its logits are divided by before they are probabilities",
        "rendered_data": "whether it was trained on the rendered sample study",
    }
    text = (
        "Intended use: estimates for groups and for days of many participants, looked over by somebody who knows the foods. Not for advice to one person, "
        "not for foods that are not among the classes (such an item gets the likeliest known class), not for amounts outside those of training.",
        "What a photograph shows is what was served or left, not what was eaten; consumed is served less leftover where both were photographed, and otherwise "
        "rests on the assumption that the tables name.",
        "The models' own test, below, is of the participants that training set aside; the numbers of this report are of the participants of this archive.",
    )
    of_scores = {"task": "family of the model", "side": "val or test side of its training run", "metric": "name as in metrics.json", "value": "its value"}
    tables = (
        Table(key="models", title="Models of the run", frame=pd.DataFrame(rows), meanings=meanings),
        Table(
            key="model_scores", title="Scores in their own training runs", frame=pd.DataFrame(scores, columns=list(of_scores)), meanings=of_scores, most_rows=0
        ),
    )
    return Section(key="models", title="Models", text=text, tables=tables)


CHECKLISTS: tuple[tuple[str, str, str, str], ...] = (
    ("STROBE-nut", "nut-1", "design and dietary method named in the title", ""),
    ("STROBE-nut", "nut-5", "setting and time that bear on diet", ""),
    ("STROBE-nut", "nut-6", "characteristics on which people were chosen or left out", "data"),
    ("STROBE-nut", "nut-8.1", "dietary method, its parts and portion sizes", "methods"),
    ("STROBE-nut", "nut-8.2", "food composition data, and why these", ""),
    ("STROBE-nut", "nut-8.6", "validity of the dietary method", "agreement"),
    ("STROBE-nut", "nut-9", "bias in dietary assessment: misreporting, changed behaviour", "intake"),
    ("STROBE-nut", "nut-11", "how intakes were categorised", "intake"),
    ("STROBE-nut", "nut-12.3", "adjustment for error of measurement", "powered"),
    ("STROBE-nut", "nut-13", "people left out for missing or unlikely intake, with reasons", "flow"),
    ("STROBE-nut", "nut-19", "limits of the dietary method", "models"),
    ("STROBE-nut", "nut-22.2", "tables and dictionary that others can use", "dictionary"),
    ("TRIPOD+AI", "data", "where the data come from, with dates and eligibility", "data"),
    ("TRIPOD+AI", "outcome", "what is predicted, and how truth was obtained", "methods"),
    ("TRIPOD+AI", "sample size", "how many participants, meals and items", "flow"),
    ("TRIPOD+AI", "missing data", "what is missing and how it was handled", "flow"),
    ("TRIPOD+AI", "performance", "measures of discrimination and calibration with intervals", "classification"),
    ("TRIPOD+AI", "fairness", "performance in groups of people", "subgroups"),
    ("TRIPOD+AI", "availability", "code, settings and identities", "reproducibility"),
    ("CLAIM", "ground truth", "who set the truth, by what method, with what variation", "methods"),
    ("CLAIM", "partitions", "how data were divided, at which level", "data"),
    ("CLAIM", "33 flow", "flow of participants and images", "flow"),
    ("CLAIM", "34 characteristics", "participants of each partition", "data"),
    ("CLAIM", "failure analysis", "wrongly read cases", "failures"),
)
"""Checklist, item, what it asks in our words, and the section that answers it; without one the authors do. After strobe-nut.org, Collins et al. 2024
(TRIPOD+AI) and Mongan et al. 2020 (CLAIM); the wording and the full lists are theirs."""


def checklists(shown: Collection[str]) -> Section:
    """Where the report answers what three reporting guidelines ask; `shown` are the keys of the sections that have content."""
    rows = [
        {"checklist": name, "item": item, "asks": asks, "answered_by": section if section in shown else "to be completed by the authors"}
        for name, item, asks, section in CHECKLISTS
    ]
    meanings = {
        "checklist": "reporting guideline",
        "item": "its item",
        "asks": "what it asks, in our words",
        "answered_by": "section of this report, or the authors",
    }
    text = (
        "A selection of items that such a study meets, in our own words; the full lists are at strobe-nut.org, tripod-statement.org and in Mongan et al. 2020.",
    )
    return Section(
        key="checklists",
        title="Reporting checklists",
        text=text,
        tables=(Table(key="checklists", title="Items and where they are answered", frame=pd.DataFrame(rows), meanings=meanings),),
    )
