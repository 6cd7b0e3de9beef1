// The page: wires the endpoint (api.js), the photo under review (review.js), the picture (overlay.js) and the table (items.js) together.

import { Problem, analysisPath, call, getJson, storeKey, storedKey } from "./api.js";
import { readBox, writeBox } from "./boxes.js";
import { ItemTable } from "./items.js";
import { listen } from "./keys.js";
import { Overlay } from "./overlay.js";
import { amountsOf, showHistory, showKept, showQuality, showTags, showTotals, showVersions } from "./panels.js";
import { Review, clock, unkept } from "./review.js";
import { at, on, quiet, say, tell, trying } from "./shell.js";
import { AMOUNTS, make } from "./words.js";

const PAGE = 50;
const state = { reviews: new Map(), images: new Map(), current: null, chosen: null, kept: [], next: null, labels: new Set(), targets: new Set(), canKeep: true, loaded: 0, opened: 0 };
const overlay = new Overlay(at("stage"), { onSelect: (id) => select(id, { focus: true }) });
const table = new ItemTable(at("items"), { onSelect: (id) => select(id), onChange: change, onConfirm: confirmItem, onDelete: deleteItem });
const review = () => state.reviews.get(state.current);

// ---- Key, labels, the list of kept analyses.

async function connect() {
  quiet();
  state.labels = new Set((await getJson("v1/labels")).labels);
  at("labels").replaceChildren(...[...state.labels].map((value) => make("option", { value })));
  const { models, markers } = await getJson("v1/models");
  state.targets = new Set(models.map(({ target }) => target).filter((target) => target in AMOUNTS));
  at("marker").replaceChildren(make("option", { value: "", textContent: "none" }), ...markers.map((value) => make("option", { value, textContent: value })));
  at("marker-row").hidden = markers.length === 0;
  await list();
  say(state.canKeep ? "Ready." : "This endpoint keeps nothing, so corrections cannot be saved.");
}

async function list(more = false) {
  const order = at("order").value;
  const after = more && state.next ? `&after=${encodeURIComponent(state.next)}` : "";
  const turn = (state.loaded += 1);
  try {
    const { analyses, next } = await getJson(`v1/analyses?limit=${PAGE}&order=${order}${after}`);
    if (turn !== state.loaded) return; // a later request came first
    state.kept = more ? [...state.kept, ...analyses] : analyses;
    state.next = next;
  } catch (problem) {
    if (problem.code !== "not_configured") throw problem;
    state.canKeep = false;
  }
  renderKept();
}

function renderKept() {
  at("more").hidden = !state.next;
  showKept(at("kept"), state.kept, { current: state.current, unsaved: (id) => Boolean(state.reviews.get(id)?.unsaved), onOpen: trying(open) });
}

// ---- Photos.

const upload = trying(async (files) => {
  quiet();
  const photos = [...files];
  const opened = [];
  for (const [place, file] of photos.entries()) {
    say(`Analysing photo ${place + 1} of ${photos.length} …`);
    try {
      opened.push(await analyze(file));
    } catch (problem) {
      if (photos.length > 1 && problem instanceof Problem) problem.message = `Photo ${place + 1} (${file.name}): ${problem.message}`;
      tell(problem);
    }
  }
  if (state.canKeep && opened.length) await list();
  if (opened.length) await open(opened[0]);
});

/** Send a photo; returns the id of its analysis. Its file name stays here. */
async function analyze(file) {
  const form = new FormData();
  form.append("image", file, "photo");
  if (at("marker").value) form.append("photos", JSON.stringify([{ marker_id: at("marker").value }]));
  const keep = !state.canKeep ? "none" : at("keep-photo").checked ? "photo" : "result";
  const reply = await (await call(`v1/analyze?top_k=5&include=masks&keep=${keep}`, { method: "POST", body: form })).json();
  const id = reply.analysis_ids?.[0] ?? `here ${reply.request_id}`;
  state.images.set(id, URL.createObjectURL(file));
  if (!reply.analysis_ids) state.reviews.set(id, new Review(unkept(reply)));
  return id;
}

