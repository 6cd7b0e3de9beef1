"""What is printed on or lies beside the food: the entries of a study's `markers.yaml`.

In: the text of the file. Out: `Marker`s by id, each checked: a known kind, nothing missing, nothing unknown, sizes that can be.

A marker has its own coordinates in mm, as seen from above, x to the right and y down. Their origin is the outer corner of the
first square of a checkerboard, the first corner of an ArUco marker (both with the print upright), and the centre of a disc.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import cv2
import yaml

from foodray.config import nearest
from foodray.errors import ConfigError

KINDS = {
    "checkerboard": ("rows", "cols", "square_mm"),
    "aruco": ("square_mm", "aruco_dictionary", "aruco_id"),
    "coin": ("diameter_mm",),
    "plate": ("diameter_mm",),
}
"""What each kind of marker must tell."""
DICTIONARIES = tuple(sorted(name.removeprefix("DICT_") for name in dir(cv2.aruco) if name.startswith("DICT_") and "h" not in name))
"""OpenCV's ArUco dictionaries, as `aruco_dictionary` names them (with or without DICT_)."""

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One entry of `markers.yaml`."""

    marker_id: str
    """Name that the images table refers to."""
    kind: str
    """checkerboard, aruco, coin or plate."""
    rows: int | None = None
    """Inner corners down a checkerboard: one less than its squares."""
    cols: int | None = None
    """Inner corners across a checkerboard: one less than its squares."""
    square_mm: float | None = None
    """Side of a square of a checkerboard, or of the black square of an ArUco marker."""
    diameter_mm: float | None = None
    """Diameter of a coin, or of a plate over its rim."""
    aruco_dictionary: str | None = None
    """Dictionary of an ArUco marker, for instance 4X4_50."""
    aruco_id: int | None = None
    """Number of an ArUco marker in its dictionary."""
    patch_reference_srgb: tuple[RGB | None, ...] = ()
    """Colours (0 to 255) of the patches under the reference light; null for a patch to leave out.

    On a checkerboard without `patch_mm` the patches are its squares, row by row from the first: (rows + 1) x (cols + 1) of them.
    """
    patch_mm: tuple[tuple[float, float], ...] = ()
    """Centres of the patches in the marker's coordinates, where they are not the squares of a checkerboard."""
    patch_side_mm: float | None = None
    """Side of a patch; by default that of a square on a checkerboard."""
    print_batch: str | None = None
    """Which print of the card: the reference colours hold for one printer and paper."""

    def tells_more_than(self, px_per_mm: float | None) -> bool:
        """Whether it is worth looking for, where this scale is known already: for the scale, or for its colours."""
        return px_per_mm is None or bool(self.patch_reference_srgb)


def read_markers(text: str) -> dict[str, Marker]:
    """The markers of a `markers.yaml` (a list of entries, or a mapping with the list under `markers`) by id.

    Raises `ConfigError` for whatever is missing, unknown (with the nearest known word) or impossible.
    """
    try:
        data = yaml.safe_load(text) or []
    except yaml.YAMLError as error:
        raise ConfigError(f"markers.yaml is not YAML: {error}") from error
    entries = data.get("markers") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("markers.yaml must be a list of markers, each with marker_id and kind")
    markers = [_marker(entry) for entry in entries]
    found = {marker.marker_id: marker for marker in markers}
    if len(found) < len(markers):
        raise ConfigError("markers.yaml names a marker_id twice; each marker needs its own")
    return found


def _marker(entry: dict[str, Any]) -> Marker:
    """One entry checked."""
    name, kind = entry.get("marker_id"), entry.get("kind")
    if not name:
        raise ConfigError(f"markers.yaml: an entry has no marker_id: {entry}")
    if kind not in KINDS:
        raise ConfigError(f"marker {name!r} is of kind {kind!r}; known kinds are {', '.join(KINDS)}; {nearest(str(kind), KINDS)}")
    known = [field.name for field in fields(Marker)]
    for key in entry:
        if key not in known:
            raise ConfigError(f"marker {name!r}: {key!r} is unknown; {nearest(str(key), known)}")
    values = {key: value for key, value in entry.items() if value is not None and key not in ("marker_id", "kind")}
    for key in KINDS[kind]:
        if key not in values:
            raise ConfigError(f"marker {name!r} ({kind}) lacks {key}; a {kind} needs {', '.join(KINDS[kind])}")
    try:
        marker = Marker(marker_id=str(name), kind=kind, **{key: CHECKS[key](value) for key, value in values.items()})
    except _WrongError as error:
        raise ConfigError(f"marker {name!r}: {error.key(values)} must be {error.what}, not {error.value!r}") from error
    _check_aruco(marker)
    _check_patches(marker)
    return marker


