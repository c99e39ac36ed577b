// The bytes of an event, shown when asked for, as text: only for tokens with the right body.
import * as api from "./api.js";
import { failure, h, replace } from "./dom.js";

export const body = (context, place) => {
  if (!context.rights.has("body")) return h("p", { class: "note" }, "This token may not see event bytes (right body).");
  const shown = h("div", { "aria-live": "polite" });
  const show = async () => {
    try {
      const record = await api.get(context.workspace, ["records", ...place.split("/")], {}, context.signal);
      replace(shown, h("p", { class: "note" }, `${record.bytes} bytes${record.complete ? "" : "; the beginning is shown"}`), h("pre", { class: "answer", tabindex: 0 }, record.value));
    } catch (error) {
      if (error.name !== "AbortError") replace(shown, failure(error));
    }
  };
  return h("div", {}, h("button", { type: "button", onclick: show }, "Show the event's bytes"), shown);
};
