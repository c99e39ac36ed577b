// The actions of the page: first a preview that fixes what will run, then the run itself, with its progress and a way to stop. The API
// acts with the token of the user that is signed in.
import * as api from "./api.js";
import { dialog, facts, failure, h, replace, say, time } from "./dom.js";
import * as words from "./words.js";

export const test = async (context, integration, webhook, place) => {
  replace(place, h("p", { class: "note" }, "Sending a test delivery…"));
  try {
    const answer = await api.post(context.workspace, ["integrations", "instances", integration, "webhooks", webhook, "test"], {}, context.signal);
    const outcome = { ...answer, outcome: answer.acknowledged ? "acknowledged" : "failed" };
    replace(place, h("div", { class: "card" },
      h("p", { class: answer.acknowledged ? "good" : "bad" }, words.why(outcome)),
      facts([["Status", answer.status], ["Took", `${answer.durationMs} ms`], ["Delivery id", answer.deliveryId], ["URL", answer.url]]),
      answer.answer && h("pre", { class: "answer", tabindex: 0 }, answer.answer)));
  } catch (error) {
    if (error.name !== "AbortError") replace(place, failure(error));
  }
};

const count = (counts) => facts([["Sent back before", counts.sentBefore || undefined], ["For webhooks that are gone", counts.webhooksGone || undefined],
  ["For integrations that are paused", counts.integrationsPaused || undefined],
  ...Object.entries(counts.skipped || {}).map(([why, number]) => [`Left out: ${why}`, number])]);

// Runs what a preview fixed. Closing the dialog or stopping ends it between two records.
const run = (context, action, preview, place, button) => {
  const stop = new AbortController();
  const bar = h("progress", { "aria-label": "Progress", max: Math.max(preview.counts.matched || 0, 1), value: 0 });
  const status = h("p", {}, "Starting…");
  const cancel = h("button", { type: "button", onclick: () => stop.abort() }, "Stop");
  replace(place, bar, status, cancel);
  button.disabled = true;
  const box = place.closest("dialog");
  if (box) box.addEventListener("close", () => stop.abort(), { once: true });
  let last = {};
  const finish = (text, tone) => { cancel.remove(); replace(status, h("span", { class: tone }, text)); say(text); };
  return api.stream(context.workspace, ["actions", action], { selection: preview.selection, rate: preview.rate }, stop.signal, (line) => {
    if (line.error) throw new api.Refused(0, line.error);
    last = line.counts || last;
    bar.value = last.sent || 0;
    replace(status, `${last.sent || 0} of ${preview.counts.matched} sent`);
    if (line.done) finish(line.stoppedEarly ? `Stopped: ${last.sent || 0} sent.` : `Done: ${last.sent ?? 0} sent.`, line.stoppedEarly ? "warn" : "good");
  }).catch((error) => {
    if (error.name === "AbortError") finish(`Stopped: at least ${last.sent || 0} sent.`, "warn");
    else { cancel.remove(); status.after(failure(error)); }
  });
};

const previewed = async (title, context, action, asked, explain) => {
  const selection = Object.fromEntries(Object.entries(asked).filter(([, value]) => value));
  const place = h("div", {}, h("p", { class: "note" }, "Counting…"));
  const box = dialog(title, explain && h("p", {}, explain), place);
  const stop = new AbortController();
  box.addEventListener("close", () => stop.abort(), { once: true });
  try {
    const preview = await api.post(context.workspace, ["actions", action, "preview"], selection, stop.signal);
    const rate = h("input", { type: "number", min: 1, max: 10000, value: 100 });
    const outcome = h("div", { "aria-live": "polite" });
    const nothing = !preview.counts.matched;
    const button = h("button", { type: "button", class: "main", disabled: nothing, onclick: () => run(context, action, { ...preview, rate: Number(rate.value) || 100 }, outcome, button) },
      `Send ${preview.counts.matched}`);
    replace(place, h("p", { class: "account" }, `${preview.counts.matched} would be sent.`), count(preview.counts),
      h("p", { class: "note" }, preview.complete ? "Exactly this will run: what is written from now on is not part of it."
        : "Not everything was counted in time. Exactly what was counted will run, the oldest first; preview again for the rest."),
      h("div", { class: "row" }, h("label", {}, "At most a second", rate), button), outcome);
    button.focus();
  } catch (error) {
    if (error.name !== "AbortError") replace(place, failure(error));
  }
};

export const redrive = (context, selection) => previewed("Redrive dead letters", context, "redrive", selection,
  "Sends dead letters back as first attempts with the delivery ids they had.");

export const replayOne = (context, row, origin) => previewed("Replay one event", context, "replay",
  { integration: row.integrationId, webhook: row.webHookId, event: origin }, "Delivers this event again to this webhook, with the delivery id it had.");

export const replayForm = (context, integration, webhooks, health) => {
  const webhook = h("select", {}, h("option", { value: "" }, "every webhook"), webhooks.map((one) => h("option", { value: one.id }, one.id)));
  const hour = new Date(Date.now() - 3600000).toISOString();
  const recorded = health.firstDropped && Object.keys(health.firstDropped).length > 0;
  const from = h("input", { size: 26, value: recorded ? "" : hour, placeholder: recorded ? "where the suspension began" : hour });
  const to = h("input", { size: 26, placeholder: "now" });
  const box = dialog("Replay past events",
    h("p", {}, "Delivers past events again, with the delivery ids they had: a receiver that remembers ids sees no event twice."),
    recorded && h("p", { class: "note" }, "Without From it begins where the suspension began to drop."),
    h("form", { class: "row", onsubmit: (submit) => {
      submit.preventDefault();
      box.close();
      previewed("Replay past events", context, "replay", { integration, webhook: webhook.value || undefined, from: from.value.trim() || undefined, to: to.value.trim() || undefined });
    } }, h("label", {}, "Webhook", webhook), h("label", {}, "From", from), h("label", {}, "To", to), h("button", { type: "submit", class: "main" }, "Count first")));
};

export const resume = (context, integration) => {
  const outcome = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "button", class: "main", onclick: async () => {
    button.disabled = true;
    replace(outcome, h("p", { class: "note" }, "Asking the workers…"));
    try {
      const answer = await api.post(context.workspace, ["actions", "resume"], { integration }, context.signal);
      replace(outcome, h("p", { class: "good" }, answer.message || answer.outcome || "resumed"), h("p", { class: "note" }, `At ${time(new Date())}. Replay what was missed from this integration's screen.`));
      say("resumed");
    } catch (error) {
      button.disabled = false;
      if (error.name !== "AbortError") replace(outcome, failure(error));
    }
  } }, "Resume");
  dialog("Resume the integration", h("p", {}, "Events from now on are delivered again. What came while it was suspended was dropped and counted: a replay sends it."),
    h("div", { class: "row" }, button), outcome);
};
