"""What the tests of training share: torch on one thread, and one small corpus for all that needs Ray."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from toys import COLOURS, LABELS

from foodray.corpus.corpus import Corpus
from foodray.corpus.index import index_study
from foodray.corpus.manifest import load_study, write_study
from foodray.corpus.masks import rle_text
from foodray.storage.store import Store

NUM_PHOTOS = 40
NUM_PARTICIPANTS = 12
SIDE_PX = 96


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine and whatever ran before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """40 photos of two discs each with their masks, by 12 participants: the colour is the class, the area is the energy; the colours are the photo's tags."""
    study = tmp_path_factory.mktemp("study")
    write_shapes(study)
    return index_study(load_study(str(study)), Store(str(tmp_path_factory.mktemp("corpus") / "corpus")))


def write_shapes(folder: Path) -> None:
    """A study package of coloured discs on shaded tables."""
    rng = np.random.default_rng(0)
    images, items = [], []
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    for index in range(NUM_PHOTOS):
        name = f"p{index:02d}"
        shades = Image.fromarray(rng.integers(90, 150, (5, 5, 3), dtype=np.uint8)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        pixels_HW3 = np.array(shades)
        colours = []
        for half in range(2):
            label, radius = LABELS[int(rng.integers(3))], float(rng.uniform(8, 20))
            x, y = 26 + 44 * half, float(rng.uniform(24, 72))
            disc_HW = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
            pixels_HW3[disc_HW] = COLOURS[label]
            colours.append(label)
            box = {"bbox_x": x - radius, "bbox_y": y - radius, "bbox_w": 2 * radius, "bbox_h": 2 * radius}
            items.append(
                {"truth_item_id": f"{name}-{half}", "image_id": name, "class_name": label, "energy_kcal": radius**2, "segmentation": rle_text(disc_HW), **box}
            )
        Image.fromarray(pixels_HW3).save(folder / f"{name}.png")
        person = f"u{index % NUM_PARTICIPANTS:02d}"
        tags = {"tags": sorted(set(colours))}
        images.append({"image_id": name, "image_uri": f"{name}.png", "participant_id": person, "consent_scope": "score_train", **tags})
    write_study(Store(str(folder)), images=pa.Table.from_pylist(images), truth_items=pa.Table.from_pylist(items), info={"name": "discs", "sample": True})
