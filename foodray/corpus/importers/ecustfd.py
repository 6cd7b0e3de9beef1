"""ECUSTFD (Liang & Li 2017, arXiv 1705.07632) as a study package: weighed portions of 19 foods, seen from above and from the side.

In: the folder as published (`JPEGImages/`, `Annotations/` in VOC form, `density.xls`). Out: one images row a photo, one truth
item a food box with the mass and volume of its portion, energy from `FOODS`, and the scale at the 25.0 mm coin.

Scale. `marker_px_per_mm` is sqrt(width x height) of the coin's box over 25.0 mm. In side views the coin stands on its edge, so
it is hardly foreshortened: height over width is 0.96 (median) against 0.97 in top views. Measured on the 1,198 boxed photos of
single foods, the size of the food box in mm varies between the photos of one portion (coefficient of variation, median over
portions, top / side) by 4.0 / 5.0 % with the root, 4.4 / 5.4 % with the longer side, 4.8 / 6.0 % with the width. Boxes that are
not square are drawn badly, not tilted: the longer side then makes the food 5 to 10 % too small, the root 0 to 5 %. The coin lies
lower than the food, so the scale itself is biased: round fruit come out 12 % too wide in top views and 6 % too narrow in side views.

Energy is mass x energy of the food as eaten. The mass is of the portion as weighed, with peel, stone and shell.
"""

import logging
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import xlrd

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary, listed
from foodray.corpus.importers.draft import Oddities
from foodray.corpus.manifest import write_study
from foodray.corpus.photo import read_header
from foodray.corpus.schema import FOODS as FOOD_COLUMNS
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.errors import CorpusError, PhotoError
from foodray.storage.store import Store

log = logging.getLogger(__name__)

COIN = "coin"
COIN_MM = 25.0
MARKER_ID = "coin-1-yuan"
SQUARE = (0.75, 4 / 3)
"""Height over width that the box of a coin may have; the six of 1,243 beyond are drawn around something else or cut off."""
SAME_PLACE = 0.15
"""Overlap (intersection over union) from which the boxes of a food and the coin cannot both be right; a banana bent round the coin has 0.04."""

_SR28 = "USDA National Nutrient Database SR28, {} (checked in a stored copy)"
_PAPER = "Liang & Li 2017, arXiv 1705.07632 (checked in public code that repeats the table)"
# The paper's table gives these three in a column headed kcal/g, but no food has more than 9 kcal/g (pure fat): they are kJ/g.
_KJ = _PAPER + ": {} as kcal/g, which is kJ/g, / 4.184"
_DENSITY = "; density: Liang & Li 2017"
FOODS: tuple[tuple[str, str, float, float, str], ...] = (
    # class, group, kcal per 100 g, g per mL, source of the energy
    ("apple", "fruit", 52, 0.78, _SR28.format("09003 Apples, raw, with skin")),
    ("banana", "fruit", 89, 0.91, _SR28.format("09040 Bananas, raw")),
    ("bread", "bakery", 315, 0.18, _PAPER),
    ("bun", "bakery", 223, 0.34, _PAPER),
    ("doughnut", "bakery", 434, 0.31, _PAPER),
    ("egg", "egg", 143, 1.03, "USDA FoodData Central 171287 Egg, whole, raw, fresh (checked in public copies)"),
    ("fired_dough_twist", "bakery", round(24.16 / 4.184 * 100, 1), 0.58, _KJ.format(24.16)),
    ("grape", "fruit", 69, 0.97, _SR28.format("09132 Grapes, red or green, raw")),
    ("lemon", "fruit", 29, 0.96, _SR28.format("09150 Lemons, raw, without peel")),
    ("litchi", "fruit", 66, 1.00, "USDA FoodData Central 169086 Litchis, raw (checked in public copies)"),
    ("mango", "fruit", 60, 1.07, _SR28.format("09176 Mangos, raw")),
    ("mooncake", "bakery", round(18.83 / 4.184 * 100, 1), 0.96, _KJ.format(18.83)),
    ("orange", "fruit", 63, 0.90, "USDA FoodData Central 169919 Oranges, raw, with peel (checked in public copies)"),
    # The paper gives peach 0.57 and pear 0.39, which are USDA's values exchanged (peaches 39, pears 57). The pears are Asian ones.
    ("peach", "fruit", 39, 0.96, _SR28.format("09236 Peaches, yellow, raw")),
    ("pear", "fruit", 42, 1.02, _SR28.format("09340 Pears, asian, raw")),
    ("plum", "fruit", 46, 1.01, _SR28.format("09279 Plums, raw")),
    ("qiwi", "fruit", 61, 0.97, _SR28.format("09148 Kiwifruit, green, raw")),
    ("sachima", "bakery", round(21.45 / 4.184 * 100, 1), 0.22, _KJ.format(21.45)),
    # The paper gives 0.27.
    ("tomato", "vegetable", 18, 0.98, "USDA FoodData Central 170457 Tomatoes, red, ripe, raw (checked in public copies)"),
)
ENERGY = {name: kcal for name, _, kcal, _, _ in FOODS}
MISSPELT = {"qiwi": "kiwi", "fired_dough_twist": "fried_dough_twist"}
COUNTS = (
    "photos", "portions", "participants", "classes", "items", "items_without_weight", "items_without_box",
    "portions_sharing_a_food", "photos_without_annotation", "annotations_without_photo", "annotations_unreadable", "other_files",
    "names_not_understood", "names_of_other_case", "photos_without_coin", "photos_without_food", "photos_with_several_coins",
    "coin_boxes_refused", "food_boxes_refused", "boxes_cut_at_the_edge", "photos_of_other_size", "photos_turned_by_exif", "headers_unreadable",
    "repeated_foods", "weighed_foods_without_box", "weights_unreadable", "weighed_portions_without_photo",
    "classes_misspelt", "classes_without_energy",
)  # fmt: skip


