"""The sections `methods` and `dictionary`: a paragraph to copy, with the formulas that were used, and what each column of each table means."""

import pandas as pd

from foodray.report.statistics.review import METHOD as REVIEW_METHOD
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.parts import Section, Table
from foodray.report.study.words import percent

TRUTH = {
    "weighed": "weighed",
    "weigh_back": "weighed before and after",
    "recipe": "calculated from recipes",
    "dietitian_visual": "coded by dietitians",
    "recall": "recalled",
    "label": "read from labels",
}


def methods_section(evidence: Evidence, sections: list[Section], config: ReportConfig) -> Section:
    """The section; formulas are those of the numbers that `sections` show, each once."""
    used: dict[str, str] = {}
    for section in sections:
        for one in section.numbers:
            used.setdefault(one.method.partition(". ")[0], one.title.partition(", by ")[0])
    frame = pd.DataFrame({"number": list(used.values()), "how": list(used)})
    meanings = {"number": "what is told", "how": "how it is made"}
    table = Table(key="formulas", title="How each number is made", frame=frame, meanings=meanings, most_rows=0)
    return Section(key="methods", title="Methods", text=_paragraphs(evidence, config), tables=(table,))


def _paragraphs(evidence: Evidence, config: ReportConfig) -> tuple[str, ...]:
    text = [_of_scoring(evidence)] if evidence.run else []
    methods = evidence.items.loc[evidence.items["left_out"].isna(), "truth_method"].dropna() if len(evidence.items) else pd.Series(dtype=object)
    if len(methods):
        told = ", ".join(f"{TRUTH.get(str(name), name)} ({num:,} items)" for name, num in methods.value_counts().items())
        text.append(
            f"True amounts were {told}. Items of the run were linked to true ones by the identity of their box, else by overlap (intersection over union of "
            "at least one half, largest first), else where a photograph shows a single item. True amounts were summed to meals and days exactly as the scores."
        )
    if evidence.run:
        text.append(_of_intervals(config))
    if len(evidence.estimates):
        text.append(
            f"Estimates of further raters were compared with the same truths. Intervals of {percent(config.confidence)} draw raters and what they rated "
            f"independently of each other ({config.num_resamples:,} draws, seed {config.seed}). No correction was made for the number of comparisons."
        )
    if evidence.run:
        text.append(f"Photographs were ranked for review by: {REVIEW_METHOD}.")
    return tuple(text)


def _of_intervals(config: ReportConfig) -> str:
    seen = "kept in" if config.include_seen else "left out of every comparison with truth"
    return (
        f"Intervals are of {percent(config.confidence)} and take the participant as the unit: they are drawn with replacement ({config.num_resamples:,} "
        f"draws, fewer where rows are many, seed {config.seed}), never items, for items of one person resemble each other. Groups of fewer than "
        f"{config.min_cell} participants are not told apart. Participants on whom a model was trained or calibrated were {seen}. Equivalence was tested with "
        f"two one-sided tests within {config.equivalence_bound_percent:g} % of the mean truth. No correction was made for the number of comparisons."
    )


def _of_scoring(evidence: Evidence) -> str:
    photos, run = evidence.photos, evidence.run
    models = ", ".join(f"{model.get('task')} (weights {str(model.get('weights_sha256'))[:12]})" for model in run.get("models", []))
    version = run.get("lineage", {}).get("foodray", "")
    return (
        f"Photographs ({len(photos):,} of {photos['participant_id'].nunique():,} participants) were scored with foodray "
        f"{version}{f' using the models {models}' if models else ''}. Each photograph was scored once or quarantined with a reason. Energy of a meal is "
        "that of photographs before it, views of one serving averaged, less that of photographs after it; where no photograph was taken after a meal all "
        "was taken as eaten. Days and meals count as complete where every photograph was scored and every item has an energy."
    )


def dictionary_section(sections: list[Section]) -> Section:
    """What each column of each table means."""
    rows = [(table.key, str(name), table.meanings.get(str(name), "")) for section in sections for table in section.tables for name in table.frame.columns]
    meanings = {"table": "CSV file without its end", "column": "name of the column", "meaning": "what it holds"}
    frame = pd.DataFrame(rows, columns=list(meanings))
    text = (
        "Every table is a CSV file in tables/; units end the names, shares are 0 to 1. The study tables of the run have a dictionary of their own beside them.",
    )
    table = Table(key="columns", title="Columns of the tables", frame=frame, meanings=meanings, most_rows=0)
    return Section(key="dictionary", title="Data dictionary", text=text, tables=(table,))