class _WrongError(Exception):
    """A value that is not what its key asks for."""

    def __init__(self, what: str, value: object) -> None:
        self.what, self.value = what, value
        super().__init__(what)

    def key(self, values: dict[str, Any]) -> str:
        """The key that has this value."""
        return next(key for key, value in values.items() if value is self.value)


def _whole(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _WrongError(f"a whole number above {least - 1}" if least else "a whole number from 0", value)
        return value

    return check


def _positive(value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise _WrongError("a positive number", value)
    return float(value)


def _word(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _WrongError("a word", value)
    return str(value)


def _colours(value: Any) -> tuple[RGB | None, ...]:
    if not isinstance(value, list) or not all(colour is None or (_is_point(colour, 3) and all(0 <= part <= 255 for part in colour)) for colour in value):
        raise _WrongError("a list of [red, green, blue] from 0 to 255, or null", value)
    return tuple(None if colour is None else (float(colour[0]), float(colour[1]), float(colour[2])) for colour in value)


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list) or not all(_is_point(point, 2) for point in value):
        raise _WrongError("a list of [x, y] in mm", value)
    return tuple((float(x), float(y)) for x, y in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_point(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(_is_number, value))


def _dictionary(value: Any) -> str:
    return _word(value).upper().removeprefix("DICT_")


CHECKS: dict[str, Callable[[Any], Any]] = {
    "rows": _whole(2),
    "cols": _whole(2),
    "square_mm": _positive,
    "diameter_mm": _positive,
    "aruco_dictionary": _dictionary,
    "aruco_id": _whole(0),
    "patch_reference_srgb": _colours,
    "patch_mm": _points,
    "patch_side_mm": _positive,
    "print_batch": _word,
}
"""How the value of each key is checked and converted."""


def _check_aruco(marker: Marker) -> None:
    """The dictionary exists and holds the id."""
    if marker.kind != "aruco":
        return
    if marker.aruco_dictionary not in DICTIONARIES:
        raise ConfigError(
            f"marker {marker.marker_id!r}: aruco_dictionary {marker.aruco_dictionary!r} is unknown; {nearest(str(marker.aruco_dictionary), DICTIONARIES)}"
        )
    size = len(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{marker.aruco_dictionary}")).bytesList)
    if marker.aruco_id is not None and marker.aruco_id >= size:
        raise ConfigError(f"marker {marker.marker_id!r}: aruco_id {marker.aruco_id} is not in {marker.aruco_dictionary}, whose ids are 0 to {size - 1}")


def _check_patches(marker: Marker) -> None:
    """Each colour has a place on a marker whose turn is known."""
    name, num = marker.marker_id, len(marker.patch_reference_srgb)
    if not num and not marker.patch_mm:
        return
    if marker.kind in ("coin", "plate"):
        raise ConfigError(f"marker {name!r}: a {marker.kind} looks the same however it is turned, so it has no patches; take them away")
    if marker.patch_mm:
        if len(marker.patch_mm) != num:
            raise ConfigError(f"marker {name!r}: {len(marker.patch_mm)} patch_mm but {num} patch_reference_srgb; each patch needs both")
        if marker.patch_side_mm is None and marker.kind == "aruco":
            raise ConfigError(f"marker {name!r}: patch_mm without patch_side_mm; tell how large the patches are")
        return
    if marker.kind == "aruco":
        raise ConfigError(f"marker {name!r}: patch_reference_srgb without patch_mm; tell where the patches lie")
    assert marker.rows
    assert marker.cols
    squares = (marker.rows + 1) * (marker.cols + 1)
    if num != squares:
        raise ConfigError(f"marker {name!r}: {num} patch_reference_srgb for {squares} squares; give one a square (null for none), or give patch_mm")
