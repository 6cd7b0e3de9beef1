// The table of items. A row keeps its elements while it changes, so that the keyboard's place in it is never lost.

import { colorOf } from "./overlay.js";
import { AMOUNTS, STATES, flagWords, make, number, percent } from "./words.js";

const OTHER = ""; // no class has this name

export class ItemTable {
  #rows = new Map();
  #drawn = "";

  constructor(table, { onSelect, onChange, onConfirm, onDelete }) {
    this.table = table;
    this.body = table.tBodies[0];
    this.calls = { onSelect, onChange, onConfirm, onDelete };
  }

  /** Show items with the portions of these names; `chosen` is the id of the one that is selected. */
  show(items, amounts, chosen) {
    const wanted = JSON.stringify([items.map((item) => item.id), amounts]);
    if (wanted !== this.#drawn) {
      this.#drawn = wanted;
      this.#rows = new Map(items.map((item) => [item.id, new Row(item.id, amounts, this.calls)]));
      this.body.replaceChildren(...[...this.#rows.values()].map((row) => row.element));
    }
    items.forEach((item, place) => this.#rows.get(item.id).show(item, place, item.id === chosen));
  }

  /** Put the keyboard on an item's row, on its class, or on its portion. */
  focus(id, part = "row", options = {}) {
    this.#rows.get(id)?.focus(part, options);
  }
}

class Row {
  #options = "";

  constructor(id, amounts, calls) {
    this.id = id;
    this.calls = calls;
    this.swatch = make("span", { className: "swatch" });
    this.place = make("span");
    this.select = make("select", { ariaLabel: "Class" });
    this.other = make("input", { ariaLabel: "Another class", maxLength: 100, hidden: true, autocomplete: "off", list: "labels", placeholder: "another class" });
    this.amounts = new Map(amounts.map((name) => [name, this.#amount(name)]));
    this.notes = make("div", { className: "notes" });
    this.state = make("div", { className: "state" });
    this.who = make("small");
    this.confirm = make("button", { type: "button", textContent: "Confirm" });
    this.remove = make("button", { type: "button", textContent: "Delete" });
    this.element = make(
      "tr",
      { tabIndex: -1 },
      make("th", { scope: "row" }, this.swatch, " ", this.place),
      make("td", { className: "name" }, this.select, this.other, this.notes),
      make("td", {}, ...[...this.amounts.values()].map(({ whole }) => whole)),
      make("td", {}, this.state, this.who, make("div", { className: "buttons" }, this.confirm, this.remove)),
    );
    this.element.dataset.item = id;
    this.#listen();
  }

  #amount(name) {
    const { name: word, unit } = AMOUNTS[name];
    const input = make("input", { type: "number", min: "0", max: "999999", step: "any", inputMode: "decimal", ariaLabel: `${word} in ${unit}` });
    const interval = make("small");
    input.addEventListener("change", () => {
      const value = input.value.trim() === "" ? null : Number(input.value);
      if (input.validity.valid && (value === null || Number.isFinite(value))) this.calls.onChange(this.id, name, value);
      else input.reportValidity();
    });
    return { input, interval, whole: make("div", {}, make("div", { className: "amount" }, input, unit), interval) };
  }

  #listen() {
    this.element.addEventListener("focusin", () => this.calls.onSelect(this.id));
    this.element.addEventListener("pointerdown", () => this.calls.onSelect(this.id));
    this.select.addEventListener("change", () => {
      if (this.select.value !== OTHER) this.calls.onChange(this.id, "class_name", this.select.value);
      else {
        this.other.hidden = false;
        this.other.focus();
      }
    });
    this.other.addEventListener("change", () => {
      const name = this.other.value.trim();
      if (name) this.calls.onChange(this.id, "class_name", name);
    });
    this.confirm.addEventListener("click", () => this.calls.onConfirm(this.id));
    this.remove.addEventListener("click", () => this.calls.onDelete(this.id));
  }

  show(item, place, isChosen) {
    this.element.className = item.status;
    this.element.tabIndex = isChosen ? 0 : -1;
    if (isChosen) this.element.setAttribute("aria-current", "true");
    else this.element.removeAttribute("aria-current");
    this.swatch.style.background = colorOf(place);
    this.place.textContent = `${place + 1}`;
    this.element.setAttribute("aria-label", `Item ${place + 1}`);
    this.#showClass(item);
    for (const [name, parts] of this.amounts) this.#showAmount(item, name, parts);
    this.notes.replaceChildren(...(item.predicted?.flags ?? []).map((flag) => make("span", { className: "flag", textContent: flagWords(flag) })), ...area(item));
    this.state.className = `state ${item.status}`;
    this.state.textContent = STATES[item.status] + (item.unsaved ? " (not saved)" : "");
    this.who.textContent = item.reviewer && item.status !== "none" ? `last by ${item.reviewer}` : "";
    this.confirm.setAttribute("aria-pressed", String(item.confirmed));
    this.confirm.hidden = !item.predicted || item.status === "rejected";
    this.remove.textContent = item.deleted ? "Take back" : "Delete";
  }

  #showClass(item) {
    const labels = item.predicted?.labels ?? [];
    const named = labels.map(({ class_name: name, prob }) => [name, `${name} – ${percent(prob)}`]);
    const predicted = item.predicted && (item.predicted.class_name ?? item.predicted.mask_class_name);
    for (const name of [predicted, item.class_name]) if (name && !named.some(([known]) => known === name)) named.unshift([name, name]);
    const wanted = JSON.stringify(named);
    if (wanted !== this.#options) {
      this.#options = wanted;
      const options = named.map(([value, textContent]) => make("option", { value, textContent }));
      this.select.replaceChildren(...options, make("option", { value: OTHER, textContent: "another class …" }));
    }
    const typing = document.activeElement === this.other || (this.select.value === OTHER && document.activeElement === this.select && !this.other.hidden);
    if (typing && this.other.value.trim() !== item.class_name) return;
    this.select.value = item.class_name ?? OTHER;
    this.other.hidden = item.class_name !== null;
    this.other.value = "";
  }

  #showAmount(item, name, { input, interval }) {
    if (document.activeElement !== input || item[name] !== this.shown?.[name]) input.value = number(item[name]);
    this.shown = { ...this.shown, [name]: item[name] };
    interval.textContent = intervalWords(item, name);
  }

  focus(part, { scroll = true }) {
    const [amount] = this.amounts.values();
    const target = { row: this.element, class: this.select, portion: amount?.input }[part] ?? this.element;
    target.focus({ preventScroll: !scroll });
    target.select?.();
    if (scroll) this.element.scrollIntoView({ block: "nearest" });
  }
}

function intervalWords(item, name) {
  if (item.status === "rejected") return "not counted";
  const held = item.interval(name);
  if (held && held.lo !== null && held.hi !== null) {
    const level = held.level === null ? "" : ` (${percent(held.level)} interval)`;
    return `${number(held.lo)} to ${number(held.hi)}${level}`;
  }
  const was = item.predicted?.portion[name];
  if (!was) return item.predicted ? "no estimate" : "given by a reviewer";
  const text = `the model said ${number(was.value)}`;
  return was.lo !== null && item.status === "corrected" ? `${text}; its interval no longer holds` : text;
}

const area = (item) => (item.predicted?.area_cm2 ? [make("small", { textContent: `covers ${number(item.predicted.area_cm2)} cm² of the table` })] : []);
