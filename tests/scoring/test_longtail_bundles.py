"""Claims about bundles of the long-tail family: every runtime says what eager says, and they are classifiers wherever a classifier is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd import LONGTAIL_LABELS, encoded, make_bundle, make_longtail, picture, write_archive

from foodray.analyzer import Analysis, Analyzer, AnalyzerConfig, GivenBox, Network, PhotoInput, load_network, make_network
from foodray.analyzer.messages import ModelsReply, PhotoReply
from foodray.corpus.photo import PhotoLimits
from foodray.corpus.samples import cut
from foodray.errors import ConfigError
from foodray.nn.runtime import TOLERANCE, quantize
from foodray.scoring.config import ScoreConfig
from foodray.scoring.run import score
from foodray.storage.store import Store
from foodray.tasks.longtail.config import Clip, SecondStage, Semantic, Separator

VIT: dict[str, Any] = {"backbone": "test_vit", "stride_px": 8}
KINDS: dict[str, dict[str, Any]] = {
    "TransFG": {**VIT, "parts": True, "contrastive": 1.0},
    "plain ViT with overlapping patches": {**VIT, "stride_px": 6},
    "CNN": {},
    "names in training": {**VIT, "semantic": Semantic(mode="second_pass", encoder="random")},
    "auxiliary head": {"frequency": "second", "second": SecondStage(epochs=1)},
    "tau-normalised": {"after": "tau_norm"},
    "adjusted": {"after": "logit_adjustment"},
    "LDAM": {"loss": "ldam"},
    "separator": {"method": "separator"},
    "separator, soft": {"method": "separator", "separator": Separator(routing="soft")},
    "CLIP": {"method": "clip", "clip": Clip(model="random")},
}
BOXES = tuple(GivenBox(box=box, item_id=f"b{place}") for place, box in enumerate([(4.0, 6.0, 36.0, 50.0), (40.0, 10.0, 30.0, 20.0)]))


@pytest.fixture(scope="module", params=KINDS)
def longtail(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of each kind."""
    return make_longtail(tmp_path_factory.mktemp("longtail") / "one", **KINDS[request.param])


def squares(network: Network, count: int, seed: int) -> dict[str, np.ndarray]:
    side = network.spec.stored_px
    return {"pixels": np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)}


def said(network: Network, count: int) -> np.ndarray:
    """Logits of some squares, all outputs side by side."""
    [outputs] = network.outputs(squares(network, count, count), 64)
    return np.concatenate([outputs[name].numpy() for name in sorted(outputs)], axis=1)


def made(location: str, runtime: Any, **more: Any) -> Network:
    return make_network(location, AnalyzerConfig(bundles=(location,), runtime=runtime), **more)


def test_openvino_says_what_eager_says_of_any_number_of_items(longtail: str) -> None:
    eager, other = (made(longtail, runtime) for runtime in ("eager", "openvino"))
    for count in (1, 3, 7):  # the example has 4
        one, two = said(eager, count), said(other, count)
        assert one.shape == two.shape
        assert np.abs(one - two).max() <= 2 * TOLERANCE["openvino"] * max(1.0, np.abs(one).max())
        columns = [network(squares(network, count, count), 2) for network in (eager, other)]
        assert columns[0]["class_name"].tolist() == columns[1]["class_name"].tolist()
        np.testing.assert_allclose(columns[0]["topk_prob"], columns[1]["topk_prob"], atol=2e-3)


@pytest.mark.parametrize("kind", ["CNN", "TransFG", "separator, soft", "CLIP"])
def test_an_int8_model_is_made_and_stays_near_eager(kind: str, tmp_path: Path) -> None:
    location = make_longtail(tmp_path / "bundle", **KINDS[kind])
    task, _, network = load_network(location)
    eager = made(location, "eager")
    model, weights = quantize(network, task.forward, [task.prepare(squares(eager, 1, seed), train=False) for seed in range(8)])
    store = Store(str(tmp_path / "int8"))
    store.write("model.xml", model)
    store.write("model.bin", weights)
    int8 = made(location, "openvino_int8", quantized=store.root)
    one, two = said(eager, 16), said(int8, 16)
    assert one.shape == two.shape
    assert 0 < np.abs(one - two).mean() < 0.25 * max(1.0, np.abs(one).mean())
    columns = int8(squares(int8, 5, 0), 2)
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(columns, 5)


