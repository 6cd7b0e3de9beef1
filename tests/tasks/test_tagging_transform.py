"""One transform: what a tagger's backbone is given of a photo is bit for bit the same in training's evaluation, in the analyzer and in serving.

What is compared is what comes out of the network's own normalisation, so that a divergence of colours, squares or normalisation is seen.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from odd import TAGS, encoded, make_bundle, make_tagger, picture
from PIL import Image
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from foodray.analyzer import Analyzer, AnalyzerConfig, GivenBox, Network, PhotoInput, load_network, make_network
from foodray.analyzer import networks as networks_module
from foodray.analyzer import steps as steps_module
from foodray.analyzer.steps import Steps
from foodray.corpus.corpus import Corpus
from foodray.corpus.index import index_study
from foodray.corpus.manifest import load_study, write_study
from foodray.corpus.splits import Pool
from foodray.nn.backbone import PixelNorm
from foodray.storage.store import Store
from foodray.training.data import Part, PoolFeed, load_samples

pytestmark = pytest.mark.usefixtures("ray_session")

SIDES = (48, 299)
"""299 px, Xception's own size, is no multiple of anything: a square cut in another way comes out otherwise there."""
Photos = dict[str, bytes]


def made_photos() -> Photos:
    """Wide, high, turned, grey, tiny and large photos; 598 px is twice 299."""
    turned = Image.Exif()
    turned[0x0112] = 6
    sizes = [(598, 448), (450, 598), (1196, 897), (300, 300), (97, 61), (2600, 1950), (61, 640)]
    photos = {f"size{index}": encoded(picture(index, width=width, height=height), quality=92) for index, (width, height) in enumerate(sizes)}
    photos["turned"] = encoded(picture(20, width=640, height=480), exif=turned)
    photos["png"] = encoded(picture(21, width=333, height=500), "PNG")
    photos["grey"] = encoded(picture(22, width=500, height=333).convert("L"))
    return photos


def make_corpus(root: Path, photos: Photos) -> Corpus:
    """The photos, tagged, as a corpus."""
    store = Store(str(root / "study"))
    for name, data in photos.items():
        store.write(f"photos/{name}", data)
    rows = [
        {"image_id": name, "image_uri": name, "participant_id": name, "tags": [TAGS[place % len(TAGS)]], "consent_scope": "score_train"}
        for place, name in enumerate(photos)
    ]
    none = pa.table({"truth_item_id": pa.array([], pa.string()), "image_id": pa.array([], pa.string())})
    write_study(store, images=pa.Table.from_pylist(rows), truth_items=none, info={"name": "tagged", "photos_root": "photos"})
    index_study(load_study(store.root), Store(str(root / "corpus")))
    return Corpus.open(str(root / "corpus"))


@pytest.fixture(scope="module")
def photos() -> Photos:
    return made_photos()


@pytest.fixture(scope="module")
def corpus(photos: Photos, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("tagged"), photos)


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """A bundle a side."""
    return {side: make_tagger(tmp_path_factory.mktemp("tagger") / str(side), side_px=side) for side in SIDES}


@contextmanager
def listening() -> Iterator[list[Tensor]]:
    """What the normalisation of every network in this process puts out while the block runs, a tensor a photo."""
    heard: list[Tensor] = []

    def hear(module: torch.nn.Module, _: Any, image_B3HW: Tensor) -> None:
        if isinstance(module, PixelNorm):
            heard.extend(image_B3HW.clone())

    handle = register_module_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()


def in_training(corpus: Corpus, bundle: str) -> list[Tensor]:
    """What the evaluation of a training run gives the backbone, of all photos by their names."""
    task, _, network = load_network(bundle)
    samples = corpus.samples(task.level, tags=True)
    count = len(samples["sample_id"])
    pool = Pool(sample=np.arange(count), split=np.full(count, "test"), isometry=np.zeros(count, np.int8))
    feed = PoolFeed(store=load_samples(corpus, samples, task), pool=pool, task=task, seed=0)
    with listening() as heard, torch.inference_mode():
        for _, batch in feed.eval_batches("test", 4, Part()):
            task.forward(network.eval(), batch)
    return heard


def in_analysis(photos: Photos, networks: Sequence[Network]) -> list[Tensor]:
    """What the analyzer gives it."""
    made = Analyzer(AnalyzerConfig(bundles=tuple(network.location for network in networks), runtime="eager"), networks)
    with listening() as heard:
        found = made.analyze([PhotoInput(data=photos[name]) for name in sorted(photos)])
    assert all(one.status == "ok" and one.tags is not None for one in found)
    return heard


