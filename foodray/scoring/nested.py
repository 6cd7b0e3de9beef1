"""Items of photos, nested and flat: ordered by area, with their amounts filled from the foods table, and summed per photo.

In: `image_results` as scoring wrote them. Out: the same rows with items in their final order and form, and the flat items.
Everything works on Arrow columns; an archive has millions of items.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.schema import arrow_schema
from foodray.scoring.schema import ITEM_FIELDS, NUTRIENTS

log = logging.getLogger(__name__)

KJ_PER_KCAL = 4.184
_ENDS = ("", "lo_", "hi_")


def flatten(image_results: pa.Table) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The items of all photos in falling order of area: table (N rows), row of the photo (N,), index in the photo (N,).

    Area is `area_px`, else that of the box; ties go by the place in the photo, from the top left.
    """
    nested = image_results["items"].combine_chunks()
    parent = pc.list_parent_indices(nested).to_numpy().astype(np.int64)
    flat = pa.Table.from_batches([pa.RecordBatch.from_struct_array(pc.list_flatten(nested))])
    x, y, w, h, area = (_floats(flat[name]) for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "area_px"))
    order = np.lexsort((x, y, -np.where(np.isnan(area), w * h, area), parent))
    parent = parent[order]
    starts = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]]) if len(parent) else parent
    index = np.arange(len(parent)) - np.repeat(starts, np.diff(np.r_[starts, len(parent)]))
    return flat.take(pa.array(order)), parent, index


def nest(image_results: pa.Table, items: pa.Table, parent: np.ndarray) -> pa.Table:
    """The results with these flat items in place of theirs, and counts and energy of each photo filled.

    A photo's energy is the sum of what is known: null where nothing is, 0 where no food was found.
    """
    known = image_results["items"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    num_rows = image_results.num_rows
    counts = np.bincount(parent, minlength=num_rows)
    schema = arrow_schema(ITEM_FIELDS)
    structs = pa.StructArray.from_arrays([items[field.name].combine_chunks() for field in schema], fields=list(schema))
    offsets = pa.array(np.r_[0, np.cumsum(counts)], pa.int32())
    energy, unknown = sums(_floats(items["energy_kcal"]), parent, num_rows)
    filled = {
        "items": pa.ListArray.from_arrays(offsets, structs, type=image_results.schema.field("items").type, mask=pa.array(~known)),
        "num_items": pa.array(counts, pa.int16(), mask=~known),
        "num_items_without_energy": pa.array(unknown, pa.int16(), mask=~known),
        "energy_kcal": pa.array(energy, pa.float64(), mask=~known | np.isnan(energy)),
    }
    return pa.table({name: filled.get(name, image_results[name]) for name in image_results.column_names}, schema=image_results.schema)


def sums(values: np.ndarray, parent: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the known values of each photo, NaN where it has items but no known value, and how many are unknown."""
    unknown = np.isnan(values)
    total = np.bincount(parent, weights=np.where(unknown, 0.0, values), minlength=num_rows)
    num, num_unknown = np.bincount(parent, minlength=num_rows), np.bincount(parent, weights=unknown, minlength=num_rows).astype(np.int64)
    return np.where((num > 0) & (num == num_unknown), np.nan, total), num_unknown


def fill_amounts(items: pa.Table, foods: pa.Table | None) -> pa.Table:
    """Flat items with energy, kJ, nutrients and food codes, as far as the model and the foods table support them.

    A predicted energy is kept. Else energy is mass x energy_kcal_per_100g / 100, where a missing mass is first taken from volume x
    density_g_per_ml; the ends of intervals go the same way. Nutrients follow from the mass alone, through NAME_per_100g.
    What is not supported is null. `energy_basis` says which it was.
    """
    rows = _rows_of(items["class_name"], foods)
    columns = {name: items[name] for name in items.column_names}
    number = {name: _floats(items[name]) for name in items.column_names if pa.types.is_float64(items.schema.field(name).type)}
    predicted, weighed = ~np.isnan(number["energy_kcal"]), ~np.isnan(number["mass_g"])
    density, per_100g = _of_food(foods, "density_g_per_ml", rows), _of_food(foods, "energy_kcal_per_100g", rows)
    for end in _ENDS:
        mass, energy = f"mass_{end}g", f"energy_{end}kcal"
        number[mass] = np.where(weighed, number[mass], number[f"volume_{end}ml"] * density)
        number[energy] = np.where(predicted, number[energy], number[mass] * per_100g / 100)
        columns |= {mass: _array(number[mass]), energy: _array(number[energy])}
    known = ~np.isnan(number["energy_kcal"])
    basis = np.select([predicted, known & weighed, known], ["predicted", "mass_and_foods", "volume_and_foods"], "")
    columns["energy_basis"] = pa.array(basis, pa.string(), mask=~known)
    columns["energy_kj"] = _array(number["energy_kcal"] * KJ_PER_KCAL)
    for name in NUTRIENTS:
        columns[name] = _array(number["mass_g"] * _of_food(foods, f"{name}_per_100g", rows) / 100)
    for name in ("food_code_system", "food_code_version", "food_code"):
        columns[name] = _text_of_food(foods, name, rows)
    return pa.table(columns)


def _rows_of(class_names: pa.ChunkedArray, foods: pa.Table | None) -> pa.Array:
    """Row of each item's class in the foods table, null where it is not there."""
    if foods is None:
        return pa.nulls(len(class_names), pa.int32())
    return pc.index_in(class_names, foods["class_name"].combine_chunks()).combine_chunks()


def _of_food(foods: pa.Table | None, name: str, rows: pa.Array) -> np.ndarray:
    """A number of the foods table for each item, NaN where there is none."""
    if foods is None or name not in foods.column_names:
        return np.full(len(rows), np.nan)
    if pa.types.is_string(foods.schema.field(name).type):
        log.warning("foods: the column %r holds text, so it is not used; every value of it has to be a number", name)
        return np.full(len(rows), np.nan)
    return _floats(foods[name].take(rows))


def _text_of_food(foods: pa.Table | None, name: str, rows: pa.Array) -> pa.Array:
    if foods is None or name not in foods.column_names:
        return pa.nulls(len(rows), pa.string())
    return foods[name].take(rows).cast(pa.string()).combine_chunks()


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers as float64 with NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


def _array(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))
