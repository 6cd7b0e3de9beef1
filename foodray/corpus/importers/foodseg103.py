"""FoodSeg103 (Wu et al. 2021, arXiv 2105.05409) as a study package: 7,118 photos with masks of 103 ingredients.

In: the folder as published: `Images/img_dir/{train,test}/*.jpg`, `Images/ann_dir/{train,test}/*.png` with one id a px, and `category_id.txt`
with id<tab>name (104 rows, 0 is background). Out: one images row a photo, one truth item for each class in its mask. The split is the
published one, which has no validation side; that is carved out of train when a run splits.
"""

from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.draft import Draft, published_notes
from foodray.corpus.importers.regions import PAIR_KINDS, add_pairs, finish, id_names, read_text
from foodray.errors import CorpusError
from foodray.storage.store import Store

PUBLISHED = {"train": 4983, "test": 2135}
"""Photos as published; the 4,935 that some texts give for train do not add up to the 7,118 of the paper."""
CATEGORIES = "category_id.txt"
NUM_CATEGORIES = 104
EXPECTED = "in Images/img_dir/train or test; FoodSeg103 is the folder with Images and category_id.txt"


def import_foodseg103(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write FoodSeg103, or a part of it, as a study package and account for every file.

    `group_pattern` is as in `import_folders`. Raises `CorpusError` when there is no photo, no category_id.txt or no usable mask,
    `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group is in train and test, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="foodseg103", kinds=PAIR_KINDS, group_pattern=group_pattern)
    keys = draft.files()
    if CATEGORIES not in keys:
        raise CorpusError(f"{draft.layout.root} has no {CATEGORIES}, which names the ids of the masks; FoodSeg103 is published with it")
    names = id_names(read_text(draft.layout, CATEGORIES), draft.layout.uri(CATEGORIES))
    draft.info = {"source": "Wu et al. 2021, arXiv 2105.05409", "labels": list(dict.fromkeys(names.values()))}
    keys.remove(CATEGORIES)
    add_pairs(draft, keys, photos="Images/img_dir", masks="Images/ann_dir", names=names)
    return finish(draft, store, expected=EXPECTED, notes=_notes(draft, len(names) + 1))


def _notes(draft: Draft, num_categories: int) -> list[str]:
    notes = published_notes(draft, PUBLISHED)
    if num_categories != NUM_CATEGORIES:
        notes.append(f"{num_categories} categories with the background, where {NUM_CATEGORIES} are published")
    return notes
