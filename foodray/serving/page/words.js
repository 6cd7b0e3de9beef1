// Codes of the endpoint in words, and numbers as people read them.

const FLAGS = {
  low_confidence: "class is uncertain",
  whole_photo: "no box: the whole photo was read as one item",
  no_scale: "no scale: the portion is less certain",
  out_of_range: "portion is outside what the model was trained on",
  overlaps: "overlaps another item",
  near_duplicate: "almost the same photo was sent before",
  needs_review: "should be looked at",
  marker_not_found: "reference marker not found",
  ambiguous: "several objects look like the marker",
  high_reprojection_error: "the marker is seen inexactly",
  strong_tilt: "the camera was held at a strong tilt",
  patches_clipped: "marker colours are too bright or too dark",
  color_gains_only: "colours were corrected roughly",
  color_not_improved: "colours could not be corrected",
};
export const STATES = { none: "not reviewed", confirmed: "confirmed", corrected: "corrected", rejected: "deleted", added: "added" };
export const AMOUNTS = {
  energy_kcal: { name: "Energy", unit: "kcal" },
  mass_g: { name: "Mass", unit: "g" },
  volume_ml: { name: "Volume", unit: "ml" },
};
export const FIELDS = { class_name: "class", bbox_xywh_px: "box", deleted: "deleted", confirmed: "confirmed", added: "added", no_food: "no food", energy_kcal: "energy", mass_g: "mass", volume_ml: "volume" };

export const flagWords = (flag) => (Object.hasOwn(FLAGS, flag) ? FLAGS[flag] : String(flag).replaceAll("_", " "));
export const number = (value) => (value === null || value === undefined ? "" : String(Math.abs(value) >= 100 ? Math.round(value) : Math.round(value * 10) / 10));
export const percent = (share) => `${Math.round(share * 100)} %`;
export const time = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A value of a correction in words. */
export function valueWords(value) {
  if (value === null || value === undefined) return "nothing";
  if (value === true) return "yes";
  if (value === false) return "no";
  if (Array.isArray(value)) return value.map(number).join(", ");
  if (typeof value === "object") return value.class_name ?? "";
  return typeof value === "number" ? number(value) : value;
}

/** An element with properties and children; text always stays text. */
export function make(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
