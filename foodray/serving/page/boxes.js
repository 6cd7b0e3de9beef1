// The number fields of a box: its left, top, width and height in px of the photo.

import { Problem } from "./api.js";
import { at } from "./shell.js";

const fields = (kind) => ["x", "y", "w", "h"].map((part) => at(`${kind}-${part}`));

/** Write a box into the number fields of a form, or empty them. */
export function writeBox(kind, box) {
  fields(kind).forEach((input, place) => (input.value = box ? String(Math.round(box[place] * 10) / 10) : ""));
}

/** The numbers of a box, null where none is given; throws a `Problem` for what is no box inside the photo. */
export function readBox(kind, { width_px: wide, height_px: high }) {
  const texts = fields(kind).map((input) => input.value.trim());
  if (texts.every((text) => text === "")) return null;
  const [x, y, width, height] = texts.map((text) => (text === "" ? NaN : Number(text)));
  const inside = x >= 0 && y >= 0 && width > 0 && height > 0 && x + width <= wide && y + height <= high;
  if (!inside) throw new Problem(`A box needs four numbers and lies inside the photo of ${wide} × ${high} px.`);
  return [x, y, width, height];
}
