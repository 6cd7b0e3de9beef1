"""Claims about exports: the files say what the bundle says, int8 is measured on photos it was not made from, and what cannot be written is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from odd import make_bundle, make_tagger
from toys import LABELS

from foodray.analyzer.export import export_bundle, find_squares
from foodray.analyzer.networks import load_network, spec_of
from foodray.cli import main
from foodray.config import to_plain
from foodray.corpus.corpus import Corpus
from foodray.corpus.cutting import cut_some
from foodray.errors import ConfigError, CorpusError, ExistsError
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask


def write_run(folder: Path, corpus: Corpus, sides: list[str]) -> str:
    """A run's folder with a bundle and the split of its samples, which takes the sides in turn; the place of the bundle."""
    torch.manual_seed(0)
    config = MtlConfig(backbone="test_resnet", weights="random", side_px=32)
    task = MtlTask(config=config, labels=LABELS, target_mean=200.0, target_std=100.0)
    card = {"task": "mtl", "config": to_plain(config), "state": task.state(), "data": {"content_sha256": corpus.info["content_sha256"]}}
    write_bundle(Store(str(folder / "bundle")), card, task.network().state_dict())
    ids = corpus.samples("item")["sample_id"].tolist()
    split = {"sample_id": ids, "split": [sides[int(name[1:3]) % len(sides)] for name in ids], "isometry": [0] * len(ids)}
    Store(str(folder)).write("split.parquet", parquet_bytes(pa.table(split)))
    return str(folder / "bundle")