async function open(id) {
  quiet();
  const turn = (state.opened += 1);
  await read(id);
  const { photo, versions, has_photo } = state.reviews.get(id).doc;
  if (has_photo && !state.images.has(id)) state.images.set(id, URL.createObjectURL(await (await call(analysisPath(id, "/photo"))).blob()));
  if (turn !== state.opened) return; // another was chosen meanwhile
  state.current = id;
  state.chosen = review().items()[0]?.id ?? null;
  overlay.open(photo.width_px, photo.height_px);
  showImage(state.images.get(id));
  showTags(at("tags-box"), at("tags"), at("tags-note"), photo.tags);
  showQuality(at("quality"), photo);
  showVersions(at("versions"), versions);
  at("remove").hidden = review().doc.analysis_id === null;
  for (const part of ["photo", "work"]) at(part).hidden = false;
  closeAdd();
  clock.take();
  render();
  if (state.chosen) table.focus(state.chosen, "row", { scroll: false });
  else at("add").focus({ preventScroll: true });
  if (matchMedia("(max-width: 60rem)").matches) at("photo").scrollIntoView({ block: "start" });
  say(`Photo ${photo.image_id}: ${review().items().length} items.`);
}

/** The state of an analysis from the server; changes that are not saved stay. */
async function read(id) {
  if (state.reviews.get(id)?.doc.analysis_id === null) return;
  const doc = await getJson(analysisPath(id));
  if (state.reviews.has(id)) state.reviews.get(id).refresh(doc);
  else state.reviews.set(id, new Review(doc));
}

function showImage(url) {
  const image = at("image");
  image.hidden = !url;
  at("no-image").hidden = Boolean(url);
  at("no-image").textContent = "The photo itself was not kept, so only its boxes and masks are shown.";
  if (url) image.src = url;
  else image.removeAttribute("src");
}

at("image").addEventListener("error", () => {
  if (at("image").hidden) return;
  at("image").hidden = true;
  at("no-image").hidden = false;
  at("no-image").textContent = "This browser cannot show the photo's format, so only its boxes and masks are shown.";
});

// ---- Items.

function render() {
  const items = review().items();
  if (!items.some((item) => item.id === state.chosen)) state.chosen = items[0]?.id ?? null;
  const { doc, unsaved, noFood } = review();
  const amounts = amountsOf(items, state.targets);
  overlay.show(items, state.chosen);
  table.show(items, amounts, state.chosen);
  at("items").hidden = items.length === 0;
  at("nothing").hidden = items.length > 0;
  at("nothing").textContent = doc.items === null ? "The photo could not be analysed." : noFood ? "No food, as a reviewer says." : "Nothing was found. Add what was missed, or say that there is no food.";
  showTotals(at("totals"), review().totals());
  showHistory(at("history-box"), at("history"), doc.corrections);
  at("no-food").setAttribute("aria-pressed", String(Boolean(noFood)));
  for (const button of ["add", "no-food"]) at(button).disabled = doc.items === null;
  at("save").disabled = unsaved === 0 || doc.analysis_id === null;
  at("undo").disabled = review().edits.length === 0;
  at("unsaved").textContent = unsaved ? `${unsaved} ${unsaved === 1 ? "change" : "changes"} not saved` : "";
  showBox(items.find((item) => item.id === state.chosen));
  renderKept();
}

function select(id, { focus = false } = {}) {
  if (id !== state.chosen) {
    state.chosen = id;
    at("reason").value = "";
    render();
  }
  if (focus) table.focus(id);
}

function move(step) {
  const ids = review().items().map((item) => item.id);
  const place = Math.min(ids.length - 1, Math.max(0, ids.indexOf(state.chosen) + step));
  if (ids.length) select(ids[place], { focus: true });
}