class Box(NamedTuple):
    """A named box in px of the oriented photo: left, upper, width, height."""

    name: str
    x: float
    y: float
    w: float
    h: float

    @property
    def aspect(self) -> float:
        """Height over width."""
        return self.h / self.w

    def overlap(self, other: "Box") -> float:
        """Intersection over union."""
        w = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        h = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        both = max(w, 0) * max(h, 0)
        return both / (self.w * self.h + other.w * other.h - both)


class Name(NamedTuple):
    """What a photo's file name tells: apple001S(3) is portion apple001 from the side, the third photo."""

    portion: str
    view: str
    image_id: str


Weights = dict[str, dict[str, tuple[float | None, float | None]]]
"""By portion and class: volume in mL and mass in g."""


def import_ecustfd(source: str, store: Store) -> ImportSummary:
    """Write ECUSTFD as a study package and account for every file.

    participant_id is the portion, the unit that splits keep together. A mixed plate was laid from foods that were also
    photographed alone (same class, mass and look), so such portions share the id of the first of them; pair_id and occasion_id
    stay the portion. The published train and val lists are not taken over: they cut through portions.
    Raises `CorpusError` when there is no photo or no density.xls, `ExistsError` when the place is taken.
    """
    layout = Store(source)
    odd = Oddities({kind: kind.replace("_", " ") for kind in COUNTS})
    weights = _read_weights(layout, odd)
    keys = _files(layout, "JPEGImages", IMAGE_SUFFIXES, odd)
    if not keys:
        raise CorpusError(f"{layout.root} has no photos in JPEGImages; ECUSTFD is the folder with JPEGImages, Annotations and density.xls")
    images, items = _rows(layout, keys, weights, odd)
    foods = _foods(sorted({str(item["class_name"]) for item in items}), odd)
    summary = _summary(images, items, odd)
    info: dict[str, object] = {
        "name": "ECUSTFD",
        "source": "Liang & Li 2017, arXiv 1705.07632",
        "photos_root": layout.root,
        "importer": "ecustfd",
        "counts": summary.counts,
        "notes": summary.notes,
    }
    write_study(
        store,
        images=pa.Table.from_pylist(images, schema=arrow_schema(IMAGES)),
        truth_items=pa.Table.from_pylist(items, schema=arrow_schema(TRUTH_ITEMS)),
        foods=foods,
        markers_yaml=f"- marker_id: {MARKER_ID}\n  kind: coin\n  diameter_mm: {COIN_MM}\n",
        info=info,
    )
    return summary


