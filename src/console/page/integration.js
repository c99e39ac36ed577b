// One integration: its state, webhooks with filters in words, attempts newest first, and what may be done about it.
import * as api from "./api.js";
import { ago, facts, failure, h, replace, say, table, time } from "./dom.js";
import { attemptsTable, chart } from "./attempts.js";
import { stateOf } from "./integrations.js";
import { replayForm, resume, test } from "./actions.js";
import * as words from "./words.js";

const PAGE = 50;
// How often a live list asks, and how many new rows it shows for each answer at most.
const LIVE_EVERY_MS = 2000;
const LIVE_ROWS = 40;

export const integration = async (place, context) => {
  const { workspace, signal, name, rights } = context;
  const instance = await api.get(workspace, ["integrations", "instances", name], {}, signal);
  const health = { status: instance.status, ...(instance.health || {}) };
  const status = ["failed", "hasErrors"].includes(health.status) ? health.status : instance.status || health.status || "active";
  const [, , meaning] = words.state(status);
  const mayAct = context.actions && rights.has("operate");
  const webhooks = instance.webHooks || [];
  const outcome = h("div", { "aria-live": "polite" });

  replace(place,
    h("p", {}, stateOf({ status }), meaning && ` – ${meaning}.`),
    facts([
      ["Since", health.since && `${time(health.since)} (${ago(health.since)})`],
      ["Failures by reason", health.failures && Object.keys(health.failures).length ? Object.entries(health.failures).map(([reason, count]) => `${reason} ${count}`).join(", ") : undefined],
      ["Last status", health.lastStatus],
      ["Last acknowledgement", health.lastAcknowledgedAt ? time(health.lastAcknowledgedAt) : undefined],
      ["Behind since", health.behindSince ? `${time(health.behindSince)} (${ago(health.behindSince)}): it gets its events in order, from its place on` : undefined],
      ["Base URL", instance.baseUrl && h("code", {}, instance.baseUrl)],
      ["Secrets", words.secrets(instance.secrets)],
    ]),
    table("Webhooks", [
      { title: "Webhook", cell: (row) => h("span", { class: "mono" }, row.id) },
      { title: "URL", wide: true, cell: (row) => h("span", { class: "mono" }, row.relativeUrl || "") },
      { title: "Delivers", cell: (row) => (row.disabled ? "nothing: it is disabled" : words.filter(row)) },
      ...(mayAct ? [{ title: "Test", cell: (row) => h("button", { type: "button", "aria-label": `Send a test to ${row.id}`, onclick: () => test(context, name, row.id, outcome) }, "Send a test") }] : []),
    ], webhooks, "It has no webhook."),
    outcome,
    h("div", { class: "row" },
      mayAct && status === "failed" && h("button", { type: "button", onclick: () => resume(context, name) }, "Resume…"),
      mayAct && h("button", { type: "button", onclick: () => replayForm(context, name, webhooks, health) }, "Replay…"),
      h("a", { href: context.address("dead-letters", null, { integration: name }) }, "Its dead letters")),
    !mayAct && h("p", { class: "note" }, context.actions ? "This token may only read (right operate acts)." : "Actions are off: the console was started without the API's URL."));
  await attempts(place, context, webhooks);
};

const attempts = async (place, context, webhooks) => {
  const { workspace, signal, name, query } = context;
  const webhook = h("select", { name: "webhook" }, h("option", { value: "" }, "every webhook"),
    webhooks.map((one) => h("option", { value: one.id, selected: one.id === query.get("webhook") }, one.id)));
  const reason = h("select", { name: "reason" }, h("option", { value: "" }, "every reason"),
    words.attemptReasons.map((one) => h("option", { value: one, selected: one === query.get("reason") }, one)));
  const entity = h("input", { name: "entity", size: 20, value: query.get("entity") || "" });
  const from = h("input", { name: "from", size: 22, value: query.get("from") || "", placeholder: "2026-01-31T12:00:00Z" });
  const live = h("input", { type: "checkbox" });
  const listed = h("div", {}, h("p", { class: "note" }, "Looking through the attempt log…"));
  const asked = () => ({ webhook: webhook.value, reason: reason.value, entity: entity.value.trim(), from: from.value.trim() });
  const form = h("form", { class: "row", onsubmit: (submit) => { submit.preventDefault(); context.keep(asked()); load(null); } },
    h("label", {}, "Webhook", webhook), h("label", {}, "Reason", reason), h("label", {}, "Entity id", entity), h("label", {}, "From", from),
    h("button", { type: "submit" }, "Look"), h("label", {}, "Live", live));
  place.append(h("h2", {}, "Attempts"), form,
    h("p", { class: "note" }, "By default only failed attempts are listed; acknowledged ones are counted. Rows that the log had no room for, and what retention removed, are not here."), listed);
  let rows = [];
  let last = null;

  const draw = (page) => {
    replace(listed, chart(rows), h("h2", {}, "Newest first"),
      attemptsTable("Attempts", rows, context, "Nothing matches."),
      h("p", { class: "note" }, words.searched(page, time, "attempts")),
      page.next && h("div", { class: "row" }, h("button", { type: "button", onclick: () => load(page.next) }, "Look further back")));
  };
  const load = async (next) => {
    try {
      const page = await api.get(workspace, ["integrations", "instances", name, "attempts"], { ...asked(), limit: PAGE, next }, signal);
      rows = next ? rows.concat(page.rows) : page.rows;
      last = page;
      draw(page);
      say(`${page.rows.length} attempts`);
    } catch (error) {
      if (error.name !== "AbortError") listed.append(failure(error));
    }
  };
  const follow = async () => {
    if (signal.aborted || !live.checked) return;
    try {
      const page = await api.get(workspace, ["integrations", "instances", name, "attempts"], { ...asked(), limit: LIVE_ROWS, ...(rows[0] ? { from: rows[0].at } : {}) }, signal);
      const seen = new Set(rows.map((row) => `${row.deliveryId} ${row.attempt} ${row.at}`));
      const fresh = page.rows.filter((row) => !seen.has(`${row.deliveryId} ${row.attempt} ${row.at}`));
      if (fresh.length) {
        rows = fresh.concat(rows).slice(0, 1000);
        draw(last);
        if (page.next && !page.complete) listed.prepend(h("p", { class: "note" }, "… and more than are shown: look again without Live."));
        say(`${fresh.length} new attempts`);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      live.checked = false;
      listed.append(failure(error));
    }
    setTimeout(follow, LIVE_EVERY_MS);
  };
  live.addEventListener("change", follow);
  await load(null);
};
