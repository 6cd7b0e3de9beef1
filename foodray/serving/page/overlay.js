// The picture: masks on a canvas and boxes in an SVG over the photo, both stretched with it. Boxes are in px of the oriented photo.

import { decodeMask } from "./rle.js";

const COLORS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#3f7fd0", "#d55e00", "#cc79a7", "#8a6bd1", "#7fb800", "#b05c3b"];
const LEAST_PX = 4; // on the screen: less is a click, not a box
export const colorOf = (place) => COLORS[place % COLORS.length];

export class Overlay {
  #size = [1, 1];
  #start = null;
  #drawing = null;
  #items = [];
  #masks = new Map();

  constructor(stage, { onSelect }) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.svg = stage.querySelector("svg");
    this.onSelect = onSelect;
    this.svg.addEventListener("pointerdown", (event) => this.#down(event));
    this.svg.addEventListener("pointermove", (event) => this.#move(event));
    this.svg.addEventListener("pointerup", (event) => this.#up(event));
    this.svg.addEventListener("pointercancel", () => this.#clear());
    new ResizeObserver(() => this.#letter()).observe(stage);
  }

  /** Take a photo of this size. */
  open(width, height) {
    this.#size = [width || 4, height || 3];
    this.#masks.clear();
    const [w, h] = this.#size;
    this.stage.style.aspectRatio = `${w} / ${h}`;
    this.stage.style.maxWidth = `${(78 * w) / h}vh`;
    this.svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.stop();
  }

  show(items, chosen) {
    this.#items = items;
    this.#paint(chosen);
    const order = items.map((item, place) => ({ item, place })).filter(({ item }) => item.bbox_xywh_px);
    order.sort((one, other) => area(other.item) - area(one.item)); // the smallest lie on top, where they can be reached
    this.svg.replaceChildren(...order.map(({ item, place }) => this.#box(item, place, item.id === chosen)));
    this.#letter();
  }

  /** Wait for a box to be drawn; `done` gets [x, y, width, height]. */
  draw(done) {
    this.#drawing = done;
    this.stage.classList.add("drawing");
    this.stage.scrollIntoView({ block: "nearest" });
  }

  stop() {
    this.#drawing = null;
    this.#clear();
    this.stage.classList.remove("drawing");
  }

  get isDrawing() {
    return this.#drawing !== null;
  }

  #paint(chosen) {
    const seen = this.#items.map((item, place) => ({ item, place, rle: maskOf(item) })).filter(({ rle }) => rle);
    const context = this.canvas.getContext("2d");
    const [height, width] = seen[0]?.rle.size ?? [1, 1];
    this.canvas.width = width;
    this.canvas.height = height;
    const image = context.createImageData(width, height);
    for (const { item, place, rle } of seen) {
      const mask = this.#mask(item.id, rle);
      if (!mask || mask.length !== width * height) continue;
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colorOf(place).slice(at, at + 2), 16));
      const strength = item.id === chosen ? 170 : 95;
      for (let px = 0; px < mask.length; px++) if (mask[px]) image.data.set([red, green, blue, strength], 4 * px);
    }
    context.putImageData(image, 0, 0);
  }

  #mask(id, rle) {
    if (!this.#masks.has(id)) {
      let mask = null;
      try {
        mask = decodeMask(rle);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error; // a damaged mask is not shown
      }
      this.#masks.set(id, mask);
    }
    return this.#masks.get(id);
  }

  #box(item, place, isChosen) {
    const [x, y, width, height] = item.bbox_xywh_px;
    const group = draw("g", { class: `${item.status}${isChosen ? " chosen" : ""}`, "data-item": item.id });
    const label = draw("text", { x, y, "data-x": x, "data-y": y });
    label.textContent = `${place + 1}`;
    group.append(draw("rect", { x, y, width, height, class: "halo" }), draw("rect", { x, y, width, height, class: "edge", stroke: colorOf(place) }), label);
    return group;
  }

  #letter() {
    const unit = this.#size[0] / Math.max(1, this.stage.clientWidth); // px of the photo in one of the screen
    for (const label of this.svg.querySelectorAll("text")) {
      label.setAttribute("font-size", 16 * unit);
      label.setAttribute("stroke-width", 3 * unit);
      label.setAttribute("x", Number(label.dataset.x) + 5 * unit);
      label.setAttribute("y", Number(label.dataset.y) + 18 * unit);
    }
  }

  #point(event) {
    const frame = this.svg.getBoundingClientRect();
    const [w, h] = this.#size;
    const inside = (value, most) => Math.min(most, Math.max(0, value));
    return [inside(((event.clientX - frame.left) / frame.width) * w, w), inside(((event.clientY - frame.top) / frame.height) * h, h)];
  }

  #down(event) {
    if (!this.#drawing) {
      const id = event.target.closest("g")?.dataset.item;
      if (id) this.onSelect(id);
      return;
    }
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    this.#start = this.#point(event);
  }

  #move(event) {
    if (!this.#start) return;
    const [x, y, width, height] = this.#span(event);
    this.svg.querySelector("rect.new")?.remove();
    this.svg.append(draw("rect", { x, y, width, height, class: "new", stroke: "#fff" }));
  }

  #up(event) {
    if (!this.#start) return;
    const box = this.#span(event).map((value) => Math.round(value * 10) / 10);
    const unit = this.#size[0] / Math.max(1, this.stage.clientWidth);
    const done = this.#drawing;
    this.#clear();
    if (box[2] < LEAST_PX * unit || box[3] < LEAST_PX * unit) return;
    this.stop();
    done(box);
  }

  #span(event) {
    const [fromX, fromY] = this.#start, [toX, toY] = this.#point(event);
    return [Math.min(fromX, toX), Math.min(fromY, toY), Math.abs(toX - fromX), Math.abs(toY - fromY)];
  }

  #clear() {
    this.#start = null;
    this.svg.querySelector("rect.new")?.remove();
  }
}

const area = (item) => item.bbox_xywh_px[2] * item.bbox_xywh_px[3];

/** The mask of an item that is there and whose box is still the model's. */
function maskOf(item) {
  const { predicted, status } = item;
  const isOld = predicted && JSON.stringify(predicted.bbox_xywh_px) === JSON.stringify(item.bbox_xywh_px);
  return isOld && status !== "rejected" ? predicted.mask_rle : null;
}

function draw(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
