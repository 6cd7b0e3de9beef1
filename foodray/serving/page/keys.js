// Keys of the keyboard: letters and arrows are commands while no field is in use.

import { at, trying } from "./shell.js";

const isField = (element) => element.matches("input:not([type=checkbox], [type=file]), select, textarea");

/** Run the command of a key while `isReady`; Escape, and Enter in a field of the table, `leave` the element. */
export function listen({ commands, leave, isReady }) {
  document.addEventListener(
    "keydown",
    trying(async (event) => {
      const { key, target } = event;
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || at("help").open) return;
      const field = isField(target);
      if (key === "?" && !field) at("help").showModal();
      if (!isReady()) return;
      if (key === "Escape" || (key === "Enter" && target.matches("#items input"))) leave(target);
      else if (!field && Object.hasOwn(commands, key) && !(key.startsWith("Arrow") && target.closest("#choose, header"))) {
        event.preventDefault();
        await commands[key]();
      }
    }),
  );
}
