"""The sample study, its truth taken for what a perfect model says: the tables give back what was eaten."""

from pathlib import Path

import pytest
from archives import MADE, column, results

from foodray.corpus.manifest import Study, load_study
from foodray.corpus.sample.plan import SampleConfig
from foodray.corpus.sample.study import generate_sample_study
from foodray.scoring.accounting import accounting
from foodray.scoring.schema import ITEM_FIELDS
from foodray.scoring.tables import study_tables
from foodray.storage.store import Store

CONFIG = SampleConfig(
    seed=1, num_participants=2, num_days=1, meals=("breakfast", "lunch", "dinner"), width_px=160, height_px=120, after_share=0.5, broken=False
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small sample study, read back as a package."""
    place = tmp_path_factory.mktemp("sample")
    generate_sample_study(Store(str(place)), CONFIG, workers=1)
    return load_study(str(Path(place)))


@pytest.mark.parametrize("by_mass", [False, True], ids=["energy", "mass"])
def test_a_perfect_model_gives_back_what_the_participants_ate(study: Study, by_mass: bool) -> None:
    """Whether it predicts energy, or mass beside the study's foods table."""
    fields = {field.name for field in ITEM_FIELDS} - ({"energy_kcal", "volume_ml"} if by_mass else {"mass_g", "volume_ml"})
    truth = study.truth_items.to_pandas()
    rows = []
    for image_id in column(study.images, "image_id"):
        items = study.truth_items.filter(truth["image_id"].eq(image_id).to_numpy()).to_pylist()
        found = [{name: value for name, value in item.items() if name in fields} for item in items]
        rows.append({**MADE, "image_id": image_id, "status": "ok" if found else "ok_no_food", "items": found})
    tables = study_tables(results(*rows), study.images, study.foods)
    accounting(tables["image_results"], study.images.num_rows)
    sums = truth.groupby(["occasion_id", "amount_basis"])["energy_kcal"].sum().unstack(fill_value=0.0)
    found_kcal = dict(zip(column(tables["occasions"], "occasion_id"), column(tables["occasions"], "consumed_kcal"), strict=True))
    assert found_kcal == pytest.approx((sums["served"] - sums["leftover"]).to_dict())
    assert set(column(tables["occasions"], "consumed_assumption")) == {"measured", "all_eaten"}
    assert all(column(tables["days"], "complete"))
    assert sum(column(tables["days"], "consumed_kcal")) == pytest.approx(float((sums["served"] - sums["leftover"]).sum()))
