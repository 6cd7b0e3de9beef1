"""Every sample of a corpus as a square in the object store: photos are decoded once, by Ray Data.

In: a corpus and the ids of the samples that are wanted. Out: Arrow blocks in the object store with `sample_id`, `pixels` (uint8,
side x side x 3, flat) and, where masks are wanted, `mask` (int16, side x side, flat), and where each sample is. Nothing here needs
torch: the tasks start quickly.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from foodray.corpus.corpus import Corpus, samples_of
from foodray.corpus.masks import crop_labels, decode_mask
from foodray.corpus.photo import PhotoLimits, window
from foodray.corpus.progress import Tally, counted
from foodray.corpus.samples import SampleSpec, cut
from foodray.errors import CorpusError, PhotoError
from foodray.storage.store import Store

COLUMNS = ["image_id", "participant_id", "image_sha256", "phash", "split", "items", "marker_px_per_mm", "color_matrix", "status", "photo", "mask", "mask_px"]
PHOTOS_AT_A_TIME = 32


def cut_corpus(
    corpus: Corpus, sample_ids: np.ndarray, spec: SampleSpec, limits: PhotoLimits | None = None, *, masks: bool = False
) -> tuple[list[Any], np.ndarray]:
    """References to the blocks, and block and row of each sample (N, 2); raises `CorpusError` when a sample is missing.

    The object store holds len(sample_ids) x stored_px^2 x 3 bytes, with masks 5, and spills to disk beyond its size.
    """
    # One task a shard, from a list: Ray's own Parquet reader starts actors to list files and read footers first.
    shards = corpus.shards()
    with counted(f"cutting squares of {spec.stored_px} px", total=len(sample_ids), unit="samples") as tally:
        cutter = Cutter(spec, set(sample_ids), limits or PhotoLimits(), tally, masks=masks)
        dataset = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(cutter, batch_size=1).materialize()
    blocks = dataset.to_arrow_refs()
    ids = ray.get([_ids_of.remote(block) for block in blocks])
    place = {sample_id: (block, row) for block, names in enumerate(ids) for row, sample_id in enumerate(names)}
    _check_all_cut(corpus, sample_ids, place)
    return blocks, np.array([place[sample_id] for sample_id in sample_ids], np.int64)


@ray.remote(scheduling_strategy="DEFAULT")  # said, or a trial of Ray Tune would have it run on the CPUs that the trial itself holds
def _ids_of(table: pa.Table) -> list[str]:
    return table["sample_id"].to_pylist() if table.num_rows else []


def cut_some(corpus: Corpus, sample_ids: Sequence[str], spec: SampleSpec, limits: PhotoLimits | None = None) -> np.ndarray:
    """The squares of a few samples in their order, uint8 (N, P, P, 3), in this process and without Ray; raises as `cut_corpus` does.

    Shards are read in turn until all are found.
    """
    found: dict[str, bytes] = {}
    cutter = Cutter(spec, set(sample_ids), limits or PhotoLimits())
    for table in cutter({"item": corpus.shards()}):
        found |= zip(table["sample_id"].to_pylist(), table["pixels"].to_pylist(), strict=True)
        if len(found) == len(cutter.wanted):
            break
    _check_all_cut(corpus, sample_ids, found)
    shape = (spec.stored_px, spec.stored_px, 3)
    return np.stack([np.frombuffer(found[sample_id], np.uint8).reshape(shape) for sample_id in sample_ids])


def _check_all_cut(corpus: Corpus, sample_ids: Iterable[str], found: Container[str]) -> None:
    missing = [sample_id for sample_id in sample_ids if sample_id not in found]
    if missing:
        raise CorpusError(
            f"{len(missing)} samples of {corpus.store.root} could not be cut, first {missing[0]!r}; the shards were altered, index the study again"
        )


class Cutter:
    """Shards to sample rows: sample_id, the stored square and its mask."""

    def __init__(self, spec: SampleSpec, wanted: set[str], limits: PhotoLimits, tally: Tally | None = None, *, masks: bool = False) -> None:
        self.spec, self.wanted, self.limits, self.tally, self.masks = spec, wanted, limits, tally, masks

    def __call__(self, batch: Any) -> Iterator[pa.Table]:
        """Read each shard a few photos at a time, decode each photo once and cut all its wanted samples."""
        for location in batch["item"]:
            filesystem, path = Store(location).arrow()
            with pq.ParquetFile(path, filesystem=filesystem) as shard:
                for photos in shard.iter_batches(batch_size=PHOTOS_AT_A_TIME, columns=COLUMNS):
                    yield self._cut(photos.to_pylist())

    def _cut(self, photos: list[dict[str, Any]]) -> pa.Table:
        cv2.setNumThreads(1)
        with ThreadPoolExecutor(2) as pool:
            cuts = [row for rows in pool.map(self._photo, photos) for row in rows]
        if self.tally is not None:
            self.tally.add(len(cuts))
        px = self.spec.stored_px**2
        fields = [pa.field("sample_id", pa.string()), pa.field("pixels", pa.binary(px * 3)), *([pa.field("mask", pa.binary(px * 2))] if self.masks else [])]
        return pa.Table.from_pylist(cuts, schema=pa.schema(fields))

    def _photo(self, photo: dict[str, Any]) -> list[dict[str, Any]]:
        if photo["status"] != "ok":
            return []
        samples = [sample for sample in samples_of(photo, self.spec.level, masks=self.masks) if sample["sample_id"] in self.wanted]
        if not samples:
            return []
        try:
            squares, header = cut(photo["photo"], [sample["box"] for sample in samples], self.spec, self.limits, color_matrix=photo["color_matrix"])
        except PhotoError as error:
            raise CorpusError(f"photo {photo['image_id']!r} was readable when it was indexed and is not now ({error}); index the study again") from error
        rows = [{"sample_id": sample["sample_id"], "pixels": square.tobytes()} for sample, square in zip(samples, squares, strict=True)]
        if self.masks:
            labels = decode_mask(photo["mask"])
            for row, sample in zip(rows, samples, strict=True):
                row["mask"] = crop_labels(labels, *window(header, sample["box"], self.spec.stored_margin), self.spec.stored_px).tobytes()
        return rows
