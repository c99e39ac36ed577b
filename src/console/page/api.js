// The page's requests to its own server. They go to this origin only, and no script sees the token (the cookie is HttpOnly).

export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const refused = async (response) => {
  let message = `${response.status} ${response.statusText}`;
  try {
    const problem = JSON.parse(await response.text());
    message = (problem.errorInfo && problem.errorInfo.message) || problem.message || message;
  } catch {
    // Not JSON: the status says enough.
  }
  return new Refused(response.status, message, response.headers.get("retry-after"));
};

const ask = async (path, options = {}) => {
  const headers = { "x-hookstream-console": "1", ...(options.headers || {}) };
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", redirect: "error", cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server can't be reached.");
  }
  if (!response.ok) throw await refused(response);
  return response;
};

const body = (value) => ({ headers: { "content-type": "application/json" }, body: JSON.stringify(value) });

export const session = async () => (await ask("session")).json();
export const enter = (token) => ask("session", { method: "POST", ...body({ token }) });
export const leave = () => ask("session", { method: "DELETE" });

const path = (workspace, ...parts) => `api/v1/${[workspace, ...parts].map(encodeURIComponent).join("/")}`;
const query = (values) => {
  const given = Object.entries(values || {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

export const get = async (workspace, parts, values, signal) =>
  (await ask(path(workspace, ...parts) + query(values), { signal })).json();

export const post = async (workspace, parts, value, signal) =>
  (await ask(path(workspace, ...parts), { method: "POST", signal, ...body(value || {}) })).json();

// A streamed answer: one JSON object a line. `each` gets every one.
export const stream = async (workspace, parts, value, signal, each) => {
  const response = await ask(path(workspace, ...parts), { method: "POST", signal, ...body(value || {}) });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value: text, done } = await reader.read();
    if (done) break;
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) each(JSON.parse(line));
  }
  if (rest.trim()) each(JSON.parse(rest));
};
