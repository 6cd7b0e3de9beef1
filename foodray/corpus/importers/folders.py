"""A plain tree of photos, one folder a class, as a study package: the layout most image collections come in.

In: `class/photo.jpg`, or `train|val|test/class/photo.jpg`, which gives the fixed split; local or s3://. Out: one images row and
one truth item a photo, the class of its folder, no box and no amounts.
"""

from pathlib import PurePosixPath

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import SPLIT_FOLDERS, Draft, require_photos
from foodray.storage.store import Store

REASONS = {
    "other_files": "files that are not photos by their name",
    "photos_at_wrong_level": "photos that are not directly in a class folder",
}
"""Why a file was left out."""


def import_folders(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write a tree of class folders as a study package and account for every file.

    Each photo is its own participant unless `group_pattern`, a regular expression searched in a photo's location, tells which
    photos belong together: its first group is the participant's id, or the whole match where it has none.
    The tree is read as split folders when any photo is three deep under train, val or test.
    Raises `CorpusError` when there is no photo, `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group
    lies in two of the split folders, `ExistsError` when the place is taken.
    """
    draft = Draft(layout=Store(source), importer="folders", kinds=REASONS, group_pattern=group_pattern)
    keys = []
    for key in draft.files():
        if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES:
            keys.append(key)
        else:
            draft.odd.add("other_files", key)
    is_split = any(len(parts := key.split("/")) == 3 and parts[0] in SPLIT_FOLDERS for key in keys)
    for key in keys:
        *folders, _ = key.split("/")
        if is_split and len(folders) == 2 and folders[0] in SPLIT_FOLDERS:
            draft.add(key, folders[0], [{"class_name": folders[1]}])
        elif not is_split and len(folders) == 1:
            draft.add(key, None, [{"class_name": folders[0]}])
        else:
            draft.odd.add("photos_at_wrong_level", key)
    require_photos(draft, "in class folders (class/photo.jpg, or train/class/photo.jpg)")
    return draft.write(store)
