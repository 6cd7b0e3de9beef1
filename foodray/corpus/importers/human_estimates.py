"""The calorie quiz of 20 foods (2,023 laypeople and 5 nutritionists) as a package of truth: people as raters beside a model.

In: the folder as published (`questions.csv`, `responses.csv`). Out: one truth item a food with its energy and mass, one estimate a rater and
answered food, no photos. A food stands alone, so it is its own occasion. The ids of the experts begin again at 1, so a rater's id names the role.
"""

import csv
import io
import logging
import math
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from foodray.corpus.importers import ImportSummary, listed
from foodray.corpus.manifest import write_study
from foodray.corpus.schema import PARTICIPANT_ESTIMATES, TRUTH_ITEMS, arrow_schema
from foodray.errors import CorpusError
from foodray.storage.store import Store

log = logging.getLogger(__name__)

QUESTIONS, RESPONSES = "questions.csv", "responses.csv"
ROLES = {"nonexpert": "participant", "expert": "dietitian"}
"""The quiz's word for a rater, and ours."""
OWN = ("id", "conf", "age", "gender", "bmi", "expert")
"""Columns of the responses that are no answers."""
ODDITIES = {
    "answers_missing": "answers are NA or empty",
    "answers_unreadable": "answers are no finite number of at least 0",
    "rows_without_rater": "rows of responses.csv have no id or no known role, among them the empty last row of the published file",
    "raters_without_answer": "raters answered nothing",
}
"""What is left out, with its meaning."""
NOT_TAKEN = "age band, gender, BMI and confidence of the raters are not taken over"


def import_human_estimates(source: str, store: Store) -> ImportSummary:
    """Write the quiz as a package of truth and account for every answer.

    Raises `CorpusError` when a file is missing, has other columns than published or names a food twice, and `ExistsError` when the place is taken.
    """
    layout = Store(source)
    items = _items(_rows(layout, QUESTIONS, ("label", "calGold", "gGold")))
    answers = tuple(f"q{number}" for number in range(1, len(items) + 1))
    responses = _rows(layout, RESPONSES, (*OWN, *answers))
    odd: Counter[str] = Counter(dict.fromkeys(ODDITIES, 0))
    estimates: list[dict[str, Any]] = []
    raters: Counter[str] = Counter(dict.fromkeys(ROLES.values(), 0))
    for row in responses:
        _add_rater(row, items, estimates, raters, odd)
    summary = _summary(items, estimates, raters, odd)
    info: dict[str, object] = {"name": PurePosixPath(layout.root).name, "importer": "human-estimates", "counts": summary.counts, "notes": summary.notes}
    tables = [pa.Table.from_pylist(rows, schema=arrow_schema(columns)) for rows, columns in ((items, TRUTH_ITEMS), (estimates, PARTICIPANT_ESTIMATES))]
    write_study(store, images=None, truth_items=tables[0], participant_estimates=tables[1], info=info)
    return summary


def _rows(layout: Store, file: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not layout.exists(file):
        raise CorpusError(f"{layout.root} has no {file}; the quiz is the two files {QUESTIONS} and {RESPONSES}")
    reader = csv.DictReader(io.StringIO(layout.read(file).decode("utf-8-sig"), newline=""), restval="", restkey="")
    rows = list(reader)
    absent = [name for name in columns if name not in (reader.fieldnames or ())]
    if absent:
        raise CorpusError(f"{layout.root}/{file} has no column {listed(absent)}; it is not the file as published")
    return rows


def _items(questions: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The foods in the order of their questions: energy in kcal, mass in g."""
    items = []
    for line, row in enumerate(questions, start=2):
        energy_kcal, mass_g = _amount(row["calGold"]), _amount(row["gGold"])
        if energy_kcal is None or mass_g is None:
            raise CorpusError(f"{QUESTIONS} line {line}: {row['label']!r} has calGold {row['calGold']!r} and gGold {row['gGold']!r}; both have to be numbers")
        slug = re.sub(r"[^a-z0-9]+", "-", row["label"].lower()).strip("-")
        amounts = {"energy_kcal": energy_kcal, "mass_g": mass_g, "amount_basis": "served"}
        items.append({"truth_item_id": slug, "occasion_id": slug, "class_name": row["label"], **amounts})
    repeated = [slug for slug, count in Counter(str(item["truth_item_id"]) for item in items).items() if count > 1 or not slug]
    if repeated or not items:
        raise CorpusError(f"{QUESTIONS} has {len(items)} foods, named twice or not at all: {listed(repeated) or 'none'}; each needs a name of its own")
    return items


def _add_rater(row: dict[str, str], items: list[dict[str, Any]], estimates: list[dict[str, Any]], raters: Counter[str], odd: Counter[str]) -> None:
    role = ROLES.get(row["expert"])
    if role is None or not row["id"].strip():
        odd["rows_without_rater"] += 1
        return
    rater_id, before = f"{row['expert']}-{row['id'].strip()}", len(estimates)
    for number, item in enumerate(items, start=1):
        text = row[f"q{number}"].strip()
        energy_kcal = _amount(text)
        if energy_kcal is None:
            odd["answers_missing" if text in ("", "NA") else "answers_unreadable"] += 1
            continue
        keys = {"rater_id": rater_id, "rater_role": role, "level": "item", "truth_item_id": item["truth_item_id"], "occasion_id": item["occasion_id"]}
        estimates.append({"estimate_id": f"{rater_id}-{number}", **keys, "energy_kcal": energy_kcal})
    raters[role] += 1
    odd["raters_without_answer"] += len(estimates) == before


def _amount(text: str) -> float | None:
    """A finite number of at least 0, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _summary(items: list[dict[str, Any]], estimates: list[dict[str, Any]], raters: Counter[str], odd: Counter[str]) -> ImportSummary:
    counts = {"items": len(items), "estimates": len(estimates), **{f"raters_{role}": count for role, count in raters.items()}, **odd}
    notes = [f"{odd[kind]} {meaning}" for kind, meaning in ODDITIES.items() if odd[kind]] + [NOT_TAKEN]
    for note in notes:
        log.info("%s", note)
    return ImportSummary(counts=counts, notes=notes)
