// Sentences for words: why an attempt failed, what a state means, what a filter asks for.

const REASONS = {
  status: (attempt) => `The receiver answered with HTTP status ${attempt.status ?? "other than 200"}; only 200 with the echo acknowledges.`,
  "echo-missing": () => "The receiver answered 200 without the header X-XCOM-Integration-Echo.",
  "echo-mismatch": () => "The receiver answered 200 with another token in X-XCOM-Integration-Echo than it was sent.",
  dns: () => "The receiver's host name could not be resolved.",
  connect: () => "No connection to the receiver could be made.",
  tls: () => "The TLS handshake with the receiver failed.",
  timeout: () => "The receiver did not answer before the request timeout.",
  reset: () => "The receiver closed the connection before it answered.",
  "refused-address": () => "The receiver's address is one that requests are not sent to.",
  protocol: () => "The receiver's answer is not HTTP.",
  "circuit-open": () => "No request was made: the webhook's circuit was open for longer than the whole schedule.",
};

// The reasons of requests that were made, as the attempt log has them.
export const attemptReasons = Object.keys(REASONS).filter((reason) => reason !== "circuit-open");

const DEAD = {
  exhausted: "Every attempt of the schedule failed.",
  "invalid-event": "The record is not a valid event, so it matches no webhook.",
  suspended: "The retry fell due while its integration was suspended.",
  "too-large": "The record is larger than a topic takes.",
};

export const why = (attempt) => {
  if (attempt.outcome === "acknowledged") return "Acknowledged: status 200 with the echo.";
  const sentence = (REASONS[attempt.reason] || ((one) => `Failed: ${one.reason || "no reason given"}.`))(attempt);
  return attempt.error ? `${sentence} Cause: ${attempt.error}` : sentence;
};

export const whyDead = (row) => DEAD[row.reason] || `Reason: ${row.reason || "not given"}.`;

const STATES = {
  active: ["good", "active", "delivered to"],
  hasErrors: ["warn", "has errors", "delivered to; at least half of its attempts fail"],
  failed: ["bad", "suspended", "nothing is delivered to it until it is resumed"],
  paused: ["dim", "paused", "nothing is delivered to it: its own status says so"],
  notConfigured: ["dim", "not configured", "nothing is delivered to it: its own status says so"],
  unusable: ["bad", "unusable", "its record can't be used; the last good one counts"],
};

export const state = (status) => STATES[status] || ["dim", status || "active", ""];
export const severity = (status) => ["unusable", "failed", "hasErrors", "paused", "notConfigured"].indexOf(status);

const item = (filter) => {
  const article = (word) => (/^[aeiou]/i.test(word) ? `an ${word}` : `a ${word}`);
  const type = filter.eventType ? article(filter.eventType) : "anything";
  const entity = filter.entityType ? ` of ${article(filter.entityType)}` : "";
  const change = filter.changeType ? ` that is ${article(filter.changeType)}` : "";
  return `${type}${entity}${change}`;
};

export const filter = (webhook) => {
  if ((webhook.triggerType || "").toLowerCase() === "schedule") {
    return `every ${(webhook.schedule && webhook.schedule.period) || "?"}`;
  }
  const items = (webhook.filter && webhook.filter.items) || [];
  return items.length ? items.map(item).join("; or ") : "nothing: it has no filter items";
};

// How far a scan went, so that a short list is not mistaken for a complete one.
export const searched = (page, time, what) => {
  if (page.hint) return `Nothing was found: ${page.hint}.`;
  const back = page.searchedBackTo ? `Searched back to ${time(page.searchedBackTo)}` : "Searched";
  if (page.complete) return `${back}: these are all ${what} that the topic still holds.`;
  return `${back}: older ${what} were not looked at yet.`;
};

// The ids of an integration's secrets, each once: during a rotation two values have one id.
export const secrets = (list) => {
  const counts = new Map();
  for (const { id } of list || []) counts.set(id, (counts.get(id) || 0) + 1);
  const named = [...counts].map(([id, count]) => (count > 1 ? `${id} (${count} values, as in a rotation)` : id));
  return named.join(", ") || "none: requests are not signed";
};

// A text as one argument of a shell.
export const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