def _rows(layout: Store, keys: list[str], weights: Weights, odd: Oddities) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of images and of truth_items."""
    names = {key: _parse_name(PurePosixPath(key).stem, odd) for key in keys}
    owners = _owners(sorted({name.portion for name in names.values()}), weights, odd)
    annotations = {PurePosixPath(key).stem: key for key in _files(layout, "Annotations", {".xml"}, odd)}
    images, items = [], []
    for key, name in names.items():
        stem = PurePosixPath(key).stem
        foods, num_coins, scale = _read_boxes(layout, key, annotations.get(stem), odd)
        images.append(_image_row(key, name, owners[name.portion], scale))
        items += _items(name, foods, weights.get(name.portion, {}), odd)
        if not num_coins:
            odd.add("photos_without_coin", stem)
    _compare(names, weights, annotations, odd)
    return images, items


def _files(layout: Store, folder: str, suffixes: AbstractSet[str], odd: Oddities) -> list[str]:
    found = layout.list(folder)
    keys = [key for key in found if PurePosixPath(key).suffix.lower() in suffixes]
    for key in sorted(set(found) - set(keys)):
        odd.add("other_files", key)
    return keys


def _read_weights(layout: Store, odd: Oddities) -> Weights:
    """Volumes and masses of density.xls; its column says mm^3, but 310 for an apple of 244.5 g is cm^3, that is mL."""
    try:
        book = xlrd.open_workbook(file_contents=layout.read("density.xls"))
    except (FileNotFoundError, xlrd.XLRDError) as error:
        raise CorpusError(f"{layout.uri('density.xls')} cannot be read: {error}; it holds the weights of ECUSTFD") from error
    weights: Weights = defaultdict(dict)
    for sheet in book.sheets():
        for row in range(1, sheet.nrows):
            portion, name, volume, mass = (sheet.row_values(row) + [""] * 4)[:4]
            portion, name = str(portion).strip().lower(), str(name).strip()
            if not portion and not name:
                continue
            amounts = tuple(float(value) if isinstance(value, float) and value > 0 else None for value in (volume, mass))
            if None in amounts or name in weights[portion]:
                odd.add("weights_unreadable", f"{sheet.name} row {row + 1} ({portion})")
            weights[portion].setdefault(name, (amounts[0], amounts[1]))
    return dict(weights)


def _parse_name(stem: str, odd: Oddities) -> Name:
    image_id = re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\((\d+)\)$", r"-\1", stem))[:64]
    match = re.fullmatch(r"([A-Za-z_]+\d+)([STst])\((\d+)\)", stem)
    if match is None:
        odd.add("names_not_understood", stem)
        return Name(re.sub(r"[@\s]", "_", stem), "unknown", image_id)
    if match[2].islower() or not match[1].islower():
        odd.add("names_of_other_case", stem)
    return Name(match[1].lower(), {"S": "side", "T": "top"}[match[2].upper()], image_id)


def _owners(portions: list[str], weights: Weights, odd: Oddities) -> dict[str, str]:
    """The participant of each portion: itself, or the first of the portions that show the same piece of food."""
    owners = {portion: portion for portion in portions}
    for plate in portions:
        foods = weights.get(plate, {})
        if len(foods) < 2:
            continue
        group = {plate} | {same for name, amounts in foods.items() for same in _same_food(name, amounts, portions, weights)}
        group |= {portion for portion in portions if owners[portion] in {owners[member] for member in group}}
        owners |= {portion: min(group) for portion in group}
    shared = Counter(owners.values())
    for portion in portions:
        if shared[owners[portion]] > 1:
            odd.add("portions_sharing_a_food", f"{portion} ({owners[portion]})")
    return owners


def _same_food(name: str, amounts: tuple[float | None, float | None], portions: list[str], weights: Weights) -> list[str]:
    """Single portions with the class and mass of a food on a plate; where the mass leaves several, those with its volume too."""
    alone = {portion: weights[portion][name] for portion in portions if list(weights.get(portion, {})) == [name]}
    same = [portion for portion, found in alone.items() if found[1] is not None and found[1] == amounts[1]]
    closer = [portion for portion in same if alone[portion][0] == amounts[0]]
    return closer if len(same) > 1 and closer else same


def _read_boxes(layout: Store, key: str, annotation: str | None, odd: Oddities) -> tuple[list[tuple[str, Box | None]], int, float | None]:
    """The foods of a photo with their boxes (None where it is refused), the number of coins and the scale in px per mm."""
    stem = PurePosixPath(key).stem
    if annotation is None:
        odd.add("photos_without_annotation", stem)
        return [], 0, None
    try:
        root = ET.fromstring(layout.read(annotation))
        stated = (int(float(root.findtext("size/width", "0"))), int(float(root.findtext("size/height", "0"))))
        boxes = [_box(node) for node in root.findall("object")]
    except (ET.ParseError, ValueError) as error:
        odd.add("annotations_unreadable", f"{stem} ({error})")
        return [], 0, None
    size = _photo_size(layout, key, odd)
    if size is not None and size != stated:
        odd.add("photos_of_other_size", f"{stem} (the photo is {size[0]} x {size[1]}, its annotation {stated[0]} x {stated[1]})")
    kept = [(box.name, _clip(box, stated, stem, odd) if size in (None, stated) else None) for box in boxes]
    return _judge(stem, kept, odd)


def _box(node: ET.Element) -> Box:
    x, y, right, lower = (float(node.findtext(f"bndbox/{edge}", "nan")) for edge in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, (x, y, right, lower))):
        raise ValueError("a box has no xmin, ymin, xmax and ymax")
    return Box(node.findtext("name", "").strip(), x, y, right - x, lower - y)


def _photo_size(layout: Store, key: str, odd: Oddities) -> tuple[int, int] | None:
    """Width and height as the photo is seen, from its header; None where that cannot be read (the index quarantines it)."""
    try:
        header = read_header(layout.read(key))
    except PhotoError as error:
        odd.add("headers_unreadable", f"{PurePosixPath(key).stem} ({error.reason})")
        return None
    if header.exif_orientation != 1:
        odd.add("photos_turned_by_exif", PurePosixPath(key).stem)
    return header.width_px, header.height_px


def _clip(box: Box, size: tuple[int, int], stem: str, odd: Oddities) -> Box | None:
    left, upper = max(box.x, 0), max(box.y, 0)
    right, lower = min(box.x + box.w, size[0]), min(box.y + box.h, size[1])
    if (left, upper, right, lower) != (box.x, box.y, box.x + box.w, box.y + box.h):
        odd.add("boxes_cut_at_the_edge", f"{stem} {box.name}")
    return Box(box.name, left, upper, right - left, lower - upper) if right > left and lower > upper else None


def _judge(stem: str, boxes: list[tuple[str, Box | None]], odd: Oddities) -> tuple[list[tuple[str, Box | None]], int, float | None]:
    """Tell wrong boxes: a coin that is not square, or a food drawn where the coin is."""
    coins = [box for name, box in boxes if name == COIN]
    if len(coins) > 1:
        odd.add("photos_with_several_coins", stem)
    coin = coins[0] if len(coins) == 1 else None
    if coins and (coin is None or not SQUARE[0] <= coin.aspect <= SQUARE[1]):
        odd.add("coin_boxes_refused", stem if coin is None else f"{stem} ({coin.w:g} x {coin.h:g} px)")
        coin = None
    foods = [(name, box) for name, box in boxes if name != COIN]
    for index, (name, box) in enumerate(foods):
        if box is None or (coin is not None and box.overlap(coin) > SAME_PLACE):
            odd.add("food_boxes_refused", f"{stem} {name}")
            foods[index] = (name, None)
    if not foods:
        odd.add("photos_without_food", stem)
    return foods, len(coins), None if coin is None else math.sqrt(coin.w * coin.h) / COIN_MM


def _image_row(key: str, name: Name, owner: str, scale: float | None) -> dict[str, Any]:
    return {
        "image_id": name.image_id,
        "image_uri": key,
        "study_id": "ecustfd",
        "participant_id": owner,
        "occasion_id": name.portion,
        "capture_role": "before",
        "pair_id": name.portion,
        "view": name.view,
        "marker_id": None if scale is None else MARKER_ID,  # where no coin is annotated none is looked for: a false one is worse than none
        "marker_px_per_mm": scale,
        "amount_target": "served",
        "consent_scope": "score_train",
    }


def _items(name: Name, foods: list[tuple[str, Box | None]], weights: dict[str, tuple[float | None, float | None]], odd: Oddities) -> list[dict[str, Any]]:
    """One item a food box. A food that has several boxes in a photo was weighed as one, so its items carry no amounts."""
    repeated = {food for food, count in Counter(food for food, _ in foods).items() if count > 1}
    for food in sorted(repeated):
        odd.add("repeated_foods", f"{name.image_id} {food}")
    for food in weights.keys() - {food for food, _ in foods}:
        odd.add("weighed_foods_without_box", f"{name.image_id} {food}")
    items = []
    for index, (food, box) in enumerate(foods):
        volume, mass = weights.get(food, (None, None)) if food not in repeated else (None, None)
        if mass is None:
            odd.add("items_without_weight", f"{name.image_id} {food}")
        if box is None:
            odd.add("items_without_box", f"{name.image_id} {food}")
        place = {} if box is None else {"bbox_x": box.x, "bbox_y": box.y, "bbox_w": box.w, "bbox_h": box.h}
        energy = None if mass is None or food not in ENERGY else mass * ENERGY[food] / 100
        amounts = {"mass_g": mass, "volume_ml": volume, "energy_kcal": energy, "amount_basis": "served", "truth_method": "weighed"}
        items.append(
            {"truth_item_id": f"{name.image_id}#{index}", "image_id": name.image_id, "occasion_id": name.portion, "class_name": food, **place, **amounts}
        )
    return items


def _compare(names: dict[str, Name], weights: Weights, annotations: dict[str, str], odd: Oddities) -> None:
    for stem in sorted(annotations.keys() - {PurePosixPath(key).stem for key in names}):
        odd.add("annotations_without_photo", stem)
    for portion in sorted(weights.keys() - {name.portion for name in names.values()}):
        odd.add("weighed_portions_without_photo", portion)


def _foods(classes: list[str], odd: Oddities) -> pa.Table:
    """The known foods, and a row without values for each class that is not among them."""
    rows: list[dict[str, Any]] = [
        {"class_name": name, "parent_group": group, "energy_kcal_per_100g": kcal, "density_g_per_ml": density, "source": source + _DENSITY}
        for name, group, kcal, density, source in FOODS
    ]
    for name in classes:
        if name in MISSPELT:
            odd.add("classes_misspelt", f"{name} ({MISSPELT[name]}), kept as published")
        if name not in ENERGY:
            odd.add("classes_without_energy", name)
            rows.append({"class_name": name, "source": "not in the importer's table"})
    return pa.Table.from_pylist(rows, schema=arrow_schema(FOOD_COLUMNS))


def _summary(images: list[dict[str, Any]], items: list[dict[str, Any]], odd: Oddities) -> ImportSummary:
    counts = {kind: len(odd.found.get(kind, [])) for kind in COUNTS}
    counts |= {"photos": len(images), "items": len(items)}
    counts |= {"portions": len({row["pair_id"] for row in images}), "participants": len({row["participant_id"] for row in images})}
    counts["classes"] = len({item["class_name"] for item in items})
    notes = [f"{kind.replace('_', ' ')}: {len(odd.found[kind])} ({listed(odd.found[kind])})" for kind in COUNTS if kind in odd.found]
    for note in notes:
        log.info("ECUSTFD %s", note)
    return ImportSummary(counts=counts, notes=notes)
