// Dead letters: how many by reason and integration, the list, and sending a counted selection back.
import * as api from "./api.js";
import { dialog, facts, failure, h, replace, table, time } from "./dom.js";
import { body } from "./body.js";
import { redrive } from "./actions.js";
import * as words from "./words.js";

const PAGE = 100;
const REASONS = ["exhausted", "invalid-event", "suspended", "too-large"];

const record = (row) => `${row.topic}/${row.partition}/${row.offset}`;

const drawer = (row, context) => dialog("Dead letter",
  h("p", { class: "bad" }, words.whyDead(row)),
  row.error && h("p", {}, words.why({ outcome: "failed", reason: row.error, status: row.status })),
  facts([["At", time(row.timestamp, true)], ["Record", h("code", {}, record(row))], ["Attempts made", row.attempts], ["Integration", row.integrationId], ["Webhook", row.webHookId],
    ["Delivery id", row.deliveryId && h("code", {}, row.deliveryId)], ["Event", row.origin && h("a", { href: context.address("event", null, { event: row.origin }) }, row.origin)],
    ["Bytes", row.valueBytes]]),
  body(context, record(row)));

const histogram = (rows) => {
  const counts = new Map();
  for (const row of rows) {
    const key = `${row.reason || "–"}\n${row.integrationId || "–"}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  const lines = [...counts].map(([key, count]) => ({ reason: key.split("\n")[0], integration: key.split("\n")[1], count })).sort((one, other) => other.count - one.count);
  const most = Math.max(1, ...lines.map((line) => line.count));
  return table("The listed dead letters by reason and integration", [
    { title: "Reason", cell: (line) => line.reason },
    { title: "Integration", cell: (line) => line.integration },
    { title: "Count", number: true, cell: (line) => line.count },
    { title: "Share", wide: true, cell: (line) => h("meter", { min: 0, max: most, "aria-label": `${line.count} of ${most}`, ...{ value: line.count } }) },
  ], lines.slice(0, 20), "Nothing.");
};

export const deadLetters = async (place, context) => {
  const { workspace, signal, query } = context;
  const fields = {
    integration: h("input", { "data-search": true, name: "integration", size: 36, value: query.get("integration") || "" }),
    webhook: h("input", { name: "webhook", size: 36, value: query.get("webhook") || "" }),
    reason: h("select", { name: "reason" }, h("option", { value: "" }, "every reason"), REASONS.map((reason) => h("option", { value: reason, selected: reason === query.get("reason") }, reason))),
    from: h("input", { name: "from", size: 22, value: query.get("from") || "", placeholder: "2026-01-31T12:00:00Z" }),
    to: h("input", { name: "to", size: 22, value: query.get("to") || "", placeholder: "2026-01-31T13:00:00Z" }),
  };
  const labels = { integration: "Integration", webhook: "Webhook", reason: "Reason", from: "From", to: "To" };
  const asked = () => Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value.trim()]));
  const mayAct = context.actions && context.rights.has("operate");
  const listed = h("div", {}, h("p", { class: "note" }, "Looking through the dead letters…"));
  replace(place, h("form", { class: "row", role: "search", onsubmit: (submit) => { submit.preventDefault(); context.keep(asked()); load(null); } },
    Object.entries(fields).map(([name, field]) => h("label", {}, labels[name], field)), h("button", { type: "submit" }, "Look"),
    mayAct && h("button", { type: "button", onclick: () => redrive(context, asked()) }, "Redrive this selection…")), listed);
  let rows = [];
  const load = async (next) => {
    try {
      const page = await api.get(workspace, ["dead-letters"], { ...asked(), limit: PAGE, next }, signal);
      rows = next ? rows.concat(page.rows) : page.rows;
      replace(listed, rows.length > 0 && histogram(rows), h("h2", {}, "Newest first"),
        table("Dead letters", [
          { title: "At", cell: (row) => time(row.timestamp) },
          { title: "Reason", cell: (row) => h("span", { class: "state bad" }, row.reason || "–") },
          { title: "Last failure", wide: true, cell: (row) => (row.error ? `${row.error}${row.status ? ` ${row.status}` : ""}` : "–") },
          { title: "Integration", cell: (row) => (row.integrationId ? h("a", { href: context.address("integration", row.integrationId) }, row.integrationId) : "–") },
          { title: "Webhook", wide: true, cell: (row) => h("span", { class: "mono" }, row.webHookId || "–") },
          { title: "Attempts", wide: true, number: true, cell: (row) => row.attempts ?? "–" },
          { title: "Details", cell: (row) => h("button", { type: "button", "aria-label": `Details of ${record(row)}`, onclick: () => drawer(row, context) }, "Details") },
        ], rows, "No dead letter matches."),
        h("p", { class: "note" }, words.searched(page, time, "dead letters")),
        page.next && h("div", { class: "row" }, h("button", { type: "button", onclick: () => load(page.next) }, "Look further back")));
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) throw error;
      listed.append(failure(error));
    }
  };
  await load(null);
};
