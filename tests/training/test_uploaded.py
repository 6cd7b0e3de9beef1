"""Claims about training on uploads, on the suite's Ray: a bundle of the photos that have categories, what is done is not done again, nothing lies twice."""

from pathlib import Path

import numpy as np
import pytest
from odd import encoded
from PIL import Image

from foodray.corpus.uploads import UploadFolder
from foodray.errors import SplitError
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store
from foodray.tasks.tagging import TaggingConfig
from foodray.training.config import LoopConfig
from foodray.training.uploaded import UploadedConfig, train_uploaded

NAMES = ("red", "green", "never")
TASK = TaggingConfig(backbone="test_resnet", weights="random", side_px=32, epochs=1)


def uploaded(folder: Path, num_photos: int) -> UploadFolder:
    """Photos of which every second is red and every third green; the others are unlabelled."""
    uploads = UploadFolder(store=Store(str(folder)), names=NAMES)
    for seed in range(num_photos):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        tags = ["red"] * (seed % 2 == 0) + ["green"] * (seed % 3 == 0)
        coarse[..., [NAMES.index(tag) for tag in tags]] = 250
        uploads.keep(encoded(Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC)), tags)
    return uploads


def config(tmp_path: Path) -> UploadedConfig:
    return UploadedConfig(uploads=str(tmp_path / "uploads"), categories=NAMES, folder=str(tmp_path / "0001"), task=TASK, loop=LoopConfig(batch_size=8))


@pytest.mark.usefixtures("ray_session")
def test_uploads_become_a_bundle_once_and_their_photos_lie_once(tmp_path: Path) -> None:
    num_labelled = uploaded(tmp_path / "uploads", 30).read().num_labelled
    folder = Store(str(tmp_path / "0001"))
    folder.write("corpus/photos/half.parquet", b"an attempt that was killed while it indexed")
    folder.write("study/study.json", b"and before")
    run = train_uploaded(config(tmp_path))
    assert sum(run.metrics["num_samples"].values()) == num_labelled == 20
    card = read_bundle(folder.uri("run/bundle"), task="tagging").card
    assert card["state"]["labels"] == ["green", "red"], "no photo has the third"
    assert card["card_sha256"] == run.info["bundle_id"]
    assert folder.list("corpus") == []
    assert not [name for name in folder.list() if name.endswith(".jpg")]
    again = train_uploaded(config(tmp_path))
    assert again.info == run.info
    assert folder.list("corpus") == []


@pytest.mark.usefixtures("ray_session")
def test_too_few_photos_are_named_as_the_reason(tmp_path: Path) -> None:
    uploaded(tmp_path / "uploads", 5)
    with pytest.raises(SplitError, match="groups of photos"):
        train_uploaded(config(tmp_path))