function change(id, field, value) {
  if (review().noFood && field !== "no_food") return refuse();
  const before = review().items().find((item) => item.id === id);
  if (JSON.stringify(before[field]) === JSON.stringify(value)) return undefined;
  const more = { reason: at("reason").value.trim() };
  if (field === "class_name") more.freeLabel = !state.labels.has(value);
  review().change([id, field, value, more]);
  return render();
}

function refuse() {
  render();
  say("The photo is marked as without food. Take that back first (n).");
}

const chosen = () => review().items().find((item) => item.id === state.chosen);

function confirmItem(id) {
  const item = review().items().find((one) => one.id === id);
  if (item?.predicted && !item.deleted) change(id, "confirmed", !item.confirmed);
}

function deleteItem(id) {
  const item = review().items().find((one) => one.id === id);
  if (item) change(id, "deleted", !item.deleted);
}

function toggleNoFood() {
  review().change([null, "no_food", !review().noFood]);
  render();
}

function undo() {
  review().undo();
  render();
  say("The last change was taken back.");
}

// ---- Boxes: of an item, and of one that is added.

function showBox(item) {
  at("box-form").hidden = !item || item.status === "rejected";
  if (!item || at("box-form").contains(document.activeElement)) return;
  at("box-title").textContent = `Box of item ${review().items().findIndex((one) => one.id === item.id) + 1}${item.bbox_xywh_px ? "" : ": the whole photo"}`;
  writeBox("box", item.bbox_xywh_px);
}

function openAdd() {
  at("add-form").hidden = false;
  const [name] = amountsOf(review().items(), state.targets);
  at("add-amount-label").textContent = `${AMOUNTS[name].name} (${AMOUNTS[name].unit})`;
  at("add-amount").dataset.name = name;
  // On a phone the field would bring up the keyboard over the photo.
  if (matchMedia("(pointer: fine)").matches) at("add-class").focus({ preventScroll: true });
  overlay.draw((box) => {
    writeBox("add", box);
    at("add-class").focus();
  });
  say("Draw the box of the new item on the photo, or type its numbers.");
}

function closeAdd() {
  at("add-form").hidden = true;
  at("add-form").reset();
  overlay.stop();
}

function addItem() {
  const class_name = at("add-class").value.trim();
  if (!class_name) {
    at("add-class").focus();
    throw new Problem("The new item needs a class.");
  }
  const text = at("add-amount").value.trim();
  const value = { class_name, bbox_xywh_px: readBox("add", review().doc.photo), [at("add-amount").dataset.name]: text === "" ? null : Number(text) };
  const id = review().add(value, { freeLabel: !state.labels.has(class_name) });
  closeAdd();
  state.chosen = id;
  render();
  table.focus(id);
  say("Added; not saved yet.");
}

// ---- Saving, deleting, exporting.

async function save() {
  const one = review();
  const reviewer = at("reviewer").value.trim();
  if (at("save").disabled) return;
  if (!reviewer) {
    at("reviewer").focus();
    throw new Problem("Give your name first: it is kept with each correction.");
  }
  quiet();
  say("Saving …");
  at("work").inert = true;
  try {
    await call(analysisPath(one.doc.analysis_id, "/corrections"), { method: "POST", json: { based_on: one.doc.corrections.length, reviewer, corrections: one.corrections() } });
    const place = one.items().findIndex((item) => item.id === state.chosen);
    one.edits = [];
    await read(one.doc.analysis_id);
    if (review() === one) state.chosen = one.items()[place]?.id ?? null; // what was added has its own id now
    say("Saved.");
  } catch (problem) {
    if (problem.code === "conflict") await read(one.doc.analysis_id);
    if (problem.code === "conflict") problem.message = "Someone else corrected this photo meanwhile. Theirs is shown now, and your changes on top of it are not saved: look them through and save again.";
    throw problem;
  } finally {
    at("work").inert = false;
    if (review()) render();
  }
  await list();
  if (review() === one) table.focus(state.chosen);
}

