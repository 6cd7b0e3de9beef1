// One photo under review: what the server says holds, and the changes made here that are not saved yet. No page in this file.

import { AMOUNTS } from "./words.js";

const NAMES = Object.keys(AMOUNTS);
const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
const MOST_SECONDS = 900;

/** Counts the time that the page is looked at between one change and the next. */
class Clock {
  #spent = 0;
  #since = performance.now();
  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#spent += performance.now() - this.#since;
      this.#since = performance.now();
    });
  }
  take() {
    const spent = (this.#spent + (document.hidden ? 0 : performance.now() - this.#since)) / 1000;
    this.#spent = 0;
    this.#since = performance.now();
    return Math.round(Math.min(spent, MOST_SECONDS) * 10) / 10;
  }
}
export const clock = new Clock();

export class Review {
  edits = [];
  #added = 0;
  #group = 0;

  constructor(doc) {
    this.doc = doc;
  }

  /** The state of the server again; changes that are not saved stay. */
  refresh(doc) {
    this.doc = doc;
    this.edits = this.edits.filter(({ id }) => id === null || this.isNew(id) || doc.items?.some((item) => item.item_id === id));
  }

  isNew(id) {
    return id?.startsWith("new ") ?? false;
  }

  /** Note changes, made in one go: [id or null, field, value, more]. A change of what was just changed replaces it. */
  change(...changes) {
    this.#group += 1;
    for (const [id, field, value, more] of changes) {
      const last = this.edits.at(-1);
      const seconds = clock.take();
      if (changes.length === 1 && last && last.id === id && last.field === field && field !== "added") {
        Object.assign(last, { value, ...more, seconds: last.seconds + seconds });
      } else {
        this.edits.push({ id, field, value, seconds, reason: "", group: this.#group, ...more });
      }
    }
  }

  /** Note an item that was missed; returns the id that it has until it is saved. */
  add(value, more) {
    const id = `new ${(this.#added += 1)}`;
    const change = [id, "added", value, more];
    if (this.noFood) this.change([null, "no_food", false], change);
    else this.change(change);
    return id;
  }

  undo() {
    const group = this.edits.at(-1)?.group;
    this.edits = this.edits.filter((edit) => edit.group !== group);
  }

  get noFood() {
    return this.#latest(null, "no_food", this.doc.no_food);
  }

  #latest(id, field, otherwise) {
    return this.edits.findLast((edit) => edit.id === id && edit.field === field)?.value ?? otherwise;
  }

  /** Every item as it holds with the changes made here, deleted ones too. */
  items() {
    const items = (this.doc.items ?? []).map((item) => ({ ...ofServer(item), unsaved: false }));
    for (const { id, field, value } of this.edits) {
      if (field === "added") items.push({ ...ofReviewer(id, value), unsaved: true });
      const item = items.find((one) => one.id === id);
      if (item && field !== "added") Object.assign(item, { [field]: value, unsaved: true });
    }
    return items.map((item) => this.#finished(item));
  }

  #finished(item) {
    const predicted = item.predicted && valuesOf(item.predicted);
    const changed = !predicted || Object.keys(predicted).some((name) => !same(predicted[name], item[name]));
    const status = item.deleted || this.noFood ? "rejected" : !predicted ? "added" : changed ? "corrected" : item.confirmed ? "confirmed" : "none";
    return { ...item, status, interval: (name) => (changed ? null : item.predicted.portion[name]) };
  }

  totals() {
    const items = this.items().filter((item) => item.status !== "rejected");
    const known = items.filter((item) => item.energy_kcal !== null);
    const without = items.filter((item) => item.status === "corrected" || item.status === "added").length;
    return { num: items.length, known: known.length, energy: known.reduce((sum, item) => sum + item.energy_kcal, 0), without };
  }

  get unsaved() {
    return this.corrections().length;
  }

  /** The changes as the endpoint takes them: the last of each item and field, without those that were taken back. */
  corrections() {
    const base = new Map((this.doc.items ?? []).map((item) => [item.item_id, ofServer(item)]));
    const folded = new Map();
    for (const edit of this.edits) {
      const name = JSON.stringify(this.isNew(edit.id) ? [edit.id] : [edit.id, edit.field]);
      folded.set(name, this.#joined(folded.get(name), edit));
    }
    const found = [...folded.values()].filter((one) => one.id === null || (this.isNew(one.id) ? !one.deleted : !same(base.get(one.id)?.[one.field], one.value)));
    const photo = found.filter(({ id, value }) => id === null && !same(value, this.doc.no_food ?? false));
    const ofItems = found.filter(({ id }) => id !== null);
    // Where the photo had been marked as without food that is taken back first, and a new mark comes last.
    return [...photo.filter((one) => !one.value), ...ofItems, ...photo.filter((one) => one.value)].map((one) => this.#asSent(one));
  }

  #joined(before, edit) {
    const seconds = (before?.seconds ?? 0) + edit.seconds, reason = edit.reason || before?.reason || "";
    if (!this.isNew(edit.id) || edit.field === "added") return { ...edit, seconds, reason };
    if (edit.field === "deleted") return { ...before, seconds, reason, deleted: edit.value };
    if (edit.field === "confirmed") return { ...before, seconds };
    return { ...before, seconds, reason, value: { ...before.value, [edit.field]: edit.value }, freeLabel: edit.field === "class_name" ? edit.freeLabel : before.freeLabel };
  }

  #asSent({ id, field, value, seconds, reason, freeLabel }) {
    const correction = { item_id: this.isNew(id) ? null : id, field, new: value, seconds: Math.round(seconds * 10) / 10, reason };
    return freeLabel ? { ...correction, free_label: true } : correction;
  }
}

/** The answer of an endpoint that keeps nothing, in the form of a kept analysis. */
export function unkept({ photos: [photo], versions }) {
  const items = photo.items?.map((item) => ({ ...item, class_name: item.class_name ?? item.mask_class_name, predicted: item, deleted: false, confirmed: false, reviewer: null, reviewed_at: null }));
  return { analysis_id: null, photo, versions, items: items ?? null, no_food: null, corrections: [], has_photo: false };
}

function valuesOf({ class_name, mask_class_name, bbox_xywh_px, portion }) {
  const amounts = Object.fromEntries(NAMES.map((name) => [name, portion[name]?.value ?? null]));
  return { class_name: class_name ?? mask_class_name ?? null, bbox_xywh_px: bbox_xywh_px ?? null, ...amounts };
}

function ofServer(item) {
  const { item_id: id, deleted, confirmed, predicted, reviewer, reviewed_at } = item;
  return { id, deleted, confirmed, predicted, reviewer, reviewed_at, ...valuesOf(item) };
}

function ofReviewer(id, value) {
  const amounts = Object.fromEntries(NAMES.map((name) => [name, value[name] ?? null]));
  return { id, deleted: false, confirmed: false, predicted: null, reviewer: null, reviewed_at: null, class_name: value.class_name, bbox_xywh_px: value.bbox_xywh_px ?? null, ...amounts };
}
