"""Importers of public layouts: each reads a folder as its authors published it and writes a study package.

In: a location and the store of the new package. Out: an `ImportSummary` that accounts for every file and every oddity,
because what an importer leaves out silently is missing from every number that is reported later.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an importer found and what it did about it."""

    counts: dict[str, int]
    """Number of photos, items and of each kind of oddity, zeros included."""
    notes: list[str] = field(default_factory=list)
    """One sentence per oddity, with the names concerned."""


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif"})
"""File names that mean a photo. Wider than what the decoder reads: the others are to be quarantined with a reason, not overlooked."""


def listed(names: list[str], shown: int = 20) -> str:
    """Names for a note, shortened to the first few."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
