// Elements from data. Data from outside (answers, events, URLs, names) becomes text and never markup: nothing here parses HTML, and
// links are made only to this page's own addresses.

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(shown(child)));
  }
  return element;
};

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Characters that turn the direction of text or draw nothing are shown as their code, so that no text looks like another.
export const shown = (value) => String(value).replace(
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
  (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
);

export const replace = (place, ...children) => {
  place.replaceChildren();
  return fill(place, {}, children);
};

let clear;
export const say = (text) => {
  const said = document.getElementById("said");
  said.textContent = text;
  clearTimeout(clear);
  clear = setTimeout(() => { said.textContent = ""; }, 10000);
};

const pad = (number, digits = 2) => String(number).padStart(digits, "0");

// A time with the offset of this machine, so that it can't be mistaken for another zone's.
export const time = (at, withMillis = false) => {
  if (!at) return "–";
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return shown(at);
  const offset = -date.getTimezoneOffset();
  const sign = offset < 0 ? "-" : "+";
  const zone = `${sign}${pad(Math.floor(Math.abs(offset) / 60))}:${pad(Math.abs(offset) % 60)}`;
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return `${day} ${clock}${withMillis ? `.${pad(date.getMilliseconds(), 3)}` : ""} ${zone}`;
};

export const ago = (at) => {
  const seconds = Math.round((Date.now() - new Date(at).getTime()) / 1000);
  if (!at || Number.isNaN(seconds)) return "";
  const size = Math.abs(seconds);
  const text = size < 90 ? `${size} s` : size < 5400 ? `${Math.round(size / 60)} min`
    : size < 129600 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86400)} d`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
};

export const table = (caption, columns, rows, empty) => {
  const head = h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.wide && "wide" }, column.title)));
  const body = rows.map((row) => h("tr", {}, columns.map((column) =>
    h("td", { class: [column.wide && "wide", column.number && "number"].filter(Boolean).join(" ") || null }, column.cell(row)))));
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length }, empty || "Nothing.")));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, body)));
};

export const facts = (pairs) => h("dl", {}, pairs.filter((pair) => pair && pair[1] !== undefined && pair[1] !== null)
  .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

export const failure = (error) => h("div", { class: "error", role: "alert" }, error.message,
  error.retryAfter && ` Try again in ${error.retryAfter} s.`);

let lastFocus;
export const dialog = (title, ...children) => {
  const box = h("dialog", { "aria-label": title });
  const close = () => box.close();
  fill(box, {}, [h("div", { class: "row" }, h("h2", {}, title), h("button", { type: "button", onclick: close }, "Close")), children]);
  lastFocus = document.activeElement;
  box.addEventListener("close", () => { box.remove(); if (lastFocus && lastFocus.isConnected) lastFocus.focus(); });
  document.body.append(box);
  box.showModal();
  return box;
};

export const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    say("copied");
  } catch {
    dialog("Copy this", h("pre", { class: "answer", tabindex: 0 }, text));
  }
};