async function remove() {
  const id = review().doc.analysis_id;
  if (!confirm("Delete this analysis, its photo and its corrections from the endpoint? This cannot be undone.")) return;
  await call(analysisPath(id), { method: "DELETE" });
  forget(id);
  for (const part of ["photo", "work"]) at(part).hidden = true;
  await list();
  say("Deleted.");
}

function forget(id) {
  if (state.images.has(id)) URL.revokeObjectURL(state.images.get(id));
  state.images.delete(id);
  state.reviews.delete(id);
  if (state.current === id) state.current = null;
}

async function download({ path, name }) {
  const url = URL.createObjectURL(await (await call(path)).blob());
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say(`${name} was downloaded.`);
}

// ---- Wires.

const KEYS = {
  j: () => move(1),
  ArrowDown: () => move(1),
  k: () => move(-1),
  ArrowUp: () => move(-1),
  e: () => table.focus(state.chosen, "class"),
  p: () => table.focus(state.chosen, "portion"),
  c: () => chosen() && confirmItem(state.chosen),
  d: () => chosen() && deleteItem(state.chosen),
  a: () => openAdd(),
  n: () => toggleNoFood(),
  u: () => !at("undo").disabled && undo(),
  s: () => save(),
};

function leave(element) {
  if (!at("add-form").hidden && (at("add-form").contains(element) || overlay.isDrawing)) closeAdd();
  overlay.stop();
  element.blur();
  if (state.chosen) table.focus(state.chosen);
}

listen({ commands: KEYS, leave, isReady: () => Boolean(review()) && !at("work").inert });

on("key-form", "submit", async (event) => {
  event.preventDefault();
  if (at("key").value.trim()) storeKey(at("key").value.trim());
  at("key").value = "";
  await connect();
});
on("forget-key", "click", () => {
  storeKey("");
  location.reload();
});
at("reviewer").value = sessionStorage.getItem("foodray-reviewer") ?? "";
on("reviewer", "change", () => sessionStorage.setItem("foodray-reviewer", at("reviewer").value.trim()));
on("help-button", "click", () => at("help").showModal());
for (const id of ["files", "camera"]) {
  on(id, "change", async (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    await upload(files);
  });
}
on("order", "change", () => list());
on("reload", "click", () => connect());
on("more", "click", () => list(true));
on("save", "click", () => save());
on("undo", "click", () => undo());
on("add", "click", () => (at("add-form").hidden ? openAdd() : closeAdd()));
on("no-food", "click", () => toggleNoFood());
on("add-cancel", "click", () => closeAdd());
on("add-form", "submit", (event) => {
  event.preventDefault();
  addItem();
});
on("box-form", "submit", (event) => {
  event.preventDefault();
  const id = state.chosen;
  change(id, "bbox_xywh_px", readBox("box", review().doc.photo));
  table.focus(id);
});
on("box-draw", "click", () => {
  const id = state.chosen;
  overlay.draw((box) => {
    change(id, "bbox_xywh_px", box);
    table.focus(id);
  });
  say("Draw the box on the photo.");
});
on("remove", "click", () => remove());
on("show-masks", "change", (event) => at("stage").classList.toggle("no-masks", !event.target.checked));
on("show-boxes", "change", (event) => at("stage").classList.toggle("no-boxes", !event.target.checked));
for (const button of document.querySelectorAll(".export")) button.addEventListener("click", trying(() => download(button.dataset)));

for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
for (const kind of ["dragover", "dragleave", "drop"]) at("drop").addEventListener(kind, (event) => at("drop").classList.toggle("over", event.type === "dragover"));
window.addEventListener("drop", (event) => event.dataTransfer?.files.length && upload(event.dataTransfer.files));
window.addEventListener("beforeunload", (event) => {
  if ([...state.reviews.values()].some((one) => one.unsaved && one.doc.analysis_id !== null)) event.preventDefault();
});

if (storedKey()) trying(connect)();
else say("Give an API key to begin. Where the endpoint asks for none, just press Use key.");
