// The filter lab: which of the recent events a draft filter would match, before it is registered.
import * as api from "./api.js";
import { copy, failure, h, replace, table, time } from "./dom.js";

const EXAMPLE = JSON.stringify({ items: [{ eventType: "change", entityType: "company", changeType: "patch" }, { entityType: "contact" }] }, null, 2);

const examples = (caption, rows, context) => table(caption, [
  { title: "Written", cell: (row) => time(row.at) },
  { title: "Event", cell: (row) => h("a", { href: context.address("event", null, { event: row.origin }) }, row.eventId || row.origin) },
  { title: "Type", cell: (row) => [row.type, row.changeType].filter(Boolean).join(" ") },
  { title: "Entities", cell: (row) => (row.entityTypes || []).join(", ") },
  { title: "Because", wide: true, cell: (row) => row.because || "" },
], rows, "None among these events.");

export const lab = async (place, context) => {
  const { workspace, signal, query } = context;
  const draft = h("textarea", { "data-search": true, spellcheck: "false", value: query.get("filter") || EXAMPLE });
  const result = h("div", { "aria-live": "polite" });
  const run = async () => {
    let filter;
    try {
      filter = JSON.parse(draft.value);
    } catch (error) {
      replace(result, failure({ message: `The filter is not JSON: ${error.message}` }));
      return;
    }
    context.keep({ filter: JSON.stringify(filter) });
    replace(result, h("p", { class: "note" }, "Reading recent events…"));
    try {
      const found = await api.get(workspace, ["events"], { filter: JSON.stringify(filter) }, signal);
      const patch = { operations: [{ op: "replace", path: "/webHooks/{webhook id}/filter", value: filter }] };
      const rows = found.rows || [];
      replace(result, h("p", { class: "account" }, `Matched ${found.matched} of ${found.events} recent events of this workspace.`),
        examples("Events that match", rows.filter((row) => row.matches), context),
        h("p", {}), examples("Events that do not match", rows.filter((row) => !row.matches), context),
        h("p", { class: "note" }, found.searchedBackTo ? `The events looked at go back to ${time(found.searchedBackTo)}.` : "There is no event to look at."),
        h("div", { class: "row" }, h("button", { type: "button", onclick: () => copy(JSON.stringify(patch, null, 2)) }, "Copy as JSON Patch")));
    } catch (error) {
      if (error.name === "AbortError") return;
      replace(result, failure(error));
    }
  };
  replace(place, h("p", {}, "Tries a draft filter on recent events. Nothing is changed."),
    h("form", { onsubmit: (submit) => { submit.preventDefault(); run(); } }, h("label", {}, "Filter", draft), h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Try it"))), result);
  if (query.get("filter")) await run();
};
