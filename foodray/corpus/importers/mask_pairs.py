"""A folder of photos and a folder of masks with the same names as a study package: how most segmentation sets are exchanged.

In: `images/` and `masks/` (or other names), in either form also with folders train, val and test inside, and a file of class names.
Masks are PNGs of class ids, grey or by palette index: 0 background, 255 unlabelled (65535 in 16 bits). Out: one images row a photo, one
truth item for each class in its mask.
"""

from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.draft import Draft
from foodray.corpus.importers.regions import PAIR_KINDS, add_pairs, finish, mask_names, read_text
from foodray.errors import CorpusError
from foodray.storage.store import Store

NAME_FILES = ("labels.txt", "classes.txt", "category_id.txt")
"""Where class names are looked for, in this order."""


def import_mask_pairs(source: str, store: Store, *, photos: str = "images", masks: str = "masks", group_pattern: str | None = None) -> ImportSummary:
    """Write photos and masks as a study package and account for every file.

    Names come from the first of `NAME_FILES`: id<tab>name, or one name a line, the first being id 1 (id 0 where it says background).
    `group_pattern` is as in `import_folders`. Raises `CorpusError` when there is no photo, no file of names or no usable mask,
    `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group lies in two splits, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="masks", kinds=PAIR_KINDS, group_pattern=group_pattern)
    keys = draft.files()
    named = next((key for key in NAME_FILES if key in keys), None)
    if named is None:
        raise CorpusError(f"{draft.layout.root} has no {', '.join(NAME_FILES[:-1])} or {NAME_FILES[-1]}; write one with a line of id<tab>name for each class")
    names = mask_names(read_text(draft.layout, named), draft.layout.uri(named))
    draft.info = {"labels": list(dict.fromkeys(names.values()))}
    keys.remove(named)
    add_pairs(draft, keys, photos=photos, masks=masks, names=names)
    return finish(draft, store, expected=f"in {photos}; the masks are looked for in {masks}, under the same names")
