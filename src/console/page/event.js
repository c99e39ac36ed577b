// What became of one event: for each webhook of the workspace whether and why it matched, attempts, where it waits, its dead
// letter, and the account.
import * as api from "./api.js";
import { facts, failure, h, replace, time } from "./dom.js";
import { attemptsTable } from "./attempts.js";
import { body } from "./body.js";
import { redrive, replayOne } from "./actions.js";

const TONES = { acknowledged: "good", waiting: "warn", dead: "bad", dropped: "bad" };

const waits = (waiting) => {
  if (!waiting) return undefined;
  if (waiting.topic) return `in ${waiting.topic}/${waiting.partition}/${waiting.offset}, until ${time(waiting.dueAt)}`;
  return `the webhook is behind${waiting.since ? ` since ${time(waiting.since)}` : ""}: ${waiting.reason || "it gets its events in order"}`;
};

const place = (dead) => `${dead.topic}/${dead.partition}/${dead.offset}`;

const webhook = (row, context, origin) => {
  const mayAct = context.actions && context.rights.has("operate");
  const dead = row.deadLetter;
  return h("section", { class: "card" },
    h("h3", {}, h("span", { class: `state ${row.matches ? "good" : "dim"}` }, row.matches ? "matches" : "does not match"), " ",
      h("a", { href: context.address("integration", row.integrationId, { webhook: row.webHookId }) }, `${row.integrationId} / ${row.webHookId}`)),
    h("p", {}, row.because),
    row.state && h("p", {}, h("span", { class: `state ${TONES[row.state] || "dim"}` }, row.state), ` – ${row.stateBecause}`),
    facts([["Delivery id", row.deliveryId && h("code", {}, row.deliveryId)], ["Waiting", waits(row.waiting)],
      ["Dead letter", dead && `${dead.reason}${dead.error ? ` (${dead.error})` : ""}, ${place(dead)}, ${time(dead.timestamp)}`]]),
    row.attempts && row.attempts.length > 0 && attemptsTable(`Attempts of ${row.webHookId}`, row.attempts, context, ""),
    mayAct && row.matches && h("div", { class: "row" },
      dead && h("button", { type: "button", "aria-label": `Redrive this dead letter… (${row.webHookId})`, onclick: () => redrive(context, { event: place(dead) }) }, "Redrive this dead letter…"),
      origin && h("button", { type: "button", "aria-label": `Replay to this webhook… (${row.webHookId})`, onclick: () => replayOne(context, row, origin) }, "Replay to this webhook…")));
};

export const event = async (place, context) => {
  const { workspace, signal, query } = context;
  const input = h("input", { "data-search": true, name: "event", size: 48, required: true, value: query.get("event") || "", placeholder: "topic/partition/offset or an event id" });
  const result = h("div", { "aria-live": "polite" });
  replace(place, h("form", { class: "row", role: "search", onsubmit: (submit) => { submit.preventDefault(); context.go("event", null, { event: input.value.trim() }); } },
    h("label", {}, "Event: its place or its id (key /)", input), h("button", { type: "submit" }, "Trace")),
  h("p", { class: "note" }, "By entity id: open an integration and look for its attempts by entity."), result);
  const wanted = query.get("event");
  if (!wanted) return;
  replace(result, h("p", { class: "note" }, "Looking through the topics…"));
  let trace;
  try {
    trace = await api.get(workspace, ["events", wanted, "trace"], {}, signal);
  } catch (error) {
    if (error.name === "AbortError" || error.status === 401) throw error;
    replace(result, failure(error));
    return;
  }
  show(result, trace, wanted, context);
};

// Adds the attempts of an older part of the log to those that are shown.
const joined = (trace, older) => {
  const same = (one) => (other) => other.integrationId === one.integrationId && other.webHookId === one.webHookId;
  const known = trace.webhooks.map((row) => {
    const found = older.webhooks.find(same(row));
    return found ? { ...row, attempts: [...found.attempts, ...row.attempts] } : row;
  });
  // A webhook that is not registered any more shows in the part of the log that has its attempts.
  const more = older.webhooks.filter((row) => !trace.webhooks.some(same(row)));
  return { ...trace, complete: older.complete, next: older.next, searchedBackTo: older.searchedBackTo, webhooks: [...known, ...more] };
};

const further = (result, trace, wanted, context) => {
  const button = h("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      show(result, joined(trace, await api.get(context.workspace, ["events", wanted, "trace"], { next: trace.next }, context.signal)), wanted, context);
    } catch (error) {
      if (error.name !== "AbortError") replace(result, failure(error));
    }
  } }, "Look further back");
  return h("div", { class: "row" }, h("p", { class: "note" }, `Not everything was looked at: the search is bounded in bytes and time, and came back to ${time(trace.searchedBackTo)}.`), button);
};

const show = (result, trace, wanted, context) => {
  const account = trace.account || {};
  const matched = (trace.webhooks || []).filter((row) => row.matches);
  const others = (trace.webhooks || []).filter((row) => !row.matches);
  replace(result,
    facts([["Event", h("code", {}, trace.event.id || "–")], ["About", trace.event.about], ["Place", trace.event.origin && h("code", {}, trace.event.origin)], ["Written", time(trace.event.at, true)]]),
    trace.event.origin && body(context, trace.event.origin),
    h("p", { class: "account" }, `${account.matched} matched = ${account.acknowledged} acknowledged + ${account.waiting} waiting + ${account.dead} dead + ${account.dropped} dropped`),
    h("h2", {}, `Matched (${matched.length})`), matched.length ? matched.map((row) => webhook(row, context, trace.event.origin)) : h("p", {}, "No webhook of this workspace matches."),
    h("h2", {}, `Not matched (${others.length})`), others.map((row) => webhook(row, context, trace.event.origin)),
    trace.next && further(result, trace, wanted, context));
};