def analyzer(*bundles: str, **settings: Any) -> Analyzer:
    return Analyzer.load(AnalyzerConfig(bundles=bundles, **{"runtime": "eager", **settings}))


def items(analysis: Analysis) -> list[dict[str, Any]]:
    assert analysis.items is not None, analysis.reason_detail
    return analysis.items


PHOTO = PhotoInput(data=encoded(picture(0), quality=90), boxes=BOXES)


def test_its_items_are_what_the_network_says_of_the_crops_and_never_an_untrained_class(longtail: str) -> None:
    found = items(analyzer(longtail).analyze([PHOTO])[0])
    task, card, network = load_network(longtail)
    crops, _ = cut(PHOTO.data, [given.box for given in BOXES], replace(task.spec, slack=0.0), PhotoLimits())
    with torch.inference_mode():
        expected = task.predictions(task.forward(network.eval(), task.prepare({"pixels": crops}, train=False)))
    assert [item["class_name"] for item in found] == expected["class_name"].tolist()
    assert np.allclose([item["class_prob"] for item in found], expected["class_prob"], rtol=1e-4)
    for item in found:
        names, probs = zip(*((pair["class_name"], pair["prob"]) for pair in item["topk"]), strict=True)
        assert set(names) == set(LONGTAIL_LABELS)
        assert sum(probs) == pytest.approx(1, abs=1e-5)
        assert card["config"]["method"] == "clip" or (names[-1], probs[-1]) == ("unseen", 0.0)
        assert "energy_kcal" not in item


def test_beside_a_multi_task_model_one_of_them_names_the_classes(tmp_path: Path) -> None:
    mtl, longtail = make_bundle(tmp_path / "mtl"), make_longtail(tmp_path / "longtail")
    alone = {name: items(analyzer(location).analyze([PHOTO])[0]) for name, location in (("mtl", mtl), ("longtail", longtail))}
    for place, name in enumerate(alone, 1):
        found = items(analyzer(mtl, longtail, classes_from=place).analyze([PHOTO])[0])
        assert [item["class_name"] for item in found] == [item["class_name"] for item in alone[name]]
        assert [item["energy_kcal"] for item in found] == pytest.approx([item["energy_kcal"] for item in alone["mtl"]], rel=1e-4)
    with pytest.raises(ConfigError, match="say which is used with classes_from"):
        analyzer(mtl, longtail)


def test_an_endpoint_tells_its_classes_and_answers_with_them(longtail: str) -> None:
    made = analyzer(longtail)
    models = ModelsReply.of(made.config, [network.facts for network in made.networks], None)
    assert models.class_names == list(LONGTAIL_LABELS)
    [found] = made.analyze([PHOTO])
    reply = PhotoReply.model_validate_json(PhotoReply.of(found, image_id="a").model_dump_json())
    assert reply.items is not None
    assert [label.class_name for label in reply.items[0].labels or ()] == [pair["class_name"] for pair in items(found)[0]["topk"]]


def test_an_archive_is_scored_into_tables_of_classes(ray_session: None, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=4, odd=False)
    longtail, mtl = make_longtail(tmp_path / "longtail", **KINDS["separator"]), make_bundle(tmp_path / "mtl")
    wanted = AnalyzerConfig(bundles=(longtail, mtl), classes_from=1, runtime="openvino")
    run = score(ScoreConfig(study=study.root, results=str(tmp_path / "runs"), analyzer=wanted, max_workers=1))
    table = run.tables["items"].to_pylist()
    assert len(table) == 6  # two boxes on every other photo, the others whole
    assert {row["class_name"] for row in table} <= set(LONGTAIL_LABELS[:3])
    assert all(0 < row["class_prob"] <= 1 and row["energy_kcal"] > 0 for row in table)
