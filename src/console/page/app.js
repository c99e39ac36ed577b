// The page's frame: the session, the workspace and the screen. The address after # holds the whole selection, so Back, bookmarks and
// forwarded links show the same.
import * as api from "./api.js";
import { failure, h, replace, say } from "./dom.js";
import { integrations } from "./integrations.js";
import { integration } from "./integration.js";
import { event } from "./event.js";
import { deadLetters } from "./dead.js";
import { lab } from "./lab.js";

const SCREENS = {
  integrations: { title: "Integrations", show: integrations, listed: true },
  integration: { title: "Integration", show: integration, within: "integrations" },
  event: { title: "Event", show: event, listed: true },
  "dead-letters": { title: "Dead letters", show: deadLetters, listed: true },
  lab: { title: "Filter lab", show: lab, listed: true },
};

const main = document.getElementById("main");
const top_ = document.getElementById("top");
let session = null;
let closing = new AbortController();

const place = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  return { workspace: parts[0], screen: parts[1] || "integrations", name: parts[2], query: new URLSearchParams(query || "") };
};

const address = (workspace, screen, name, values) => {
  const given = Object.entries(values || {}).filter(([, value]) => value);
  const parts = [workspace, screen, name].filter(Boolean).map(encodeURIComponent).join("/");
  return `#/${parts}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
};

const frame = (here) => {
  const workspaces = session ? session.workspaces : [];
  const choose = h("select", { onchange: (change) => { location.hash = address(change.target.value, here.screen === "integration" ? "integrations" : here.screen); } },
    workspaces.map((one) => h("option", { value: one.name, selected: one.name === here.workspace }, one.name)));
  const links = here.workspace && Object.entries(SCREENS).filter(([, screen]) => screen.listed).map(([name, screen]) => {
    const current = here.screen === name || (SCREENS[here.screen] || {}).within === name;
    return h("a", { href: address(here.workspace, name), "aria-current": current && "page" }, screen.title);
  });
  replace(top_,
    h("span", { class: "brand" }, "hookstream"),
    links && h("nav", { "aria-label": "Screens" }, links),
    session && h("div", { class: "end" },
      h("label", {}, "Workspace", choose),
      h("button", { type: "button", onclick: leave }, "Sign out")));
};

const leave = async () => {
  await api.leave().catch(() => {});
  session = null;
  location.hash = "";
  await show();
};

const signIn = (message) => {
  const token = h("input", { type: "password", name: "token", autocomplete: "off", required: true, size: 40 });
  const form = h("form", { class: "row", onsubmit: async (submit) => {
    submit.preventDefault();
    try {
      await api.enter(token.value.trim());
      session = await api.session();
      await show();
    } catch (error) {
      signIn(error.status === 401 ? "This token is not known." : error.message);
    }
  } }, h("label", {}, "Token", token), h("button", { type: "submit", class: "main" }, "Sign in"));
  document.title = "Sign in – hookstream";
  frame(place());
  replace(main, h("h1", { tabindex: -1 }, "Sign in"), message && h("p", { class: "error", role: "alert" }, message),
    h("p", {}, "Paste a token of the tokens file. The browser keeps it in a cookie that scripts can't read, until you sign out or close it."), form);
  token.focus();
};

const show = async () => {
  closing.abort();
  closing = new AbortController();
  const signal = closing.signal;
  const here = place();
  if (!session) {
    try {
      session = await api.session();
    } catch (error) {
      return signIn(error.status === 401 ? null : error.message);
    }
  }
  if (!session.workspaces.length) return signIn("This token has no workspace that exists.");
  if (!here.workspace) {
    location.replace(address(session.workspaces[0].name, "integrations"));
    return undefined;
  }
  const known = session.workspaces.find((one) => one.name === here.workspace);
  const screen = SCREENS[here.screen] || SCREENS.integrations;
  frame(here);
  const title = here.screen === "integration" ? here.name : screen.title;
  document.title = `${title} – ${here.workspace} – hookstream`;
  const heading = h("h1", { tabindex: -1 }, title);
  const content = h("div", {});
  replace(main, heading, content);
  heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  if (!known) {
    replace(content, failure({ message: `The token is not for the workspace ${here.workspace}.` }));
    return undefined;
  }
  const context = {
    ...here, signal, rights: new Set(known.rights), actions: session.actions, charts: session.charts,
    go: (screenName, name, values) => { location.hash = address(here.workspace, screenName, name, values); },
    address: (screenName, name, values) => address(here.workspace, screenName, name, values),
    keep: (values) => history.replaceState(null, "", address(here.workspace, here.screen, here.name, values)),
  };
  try {
    await screen.show(content, context);
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.status === 401) {
      session = null;
      return signIn("The token is not known any more: sign in again.");
    }
    content.append(failure(error));
    say(error.message);
  }
  return undefined;
};

addEventListener("hashchange", show);
addEventListener("keydown", (key) => {
  if (key.key !== "/" || key.ctrlKey || key.metaKey || key.altKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
  const search = main.querySelector("[data-search]");
  if (search) { key.preventDefault(); search.focus(); }
});
show();
