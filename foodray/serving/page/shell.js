// The frame of the page: its elements by id, what is said to the user, and handlers whose failures are told.

import { Problem } from "./api.js";
import { make } from "./words.js";

export const at = (id) => document.getElementById(id);

export function say(words) {
  at("status").textContent = words;
}

export function tell(problem) {
  if (!(problem instanceof Problem)) console.error(problem);
  const words = problem instanceof Problem ? problem.message : "The page failed here. Reload it; what was saved is safe.";
  const about = [problem.code && `code ${problem.code}`, problem.requestId && `request ${problem.requestId}`].filter(Boolean).join(", ");
  const dismiss = make("button", { type: "button", className: "plain", textContent: "Dismiss" });
  dismiss.addEventListener("click", () => quiet());
  at("problem").replaceChildren(make("p", { textContent: words }), ...(about ? [make("p", {}, make("small", { textContent: about }))] : []), dismiss);
  at("problem").hidden = false;
  say("");
}

export function quiet() {
  at("problem").hidden = true;
}

/** An event handler whose failure is told. */
export const trying = (handler) => async (event) => {
  try {
    await handler(event);
  } catch (problem) {
    tell(problem);
  }
};

/** Handle an event of an element. */
export const on = (id, kind, handler) => at(id).addEventListener(kind, trying(handler));
