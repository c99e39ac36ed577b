// Attempts as rows, a drawer and a chart: used by the integration's screen and the event's.
import { copy, dialog, facts, h, svg, table, time } from "./dom.js";
import * as words from "./words.js";

export const curl = (attempt) => [
  `curl -X POST ${words.quoted(attempt.url || "URL")}`,
  "-H 'content-type: application/json; charset=utf-8'",
  `-H ${words.quoted(`webhook-id: ${attempt.deliveryId}`)}`,
  `-H ${words.quoted(`x-xcom-delivery-attempt: ${attempt.attempt}`)}`,
  "-H 'x-xcom-integration-echo: try'",
  "--data-binary @event.json",
].join(" \\\n  ");

const drawer = (attempt, context) => dialog(`Attempt ${attempt.attempt}`,
  h("p", { class: attempt.outcome === "acknowledged" ? "good" : "bad" }, words.why(attempt)),
  facts([
    ["At", time(attempt.at, true)],
    ["Took", attempt.durationMs === undefined ? undefined : `${attempt.durationMs} ms`],
    ["Status", attempt.status],
    ["Next attempt", attempt.nextAttemptAt ? time(attempt.nextAttemptAt) : attempt.outcome === "acknowledged" ? undefined : "none: the schedule is over"],
    ["Delivery id", h("code", {}, attempt.deliveryId)],
    ["Webhook", attempt.webHookId && h("code", {}, attempt.webHookId)],
    ["Event", attempt.origin
      ? h("a", { href: context.address("event", null, { event: attempt.origin }) }, attempt.eventId || attempt.origin)
      : attempt.eventId],
    ["Place of the event", attempt.origin && h("code", {}, attempt.origin)],
    ["Entities", attempt.entityIds && Object.entries(attempt.entityIds).map(([name, id]) => `${name} ${id}`).join(", ")],
    ["URL (without its query)", attempt.url && h("code", {}, attempt.url)],
    ["Address", attempt.address && h("code", {}, attempt.address)],
    ["Worker", attempt.worker],
  ]),
  attempt.answer !== undefined && attempt.answer !== null && [h("h3", {}, "The answer, as text"), h("pre", { class: "answer", tabindex: 0 }, attempt.answer)],
  !context.rights.has("body") && h("p", { class: "note" }, "This token may not see answers (right body)."),
  h("div", { class: "row" }, h("button", { type: "button", onclick: () => copy(curl(attempt)) }, "Copy as cURL"),
    h("span", { class: "note" }, "Without secrets, signature and body: put the event into event.json.")));

export const attemptsTable = (caption, rows, context, empty) => table(caption, [
  { title: "At", cell: (row) => time(row.at, true) },
  { title: "Result", cell: (row) => h("span", { class: `state ${row.outcome === "acknowledged" ? "good" : "bad"}` }, row.outcome === "acknowledged" ? "acknowledged" : row.reason || "failed") },
  { title: "Status", number: true, cell: (row) => row.status ?? "–" },
  { title: "Attempt", number: true, wide: true, cell: (row) => row.attempt },
  { title: "Took", number: true, wide: true, cell: (row) => (row.durationMs === undefined ? "–" : `${row.durationMs} ms`) },
  { title: "Why", wide: true, cell: (row) => words.why(row) },
  { title: "Waits until", wide: true, cell: (row) => (row.nextAttemptAt ? time(row.nextAttemptAt) : "–") },
  { title: "Event", wide: true, cell: (row) => h("span", { class: "mono" }, row.eventId || "–") },
  { title: "Details", cell: (row) => h("button", { type: "button", "aria-label": `Details of the attempt at ${time(row.at, true)}`, onclick: () => drawer(row, context) }, "Details") },
], rows, empty);

const BARS = 60;
const WIDTH = 600;
const HEIGHT = 130;

// How many attempts of each result there were in each of at most 60 equal spans of time.
export const spans = (rows) => {
  const times = rows.map((row) => new Date(row.at).getTime()).filter((at) => !Number.isNaN(at));
  if (!times.length) return null;
  const minute = 60000;
  const first = Math.floor(Math.min(...times) / minute) * minute;
  const last = Math.max(...times);
  const length = Math.max(minute, Math.ceil((last - first + 1) / BARS / minute) * minute);
  const totals = new Map();
  const bars = [];
  for (const row of rows) {
    const at = new Date(row.at).getTime();
    if (Number.isNaN(at)) continue;
    const name = row.outcome === "acknowledged" ? "acknowledged" : row.reason || "failed";
    const index = Math.floor((at - first) / length);
    bars[index] = bars[index] || new Map();
    bars[index].set(name, (bars[index].get(name) || 0) + 1);
    totals.set(name, (totals.get(name) || 0) + 1);
  }
  const names = [...totals.keys()].sort((one, other) => (other === "acknowledged") - (one === "acknowledged") || totals.get(other) - totals.get(one));
  return { first, length, bars, names, totals };
};

const series = (names, name) => {
  const index = names.filter((one) => one !== "acknowledged").indexOf(name);
  return `series-${name === "acknowledged" ? 0 : 1 + Math.min(index, 3)}`;
};

export const chart = (rows) => {
  const found = spans(rows);
  if (!found) return null;
  const { first, length, bars, names, totals } = found;
  const count = Math.max(bars.length, BARS / 2);
  const most = Math.max(1, ...bars.map((bar) => (bar ? [...bar.values()].reduce((sum, one) => sum + one, 0) : 0)));
  const width = WIDTH / count;
  const drawn = [];
  bars.forEach((bar, index) => {
    let base = HEIGHT;
    for (const name of names) {
      const size = ((bar && bar.get(name)) || 0) / most * (HEIGHT - 14);
      if (!size) continue;
      base -= size;
      const label = `${time(first + index * length)}: ${name} ${bar.get(name)}`;
      drawn.push(svg("rect", { x: index * width, y: base, width: Math.max(width - 1, 1), height: size, class: series(names, name) }, svg("title", {}, label)));
    }
  });
  const legend = h("ul", { class: "legend" }, names.map((name) => h("li", {},
    svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, svg("rect", { width: 8, height: 8, class: series(names, name) })), `${name} ${totals.get(name)}`)));
  const text = `Attempts by ${length / 60000} min from ${time(first)}: ${names.map((name) => `${name} ${totals.get(name)}`).join(", ")}`;
  return [h("h2", {}, `The listed attempts by ${length === 60000 ? "minute" : `${length / 60000} minutes`} and reason`),
    svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT + 14}`, preserveAspectRatio: "none", role: "img", "aria-label": text }, drawn),
    h("p", { class: "note" }, `${time(first)} to ${time(first + count * length)}; the highest bar has ${most}.`), legend];
};