def in_serving(photos: Photos, networks: Sequence[Network]) -> list[Tensor]:
    """What the decoder's steps have the recogniser give it, a photo at a time."""
    steps = Steps(AnalyzerConfig(bundles=("x",)), [network.facts for network in networks])
    with listening() as heard:
        for name in sorted(photos):
            seen = steps.read(PhotoInput(data=photos[name]))
            steps.cut(seen)
            seen.release()
            for place, rows in steps.inputs([seen]).items():
                networks[place](rows, 32)
    return heard


def differences(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[str]:
    """Where what a backbone is given of photos differs, in words; empty where all bits are the same."""
    if len(one) != len(other):
        return [f"{len(one)} photos and {len(other)}"]
    found = []
    for place, (left, right) in enumerate(zip(one, other, strict=True)):
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            found.append(f"photo {place}: {left.dtype} {tuple(left.shape)} and {right.dtype} {tuple(right.shape)}")
        elif not torch.equal(left, right):
            found.append(f"photo {place}: by at most {(left - right).abs().max():.3g}")
    return found


def loaded(*bundles: str) -> list[Network]:
    config = AnalyzerConfig(bundles=bundles, runtime="eager")
    return [make_network(bundle, config) for bundle in bundles]


@pytest.mark.parametrize("side", SIDES)
def test_training_analyzer_and_serving_give_the_backbone_the_same_bits(side: int, corpus: Corpus, photos: Photos, taggers: dict[int, str]) -> None:
    trained = in_training(corpus, taggers[side])
    assert [tuple(image.shape) for image in trained] == [(3, side, side)] * len(photos)
    assert not differences(trained, in_analysis(photos, loaded(taggers[side])))
    assert not differences(trained, in_serving(photos, loaded(taggers[side])))


def test_real_photographs_come_out_the_same_too(data: Path, tmp_path: Path, taggers: dict[int, str]) -> None:
    files = sorted((data / "tags" / "multilabel_data" / "ImageSets").glob("*.jpg"))[::84]
    photos = {f"photo{place:03d}": file.read_bytes() for place, file in enumerate(files)}
    corpus = make_corpus(tmp_path, photos)
    for bundle in taggers.values():
        trained = in_training(corpus, bundle)
        assert not differences(trained, in_analysis(photos, loaded(bundle)))
        assert not differences(trained, in_serving(photos, loaded(bundle)))


def blue_first(monkeypatch: pytest.MonkeyPatch, network: Network) -> Network:
    """The channels in OpenCV's order."""
    whole = steps_module.crop_squares
    monkeypatch.setattr(steps_module, "crop_squares", lambda *given, **how: whole(*given, **how)[..., ::-1])
    return network


def another_square(_: pytest.MonkeyPatch, network: Network) -> Network:
    """A margin around the photo, as items have one."""
    return replace(network, spec=replace(network.spec, margin=0.1))


def without_slack(_: pytest.MonkeyPatch, network: Network) -> Network:
    """The square of the network's size, cut at once, instead of the middle of the stored one."""
    return replace(network, spec=replace(network.spec, slack=0.0))


def other_normalisation(monkeypatch: pytest.MonkeyPatch, network: Network) -> Network:
    """ImageNet's mean and spread, where this backbone has others."""
    task, card, module = load_network(network.location)
    module.pixels = PixelNorm()
    monkeypatch.setattr(networks_module, "load_network", lambda _: (task, card, module))
    [changed] = loaded(network.location)
    return changed


@pytest.mark.parametrize("diverge", [blue_first, another_square, without_slack, other_normalisation])
def test_a_divergence_is_found(
    diverge: Callable[[pytest.MonkeyPatch, Network], Network], corpus: Corpus, photos: Photos, taggers: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = in_training(corpus, taggers[299])
    [network] = loaded(taggers[299])
    changed = diverge(monkeypatch, network)
    assert differences(trained, in_analysis(photos, [changed]))
    assert differences(trained, in_serving(photos, [changed]))


def test_beside_a_network_that_wants_a_larger_decode_the_photo_hardly_changes(photos: Photos, taggers: dict[int, str], tmp_path: Path) -> None:
    """A crop hardly depends on the scale at which the photo was decoded, which is chosen once for all networks (`foodray.corpus.resize`)."""
    reader = make_bundle(tmp_path / "reader")
    given = PhotoInput(data=photos["size5"], boxes=(GivenBox(box=(100.0, 100.0, 40.0, 40.0)),))
    heard: list[Tensor] = []
    for bundles in ((taggers[299],), (reader, taggers[299])):
        with listening() as images:
            Analyzer.load(AnalyzerConfig(bundles=bundles, runtime="eager")).analyze([given])
        heard += [image for image in images if image.shape[-1] == 299][-1:]
    alone, beside = heard
    assert 0 < (alone - beside).abs().mean() * 0.5 * 255 < 1.0  # the backbone's spread is 0.5
