"""Claims about the analyzer: what scoring and serving say of a photo is what the trained network says of its crops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd import encoded, make_bundle, picture
from PIL import Image
from torch import Tensor

from foodray.analyzer import Analysis, Analyzer, AnalyzerConfig, GivenBox, PhotoInput
from foodray.analyzer.steps import Steps
from foodray.corpus import nvjpeg
from foodray.corpus.marker import Marker, apply_color
from foodray.corpus.photo import PhotoLimits
from foodray.corpus.samples import cut
from foodray.errors import BundleError, ConfigError
from foodray.nn.runtime import TOLERANCE
from foodray.storage.bundle import read_bundle
from foodray.tasks import task_of

BOXES = ((4.0, 6.0, 36.0, 50.0), (40.0, 10.0, 30.0, 20.0), (0.0, 0.0, 96.0, 72.0))


def analyzer(*bundles: str, **settings: Any) -> Analyzer:
    return Analyzer.load(AnalyzerConfig(bundles=bundles, **{"runtime": "eager", **settings}))


def photo(seed: int, boxes: tuple[tuple[float, float, float, float], ...] = BOXES, **more: Any) -> PhotoInput:
    given = tuple(GivenBox(box=box, item_id=f"item-{index}") for index, box in enumerate(boxes))
    return PhotoInput(data=encoded(picture(seed), quality=90), boxes=given, **more)


def items(analysis: Analysis) -> list[dict[str, Any]]:
    assert analysis.items is not None, analysis.reason_detail
    return analysis.items


def test_items_are_what_the_network_says_of_the_crops_that_training_sees(bundle: str) -> None:
    found = items(analyzer(bundle).analyze([photo(0)])[0])
    loaded = read_bundle(bundle)
    task = task_of(loaded.card)
    network = task.network(weights="random")
    network.load_state_dict(dict(loaded.weights))
    squares, _ = cut(photo(0).data, BOXES, task.spec, PhotoLimits())
    unknown = np.full(3, np.nan)
    batch = task.prepare({"pixels": squares, "extent_w_mm": unknown, "extent_h_mm": unknown}, train=False)
    with torch.inference_mode():
        expected = task.predictions(task.forward(network.eval(), batch))
    assert [item["class_name"] for item in found] == expected["class_name"].tolist()
    for name in ("class_prob", "energy_kcal", "energy_lo_kcal", "energy_hi_kcal"):
        assert np.allclose([item[name] for item in found], expected[name], rtol=1e-4), name
    assert [item["given_item_id"] for item in found] == ["item-0", "item-1", "item-2"]
    assert [[pair["class_name"] for pair in item["topk"]] for item in found] == expected["topk_class_name"].tolist()
    assert all(item["energy_lo_kcal"] < item["energy_kcal"] < item["energy_hi_kcal"] for item in found)


def test_without_boxes_the_whole_photo_is_one_item_and_says_so(bundle: str) -> None:
    (item,) = items(analyzer(bundle).analyze([PhotoInput(data=photo(0).data)])[0])
    assert (item["box_source"], item["bbox_w"]) == ("whole_photo", None)
    assert "whole_photo" in item["flags"]


def test_what_is_said_of_a_photo_does_not_depend_on_its_company(bundle: str) -> None:
    alone = [items(analyzer(bundle).analyze([photo(seed)])[0]) for seed in range(5)]
    broken = PhotoInput(data=b"not a photo")
    together = analyzer(bundle, batch_size=4, decode_threads=3).analyze([photo(0), photo(1), broken, photo(2), photo(3), photo(4)])
    assert together[2].status == "quarantined"
    assert together[2].reason_code == "unidentified"
    for one, other in zip(alone, [items(analysis) for analysis in together if analysis.status == "ok"], strict=True):
        assert [item["class_name"] for item in one] == [item["class_name"] for item in other]
        assert np.allclose([item["energy_kcal"] for item in one], [item["energy_kcal"] for item in other], rtol=1e-4)


def test_decoding_on_a_gpu_is_asked_for_and_reads_the_photo_even_where_it_fails(
    bundle: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvjpeg, "MIN_PX", 1)
    monkeypatch.setattr(nvjpeg, "_told", set())
    facts = [network.facts for network in analyzer(bundle).networks]
    settings = [AnalyzerConfig(bundles=(bundle,), runtime="eager"), AnalyzerConfig(bundles=(bundle,), runtime="eager", device="cuda:99", decode_on_gpu=True)]
    cpu, gpu = (Steps(config, facts) for config in settings)
    read = [steps.read(photo(0)) for steps in (cpu, gpu)]
    for steps, seen in zip((cpu, gpu), read, strict=True):
        steps.cut(seen)
    assert read[1].is_fit
    assert all(np.array_equal(one, other) for one, other in zip(read[0].crops, read[1].crops, strict=True))
    assert "nvJPEG did not decode a photo" in caplog.text


@pytest.mark.parametrize("runtime", ["bf16", "openvino", "openvino_bf16"])
def test_a_runtime_says_what_eager_says_within_its_tolerance(bundle: str, runtime: Any) -> None:
    reader = analyzer(bundle, runtime=runtime).readers[0]
    assert reader.runtime.difference <= TOLERANCE[runtime]
    one, other = (items(analyzer(bundle, runtime=name).analyze([photo(7)])[0]) for name in ("eager", runtime))
    assert np.allclose([item["energy_kcal"] for item in one], [item["energy_kcal"] for item in other], rtol=5 * TOLERANCE[runtime])


def test_a_photo_on_which_the_model_fails_is_quarantined_and_the_others_are_not(bundle: str) -> None:
    made = analyzer(bundle)
    poison = Image.new("RGB", (96, 72), (255, 0, 255))

    def fail(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if ((batch["image"][:, 0] > 250) & (batch["image"][:, 1] < 5)).flatten(1).all(1).any():
            raise RuntimeError("the kernel failed at /secret/place")
        return whole(batch)

    reader = made.readers[0]
    whole = reader.runtime.run
    made.readers = (replace(reader, runtime=replace(reader.runtime, run=fail)),)
    bad = PhotoInput(data=encoded(poison, "PNG"), boxes=(GivenBox(box=(20.0, 20.0, 8.0, 8.0)),))
    good, failed, also_good = made.analyze([photo(0), bad, photo(1)])
    assert (good.status, failed.status, also_good.status) == ("ok", "quarantined", "ok")
    assert failed.reason_code == "model_error"
    assert failed.items is None
    assert "secret" not in str(failed.reason_detail)


def test_a_model_that_fails_on_everything_is_an_error_and_not_a_quarantine(bundle: str) -> None:
    made = analyzer(bundle)

    def fail(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("no kernel at all")

    made.readers = (replace(made.readers[0], runtime=replace(made.readers[0].runtime, run=fail)),)
    with pytest.raises(RuntimeError, match="no kernel"):
        made.analyze([photo(0), photo(1)])


def test_a_number_that_is_not_finite_never_reaches_a_table(bundle: str) -> None:
    made = analyzer(bundle)
    whole = made.readers[0].runtime.run

    def blow_up(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor * torch.nan if name == "portion_B" else tensor for name, tensor in whole(batch).items()}

    made.readers = (replace(made.readers[0], runtime=replace(made.readers[0].runtime, run=blow_up)),)
    (analysis,) = made.analyze([photo(0)])
    assert (analysis.status, analysis.reason_code, analysis.items) == ("quarantined", "model_error", None)


def test_the_scale_reaches_a_model_that_was_trained_with_it(tmp_path: Path) -> None:
    made = analyzer(make_bundle(tmp_path / "scaled", scale_input="marker"))
    small, large, unknown = (items(made.analyze([photo(0, px_per_mm=scale)])[0]) for scale in (2.0, 0.5, None))
    assert all(one["energy_kcal"] < other["energy_kcal"] for one, other in zip(small, large, strict=True))
    assert all("no_scale" in item["flags"] for item in unknown)
    assert not any("no_scale" in item["flags"] for item in small)


def test_bundles_join_their_columns_and_refuse_to_overwrite_each_other(bundle: str, tmp_path: Path) -> None:
    mass = make_bundle(tmp_path / "mass", target="mass_g", heads="portion", sharing="none", cdfa=False, normalization="none")
    (analysis,) = analyzer(bundle, mass).analyze([photo(0)])
    assert {"class_name", "energy_kcal", "mass_g", "mass_lo_g"} <= items(analysis)[0].keys()
    with pytest.raises(ConfigError, match="class_name"):
        analyzer(bundle, make_bundle(tmp_path / "other", seed=1))


def test_an_altered_bundle_is_not_run(bundle: str, tmp_path: Path) -> None:
    for name in ("bundle.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((Path(bundle) / name).read_bytes())
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(BundleError, match="altered"):
        analyzer(str(tmp_path))


def test_a_model_trained_on_corrected_colours_is_shown_corrected_colours_and_any_other_is_not(tmp_path: Path) -> None:
    """A card of coloured squares in a warm light: what the analyzer cuts equals what training cuts, and the cast is gone."""
    rng = np.random.default_rng(0)
    dark, bright = rng.integers(15, 60, (6, 8, 3)), rng.integers(150, 235, (6, 8, 3))
    reference = np.where((np.indices((6, 8)).sum(axis=0) % 2)[..., None] > 0, bright, dark)
    board = np.full((480, 900, 3), 128, np.uint8)
    board[60:420, 60:540] = np.kron(reference, np.ones((60, 60, 1))).astype(np.uint8)
    board[60:420, 640:840] = (90, 140, 60)
    warm = apply_color(board, np.array([[0.9, 0.05, 0, 0], [0, 0.75, 0, 0], [0, 0, 0.5, 0]]))
    patches = tuple((float(r), float(g), float(b)) for r, g, b in reference.reshape(-1, 3))
    marker = Marker(marker_id="card", kind="checkerboard", rows=5, cols=7, square_mm=10.0, patch_reference_srgb=patches)
    box = (640.0, 60.0, 200.0, 360.0)
    data = encoded(Image.fromarray(warm), "PNG")
    given = PhotoInput(data=data, boxes=(GivenBox(box=box),), marker_id="card", px_per_mm=1.0)
    seen: dict[str, Tensor] = {}
    for color in ("as_is", "marker"):
        location = make_bundle(tmp_path / color, color=color)
        made = Analyzer.load(AnalyzerConfig(bundles=(location,), runtime="eager"), {"card": marker})
        run = made.readers[0].runtime.run

        def watch(batch: dict[str, Tensor], run: Any = run, color: str = color) -> dict[str, Tensor]:
            seen[color] = batch["image"]
            return run(batch)  # type: ignore[no-any-return]

        made.readers = (replace(made.readers[0], runtime=replace(made.readers[0].runtime, run=watch)),)
        (analysis,) = made.analyze([given])
        assert analysis.px_per_mm == 1.0  # what the study says goes before what is measured
        assert analysis.marker is not None
        assert analysis.marker.color_matrix_34 is not None
        squares, _ = cut(data, [box], made.readers[0].spec, PhotoLimits(), color_matrix=analysis.marker.color_matrix_34.ravel().tolist())
        assert np.array_equal(squares[0].transpose(2, 0, 1), seen[color][0].numpy())
    middle = {color: image[0, :, 12:20, 12:20].float().mean((1, 2)) for color, image in seen.items()}
    true = torch.tensor([90.0, 140.0, 60.0])
    assert (middle["marker"] - true).abs().max() < 4
    assert (middle["as_is"] - true).abs().max() > 12