@pytest.fixture(scope="module")
def location(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(tmp_path_factory.mktemp("run"), corpus, ["train", "train", "val", "test"])


@pytest.fixture(scope="module")
def exported(corpus: Corpus, location: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = Store(str(tmp_path_factory.mktemp("export") / "new"))
    main(["export", location, out.root, "--corpus", corpus.store.root])
    return out


def card_of(store: Store, name: str = "card.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(name))
    return found


def test_another_program_gets_the_bundles_answers_from_the_file_and_its_card(corpus: Corpus, location: str, exported: Store) -> None:
    """Without foodray: a session, the labels, and squares."""
    card, (task, _, network) = card_of(exported), load_network(location)
    ids = corpus.samples("item")["sample_id"][:5].tolist()
    pixels = cut_some(corpus, ids, task.spec)
    nothing = np.full(len(ids), np.nan)
    batch = task.prepare({"pixels": pixels, "extent_w_mm": nothing, "extent_h_mm": nothing}, train=False)
    wanted = task.predictions(task.forward(network.eval().requires_grad_(False), batch))
    session = onnxruntime.InferenceSession(exported.read("model.onnx"), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == list(card["inputs"]) == ["image"]
    names = ["prob_BC", "energy_kcal"]
    prob_BC, energy_B = session.run(names, {"image": batch["image"].numpy()})
    assert [card["labels"][index] for index in prob_BC.argmax(1)] == wanted["class_name"].tolist()
    np.testing.assert_allclose(prob_BC.max(1), wanted["class_prob"], rtol=1e-4)
    np.testing.assert_allclose(energy_B, wanted["energy_kcal"], rtol=1e-4)
    assert card["outputs"]["energy_kcal"] == {"dtype": "float32", "shape": ["batch"], "means": "the portion, kcal"}
    assert card["square"] == {"of": "the item's box", "side_px": 32, "margin": 0.1, "color": "as_is"}


def test_the_card_names_the_bytes_of_the_files_and_the_bundle(location: str, exported: Store) -> None:
    card = card_of(exported)
    assert card["sha256"] == {name: hashlib.sha256(exported.read(name)).hexdigest() for name in ("model.onnx", "model_int8.onnx")}
    assert card["bundle"]["card_sha256"] == card_of(Store(location), "bundle.json")["card_sha256"]
    assert exported.list() == ["card.json", "export.json", "model.onnx", "model_int8.onnx"]


def test_what_was_measured_is_told_with_its_conditions(exported: Store) -> None:
    facts = card_of(exported, "export.json")
    assert facts["num_bytes"] == {name: len(exported.read(name)) for name in ("model.onnx", "model_int8.onnx")}
    assert facts["num_bytes"]["model_int8.onnx"] < 0.5 * facts["num_bytes"]["model.onnx"]
    assert 0 <= facts["difference_to_eager"] < 1e-3
    names = ["eager", "model.onnx", "model_int8.onnx"]
    assert list(facts["latency"]["median_ms"]) == list(facts["latency"]["times_as_fast_as_eager"]) == names
    assert facts["latency"]["times_as_fast_as_eager"]["eager"] == 1
    near = facts["int8"]
    assert near["class_name_agreement"] > 0.7
    assert near["class_prob_difference"] < 0.1
    assert near["energy_kcal_difference"] < 0.2
    assert (near["num_ranges"], near["num_measured"], near["sides"]) == (40, 20, ["train", "test"])


def test_every_version_is_compared_with_another_bundle_on_the_same_photos(
    corpus: Corpus, location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", location, str(tmp_path / "out"), "--corpus", corpus.store.root, "--against", location])
    found = card_of(Store(str(tmp_path / "out")), "export.json")["against"]
    assert found["agreement"]["eager"] == {"class_name_agreement": 1, "class_prob_difference": 0, "energy_kcal_difference": 0}  # it is itself
    assert found["agreement"]["model_int8.onnx"]["class_name_agreement"] > 0.7
    assert list(found["times_as_fast"]) == ["eager", "model.onnx", "model_int8.onnx"]
    assert found["bundle_id"] == card_of(Store(location), "bundle.json")["card_sha256"]
    assert "1.00 times the parameters" in capsys.readouterr().out


def test_a_bundle_of_other_classes_is_no_measure(location: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compare with a bundle of the same family and names"):
        export_bundle(location, Store(str(tmp_path / "out")), against=make_tagger(tmp_path / "tagger"))


def photos_of(pixels: np.ndarray, corpus: Corpus, task: Any) -> set[str]:
    """The photos that squares were cut from."""
    ids = corpus.samples("item")["sample_id"].tolist()
    of_square = {square.tobytes(): name[:3] for square, name in zip(cut_some(corpus, ids, spec_of(task)), ids, strict=True)}
    return {of_square[square.tobytes()] for square in pixels}


def test_squares_are_of_the_runs_training_side_and_of_its_test_side(corpus: Corpus, location: str) -> None:
    task, card, _ = load_network(location)
    found = find_squares(location, card, task, corpus)
    for rows, sides in ((found.ranges, [0, 1]), (found.measured, [3])):
        assert photos_of(rows["pixels"], corpus, task) == {f"p{photo:02d}" for photo in range(40) if photo % 4 in sides}


def test_without_the_runs_split_no_photo_is_in_both_parts(corpus: Corpus, tmp_path: Path) -> None:
    location = make_bundle(tmp_path / "bundle")
    task, card, _ = load_network(location)
    found = find_squares(location, card, task, corpus)
    assert found.sides == ("all", "all")
    assert not photos_of(found.ranges["pixels"], corpus, task) & photos_of(found.measured["pixels"], corpus, task)


def test_a_split_that_shows_every_photo_to_training_leaves_none_to_measure_on(corpus: Corpus, tmp_path: Path) -> None:
    """As a leaky one may: one item of a photo on one side and the other on the other."""
    location = write_run(tmp_path, corpus, ["train"])
    ids = corpus.samples("item")["sample_id"].tolist()
    split = pa.table({"sample_id": ids, "split": ["train" if name.endswith("0") else "test" for name in ids], "isometry": [0] * len(ids)})
    Store(str(tmp_path)).write("split.parquet", parquet_bytes(split), replace=True)
    task, card, _ = load_network(location)
    with pytest.raises(CorpusError, match="another to measure it on"):
        find_squares(location, card, task, corpus)


def test_a_corpus_gives_a_tagger_whole_photos(corpus: Corpus, tmp_path: Path) -> None:
    facts = export_bundle(make_tagger(tmp_path / "bundle"), Store(str(tmp_path / "new")), corpus)
    assert facts["int8"]["tags_agreement"] > 0.7
    assert facts["int8"]["num_ranges"] + facts["int8"]["num_measured"] == 40
    card = card_of(Store(str(tmp_path / "new")))
    assert card["thresholds"] == [0.5] * 4
    assert card["square"]["of"] == "the whole photo"


def test_without_a_corpus_there_is_no_int8_and_the_command_says_so(location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", location, str(tmp_path / "new")])
    assert "no int8 version was made: it needs photos, --corpus CORPUS" in capsys.readouterr().out
    assert Store(str(tmp_path / "new")).list() == ["card.json", "export.json", "model.onnx"]


def test_a_family_of_maps_is_refused_in_words(tmp_path: Path) -> None:
    config = SegmentationConfig(side_px=64)
    task = SegmentationTask(config=config, labels=LABELS, class_weights=(1.0,) * 4, encoder_class_weights=(1.0,) * 4)
    write_bundle(Store(str(tmp_path / "bundle")), {"task": task.name, "config": to_plain(config), "state": task.state()}, task.network().state_dict())
    with pytest.raises(ConfigError, match="gives maps; foodray export writes networks that name foods or tags"):
        export_bundle(str(tmp_path / "bundle"), Store(str(tmp_path / "new")))


def test_nothing_that_is_there_is_replaced(location: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExistsError, match="is not empty"):
        export_bundle(location, Store(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
