"""The whole analyzer on photos nobody trained on: which true items it finds without their boxes, and what it says of them.

    python -m tests.bench.found runs/demo/study runs/demo/scored/archive runs/demo/runs/segmentation runs/demo/runs/mtl

Of a scored run (`--find.always`) the photos are taken on which none of the training runs named was trained (some of them chose an
epoch). Items are matched to the study's truth by the overlap of their boxes (0.5), as `foodray diff` does.
"""

from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from foodray.corpus.manifest import load_study
from foodray.scoring.files import read_tables
from foodray.scoring.match import match_items
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet


def main(
    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")],
    scored: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SCORED")],
    trained: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="RUN")],
) -> None:
    """Print how many true items are found, how many found ones are true, and class and energy of those matched."""
    tables = read_tables(Store(scored))
    splits = [read_parquet(Store(run), "split.parquet").to_pylist() for run in trained]
    results = tables["image_results"].to_pandas()
    seen = {row["image_id"] for rows in splits for row in rows if row["split"] == "train"}
    known = set.intersection(*({row["image_id"] for row in rows} for rows in splits))
    unseen = (known - seen) & set(results[results["status"].isin(["ok", "ok_no_food"])]["image_id"])
    found = tables["items"].to_pandas()
    truth = load_study(study, tolerant=True).truth_items.to_pandas().rename(columns={"truth_item_id": "item_id"})
    truth = truth.assign(participant_id=None, study_day=None, capture_role=None, class_prob=1.0)
    truth, found = (frame[frame["image_id"].isin(unseen)] for frame in (truth, found))
    pairs = match_items(truth, found)
    both = pairs[pairs["side"] == "both"]
    error = np.abs(both["energy_b_kcal"].astype(float) - both["energy_a_kcal"].astype(float))
    print(f"{len(unseen)} photos that nothing was trained on, {len(truth)} true items, {len(found)} found")
    print(f"found        {len(both)} of {len(truth)} true items ({len(both) / max(1, len(truth)):.1%}); {len(both)} of {len(found)} found are true")
    print(f"class right  {(both['class_name_a'] == both['class_name_b']).mean():.1%} of the matched; segmentation alone {_of_masks(both, found):.1%}")
    print(f"energy       mean absolute error {error.mean():.1f} kcal an item matched ({error.notna().sum()} items)")
    photos = pd.DataFrame({name: frame.groupby("image_id")["energy_kcal"].sum() for name, frame in (("truth", truth), ("found", found))}).fillna(0.0)
    away = (photos["found"] - photos["truth"]).abs()
    print(f"photo        mean absolute error {away.mean():.1f} kcal, mean truth {photos['truth'].mean():.1f} kcal ({len(photos)} photos with food)")


def _of_masks(both: pd.DataFrame, found: pd.DataFrame) -> float:
    named = found.set_index("item_id")["mask_class_name"]
    return float((both["class_name_a"].to_numpy() == named.loc[both["item_id_b"]].to_numpy()).mean())


if __name__ == "__main__":
    tyro.cli(main)
