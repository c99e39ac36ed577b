// The registered integrations and their health, worst first.
import * as api from "./api.js";
import { ago, h, replace, table, time } from "./dom.js";
import * as words from "./words.js";

// More rows than this in one table make a browser slow. The others are loaded when the user asks for them.
const SHOWN = 200;

const failures = (row) => Object.entries(row.failures || {}).sort((one, other) => other[1] - one[1])
  .map(([reason, count]) => `${reason} ${count}`).join(", ") || "–";

export const stateOf = (row) => {
  const [tone, word, meaning] = words.state(row.status);
  return h("span", { class: `state ${tone}`, title: meaning }, word);
};

export const integrations = async (place, context) => {
  const { workspace, signal, query } = context;
  const search = h("input", { type: "search", "data-search": true, value: query.get("find") || "", placeholder: "id, URL, state or reason", "aria-keyshortcuts": "/" });
  const outcome = h("p", { class: "note", role: "status" }, "Loading…");
  const list = h("div", {});
  replace(place, h("form", { class: "row", role: "search", onsubmit: (submit) => submit.preventDefault() },
    h("label", {}, "Find (key /)", search)), outcome, list);
  let rows = [];
  let next = null;
  let wanted = 0;

  const load = async () => {
    const mine = ++wanted;
    const find = search.value.trim();
    const page = await api.get(workspace, ["integrations", "overview"], { find, limit: SHOWN, next }, signal);
    if (mine !== wanted) return;
    rows = next ? rows.concat(page.rows) : page.rows;
    next = page.next;
    draw(page);
  };

  const draw = (page) => {
    const columns = [
      { title: "Integration", cell: (row) => h("a", { href: context.address("integration", row.integrationId) }, row.integrationId) },
      { title: "State", cell: (row) => [stateOf(row), row.problem && h("div", { class: "dim" }, row.problem)] },
      { title: "Since", wide: true, cell: (row) => (row.since ? [time(row.since), h("br"), h("span", { class: "dim" }, ago(row.since))] : "–") },
      { title: "Behind since", wide: true, cell: (row) => (row.behindSince ? [time(row.behindSince), h("br"), h("span", { class: "warn" }, ago(row.behindSince))] : "–") },
      { title: "Failures by reason", cell: failures },
      { title: "Last acknowledgement", wide: true, cell: (row) => time(row.lastAcknowledgedAt) },
      { title: "Last status", wide: true, number: true, cell: (row) => row.lastStatus ?? "–" },
      { title: "Webhooks", wide: true, number: true, cell: (row) => row.webHooks },
      { title: "URL", wide: true, cell: (row) => h("span", { class: "mono" }, row.url || "–") },
    ];
    const total = page.total ?? rows.length;
    replace(outcome, search.value.trim()
      ? `${total} of the workspace's integrations match; the worst first.`
      : `${total} integrations; the worst first.`);
    replace(list, table("Integrations", columns, rows, search.value.trim() ? "No integration matches." : "No integration is registered in this workspace."),
      next && h("div", { class: "row" }, h("button", { type: "button", onclick: load }, `Show ${SHOWN} more`)));
  };

  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      next = null;
      context.keep({ find: search.value.trim() });
      load().catch((error) => { if (error.name !== "AbortError") replace(outcome, error.message); });
    }, 200);
  });
  await load();
};
