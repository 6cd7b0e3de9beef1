// What is told about a photo beside its items: tags, quality, versions, totals, earlier corrections, the list of kept analyses.

import { AMOUNTS, FIELDS, flagWords, make, number, percent, time, valueWords } from "./words.js";

const MOST_TAGS = 12;
const pairs = (list, rows) => list.replaceChildren(...rows.flatMap(([name, words]) => [make("dt", { textContent: name }), make("dd", { textContent: words })]));

export function showQuality(list, photo) {
  const { quality } = photo;
  const found = { true: "found", false: "not found: amounts are less certain" }[quality.marker_found] ?? "was not looked for";
  const rows = [
    ["Photo", photo.image_id],
    ["Size", photo.width_px ? `${photo.width_px} × ${photo.height_px} px` : "unknown"],
    ["Marker", [found, ...quality.marker_flags.map(flagWords).filter((words) => words !== flagWords("marker_not_found"))].join("; ")],
    ["Scale", quality.px_per_mm === null ? "unknown" : `${number(quality.px_per_mm)} px in 1 mm`],
  ];
  if (quality.marker_tilt_deg !== null) rows.push(["Tilt", `${number(quality.marker_tilt_deg)}°`]);
  if (quality.num_pieces_dropped) {
    const share = quality.dropped_food_share === null ? "" : `, ${percent(quality.dropped_food_share)} of what looks like food`;
    rows.push(["Left out", `${quality.num_pieces_dropped} pieces too small or too many to be items${share}`]);
  }
  if (photo.reason) rows.push(["Not analysed", `${photo.reason.detail} (${photo.reason.code})`]);
  pairs(list, rows);
}

/** The tags that the photo is given, and the most probable others, as the model says them: nobody corrects them. */
export function showTags(box, list, note, tags) {
  box.hidden = !tags?.length;
  if (box.hidden) return;
  const shown = tags.filter(({ given }, place) => given || place < MOST_TAGS);
  list.replaceChildren(
    ...shown.map(({ tag, prob, given }) => {
      const mark = given ? [make("span", { className: "mark", ariaHidden: "true", textContent: "✓" }), " "] : [];
      return make("li", { className: given ? "tag given" : "tag" }, ...mark, `${tag} ${percent(prob)}`, make("span", { className: "unseen", textContent: given ? ", given" : ", not given" }));
    }),
  );
  const told = tags.some(({ given }) => given) ? "✓ given to the photo" : "None is given to the photo";
  note.textContent = shown.length < tags.length ? `${told}; ${tags.length - shown.length} less probable are not shown.` : `${told}.`;
}

export function showVersions(list, versions) {
  pairs(list, [["Model", versions.model_id], ["Its hash", versions.model_sha256], ["Code", versions.code_version], ["Configuration", versions.config_sha256]]);
}

export function showTotals(box, { num, known, energy, without }) {
  const count = `${num} ${num === 1 ? "item" : "items"}`;
  const sum = known || !num ? make("strong", { textContent: `${number(energy)} kcal` }) : make("strong", { textContent: "energy unknown" });
  const notes = [];
  if (known && known < num) notes.push(`the sum leaves out ${num - known} without energy`);
  if (without) notes.push(`${without} corrected or added: for ${without === 1 ? "it" : "these"} no interval holds`);
  box.replaceChildren("Total ", sum, ` in ${count}${notes.length ? "; " : ""}${notes.join("; ")}.`);
}

export function showHistory(box, list, rows) {
  box.hidden = rows.length === 0;
  list.replaceChildren(
    ...rows.map(({ item_id: id, field, old, new: value, reviewer, ts, reason }) => {
      const what = `${id ?? "photo"}: ${FIELDS[field]} ${valueWords(old)} → ${valueWords(value)}`;
      return make("li", {}, what, make("small", { textContent: ` ${reviewer}, ${time(ts)}${reason ? `: ${reason}` : ""}` }));
    }),
  );
}

/** The kept analyses as buttons; `unsaved` tells whether one has changes that are not saved. */
export function showKept(list, analyses, { current, unsaved, onOpen }) {
  list.replaceChildren(
    ...analyses.map((one) => {
      const told = [time(one.created_at), `${one.num_items} ${one.num_items === 1 ? "item" : "items"}`, one.needs_review ? "needs review" : "reviewed"];
      if (one.num_corrections) told.push(`${one.num_corrections} corrections`);
      if (unsaved(one.analysis_id)) told.push("NOT SAVED");
      const button = make("button", { type: "button" }, make("span", { textContent: one.image_id }), make("small", { textContent: told.join(", ") }));
      if (one.analysis_id === current) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => onOpen(one.analysis_id));
      return make("li", {}, button);
    }),
  );
  if (!analyses.length) list.append(make("li", { className: "note", textContent: "Nothing is kept yet." }));
}

/** The names of the portions that a photo's items have, or could have. */
export function amountsOf(items, targets) {
  const seen = Object.keys(AMOUNTS).filter((name) => targets.has(name) || items.some((item) => item[name] !== null));
  return seen.length ? seen : ["energy_kcal"];
}
