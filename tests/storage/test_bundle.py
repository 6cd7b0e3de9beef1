"""A bundle comes back as it was written, or not at all."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foodray.errors import BundleError, ExistsError
from foodray.storage.bundle import CARD, WEIGHTS, Bundle, read_bundle, write_bundle
from foodray.storage.store import Store

CONTENT: dict[str, Any] = {
    "task": "mtl",
    "config": {"lr": 1e-05, "backbone": "resnet18", "flip": True, "milestones": [30, 60]},
    "state": {"labels": ["rice", "naïve 菜"], "target_mean": 0.1 + 0.2},
    "metrics": {"accuracy": 0.8867, "mccr": float("nan")},
}


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 4, generator=generator)
    return {
        "head.weight": matrix,
        "turned.weight": matrix.t(),
        "images.weight": torch.randn(2, 3, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last),
        "bn.num_batches_tracked": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16, requires_grad=True),
    }


@pytest.fixture
def written(tmp_path: Path) -> Bundle:
    return write_bundle(Store(str(tmp_path)), CONTENT, weights())


def flip(path: Path, at: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def refused(folder: Path, message: str, **how: Any) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(str(folder), **how)
    assert str(folder) in str(caught.value)


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path, written: Bundle) -> None:
    bundle = read_bundle(str(tmp_path), task="mtl")
    assert bundle.bundle_id == written.bundle_id
    assert bundle.card["state"] == CONTENT["state"]
    assert np.isnan(bundle.card["metrics"]["mccr"])
    assert bundle.weights.keys() == weights().keys()
    for name, tensor in weights().items():
        assert bundle.weights[name].dtype == tensor.dtype
        assert torch.equal(bundle.weights[name], tensor)


def test_a_bundle_comes_back_from_object_storage(s3: str) -> None:
    store = Store(f"{s3}/bundle")
    written = write_bundle(store, CONTENT, weights())
    assert read_bundle(store.root).bundle_id == written.bundle_id
    with pytest.raises(ExistsError):
        write_bundle(store, CONTENT, weights())


def test_other_weights_or_another_card_are_another_bundle(tmp_path: Path, written: Bundle) -> None:
    ids = {written.bundle_id}
    ids.add(write_bundle(Store(str(tmp_path / "w")), CONTENT, {**weights(), "half": torch.zeros(3)}).bundle_id)
    ids.add(write_bundle(Store(str(tmp_path / "c")), {**CONTENT, "metrics": {}}, weights()).bundle_id)
    assert len(ids) == 3


def test_nothing_is_replaced(tmp_path: Path, written: Bundle) -> None:
    before = {name: (tmp_path / name).read_bytes() for name in (CARD, WEIGHTS)}
    with pytest.raises(ExistsError):
        write_bundle(Store(str(tmp_path)), {**CONTENT, "task": "other"}, {})
    assert {name: (tmp_path / name).read_bytes() for name in (CARD, WEIGHTS)} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, WEIGHTS]


def test_a_flipped_byte_anywhere_in_the_weights_is_refused(tmp_path: Path, written: Bundle) -> None:
    path = tmp_path / WEIGHTS
    size = path.stat().st_size
    for at in {0, 1, 8, 20, *range(40, size, 37), size - 1}:
        flip(path, at, 0x01)
        refused(tmp_path, "was altered")
        flip(path, at, 0x01)
    read_bundle(str(tmp_path))


@pytest.mark.parametrize("mask", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_a_flipped_byte_anywhere_in_the_card_is_refused(tmp_path: Path, written: Bundle, mask: int) -> None:
    path = tmp_path / CARD
    accepted = []
    for at in range(path.stat().st_size):
        flip(path, at, mask)
        try:
            read_bundle(str(tmp_path))
            accepted.append(path.read_bytes()[max(0, at - 12) : at + 4])
        except BundleError:
            pass
        flip(path, at, mask)
    assert not accepted, f"{len(accepted)} flipped bytes were not seen, first around {accepted[0]!r}"
    read_bundle(str(tmp_path))


@pytest.mark.parametrize("end", [0, 1, 40, -1])
@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_cut_file_is_refused(tmp_path: Path, written: Bundle, name: str, end: int) -> None:
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:end])
    refused(tmp_path, "was altered")


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, written: Bundle, name: str) -> None:
    (tmp_path / name).unlink()
    refused(tmp_path, f"{name} is missing")


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a bundle folder")


@pytest.mark.parametrize("card", [b"[]", b"3", b'{"task": "mtl"}', b'{"format": "foodray-bundle/99"}'])
def test_a_card_of_another_format_is_refused(tmp_path: Path, written: Bundle, card: bytes) -> None:
    (tmp_path / CARD).write_bytes(card)
    refused(tmp_path, "foodray-bundle/1")


def test_a_card_with_a_setting_changed_by_hand_is_refused(tmp_path: Path, written: Bundle) -> None:
    card = json.loads((tmp_path / CARD).read_bytes())
    card["metrics"]["accuracy"] = 0.99
    (tmp_path / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False))
    refused(tmp_path, "does not match its own digest")


def test_weights_of_another_bundle_are_refused(tmp_path: Path, written: Bundle) -> None:
    write_bundle(Store(str(tmp_path / "other")), CONTENT, {"head.weight": torch.zeros(2)})
    (tmp_path / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    refused(tmp_path, "was altered")


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.pkl", "pytorch_model.bin"])
def test_pickle_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    torch.save({}, tmp_path / name)
    refused(tmp_path / name, "never loads pickled weights")


def test_pickle_under_the_name_of_the_weights_is_not_run(tmp_path: Path, written: Bundle) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "trapped"),))

    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    refused(tmp_path, "was altered")
    assert not (tmp_path / "trapped").exists()


def test_a_bundle_of_another_task_is_refused(tmp_path: Path, written: Bundle) -> None:
    refused(tmp_path, "bundle of task 'mtl', not 'tagging'", task="tagging")
