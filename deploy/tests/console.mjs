// Walks through the operators' page in a real browser, against a real run: the demo, and a receiver of this test that answers with
// hostile text. Takes the program, the folder of playwright-core and axe-core, the browser, and a folder for pictures.
//
//   node deploy/tests/console.mjs PROGRAM MODULES BROWSER PICTURES
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import assert from "node:assert/strict";

const [program, modules, browserPath, pictures] = process.argv.slice(2).map((path) => resolve(path));
const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(join(modules, "node_modules/axe-core/axe.min.js"), "utf8");

const SECRET = "planted-secret-0123456789";
const HOSTILE = "<img src=x onerror=alert(1)><script>window.pwned = 1</script>";
const ID = "<b>bold<script>window.pwned=1";
const HOOK = "\"><b>w<script>window.pwned=2";
// A token that may do what the demo's own may, one that may only look, and one that is taken away in mid-session.
const TOKENS = { full: "full-0123456789abcdef", reader: "reader-0123456789abcdef", revoked: "revoked-0123456789abcdef" };
const LINES = [`${TOKENS.full} playground demo:read,body,operate`, `${TOKENS.reader} demo:read`, `${TOKENS.revoked} demo:read`];
const PATIENCE_MS = 60000;
// Longer than a receiver is away on the bad day below, on a busy machine too.
const SUSPEND_AFTER_MS = 90000;
// An address that no other process listens on, so that a receiver which ended finds its port free again.
const OWN_ADDRESS = `127.${64 + Math.floor(Math.random() * 186)}.${1 + Math.floor(Math.random() * 250)}.1`;

const until = async (what, condition, patience = PATIENCE_MS) => {
  const end = Date.now() + patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < end, `waited ${patience / 1000} s for ${what}`);
    await new Promise((next) => { setTimeout(next, 100); });
  }
};

const folder = mkdtempSync(join(tmpdir(), "hookstream-console-"));
const tokensFile = join(folder, "tokens");

const startDemo = async () => {
  writeFileSync(tokensFile, `${LINES.join("\n")}\n`, { mode: 0o600 });
  const child = spawn(program, ["demo", "--for", "30m", "--rate", "20", "--api-listen", "127.0.0.1:0", "--console-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
    "--api-tokens-file", tokensFile, "--suspend-after", `${SUSPEND_AFTER_MS / 1000}s`, "--suspend-after-failures", "20"],
    { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (data) => { if (output.length < 4096) output += data; });
  const word = (name) => (output.match(new RegExp(`^${name} +(\\S+)$`, "m")) || [])[1];
  await until("the demo's addresses", () => word("console") && word("api"));
  return { child, console: word("console"), api: new URL(word("api")).origin, token: TOKENS.full };
};

// A receiver that acknowledges, at the port it had before, if it had one.
const startGood = async (port = 0) => {
  const server = createServer((request, response) => {
    server.seen += 1;
    request.resume();
    response.writeHead(200, { "x-xcom-integration-echo": request.headers["x-xcom-integration-echo"] });
    response.end();
  });
  server.seen = 0;
  await new Promise((listening) => { server.listen(port, OWN_ADDRESS, listening); });
  return server;
};

const die = (server) => new Promise((closed) => { server.close(closed); server.closeAllConnections(); });

const startReceiver = async () => {
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(500, { "content-type": "text/html" });
    response.end(`${HOSTILE} you sent ${request.headers["x-key"]}`);
  });
  await new Promise((listening) => { server.listen(0, "127.0.0.1", listening); });
  return server;
};

const demo = await startDemo();
const receiver = await startReceiver();
const problems = [];
let browser;
try {
  const headers = { authorization: `Bearer ${demo.token}`, "content-type": "application/json" };
  const instance = `${demo.api}/api/v1/playground/integrations/instances/${encodeURIComponent(ID)}`;
  const record = { id: ID, baseUrl: `http://127.0.0.1:${receiver.address().port}/%3Cscript%3E`, status: "active",
    secrets: [{ id: "webhook.header.X-Key", value: SECRET }],
    webHooks: [{ id: HOOK, relativeUrl: "cb", triggerType: "entityEvent", filter: { items: [{}] }, disabled: false }] };
  await until("the API", async () => (await fetch(`${demo.api}/api/v1/docs`).catch(() => ({}))).ok);
  const rows = async (workspace, path) => (await (await fetch(`${demo.console}api/v1/${workspace}/${path}`, { headers })).json()).rows || [];
  await until("a dead letter of the demo", async () => (await rows("demo", "dead-letters?limit=1")).length);

  browser = await chromium.launch({ executablePath: browserPath, headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
  const origin = new URL(demo.console).origin;
  const open = async (options) => {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("request", (request) => { if (!request.url().startsWith(`${origin}/`)) problems.push(`a request left the origin: ${request.url()}`); });
    page.on("pageerror", (error) => problems.push(`an error in a script: ${error}`));
    page.on("dialog", (shown) => { problems.push(`a dialog of the browser: ${shown.message()}`); shown.dismiss(); });
    await page.addInitScript(() => {
      window.reported = [];
      addEventListener("securitypolicyviolation", (event) => window.reported.push(`${event.violatedDirective} ${event.blockedURI}`));
    });
    await page.goto(demo.console);
    return page;
  };
  const signIn = async (page, token = demo.token) => {
    await page.getByLabel("Token").fill(token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("heading", { name: "Integrations", level: 1 }).waitFor();
  };
  const sound = async (page, name) => {
    await page.evaluate(axe);
    const found = await page.evaluate(() => window.axe.run(document));
    for (const violation of found.violations) {
      problems.push(`${name}: ${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html.slice(0, 120)).slice(0, 2).join(" | ")}`);
    }
    const { pwned, reported, text, scripts } = await page.evaluate(() => ({
      pwned: window.pwned, reported: window.reported, text: document.documentElement.outerHTML, scripts: document.querySelectorAll("main script, main img, dialog script, dialog img").length }));
    if (pwned) problems.push(`${name}: a script of hostile text ran`);
    if (scripts) problems.push(`${name}: hostile text became an element`);
    if (reported.length) problems.push(`${name}: the policy was broken: ${reported.join(", ")}`);
    for (const secret of [SECRET, ...Object.values(TOKENS)]) if (text.includes(secret)) problems.push(`${name}: a secret is on the page`);
    console.log(`seen: ${name}`);
  };
  const go = async (page, path, heading) => {
    await page.goto(`${demo.console}#/${path}`);
    await page.getByRole("heading", { name: heading, level: 1 }).waitFor();
  };
  // Goes on with the key alone until what has the focus is called so.
  const tabTo = async (page, name) => {
    for (let pressed = 0; pressed < 80; pressed += 1) {
      const focused = await page.evaluate(() => { const on = document.activeElement; return (on && (on.getAttribute("aria-label") || on.textContent)) || ""; });
      if (focused === name) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`the key Tab does not lead to ${name}`);
  };
  const picture = (page, name) => page.screenshot({ path: join(pictures, `console-${name}.png`) });

  // A bad day on the page: a receiver dies, its cause is a sentence, it is behind, it returns, and the account balances.
  const badDay = async () => {
    const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
    await signIn(page);
    let shop = await startGood();
    const { port } = shop.address();
    const path = `${demo.api}/api/v1/playground/integrations/instances/shop-sync`;
    const written = await fetch(path, { method: "PUT", headers, body: JSON.stringify({ id: "shop-sync", baseUrl: `http://${OWN_ADDRESS}:${port}`, status: "active",
      webHooks: [{ id: "companies", relativeUrl: "companies", triggerType: "entityEvent", filter: { items: [{ entityType: "company" }] }, disabled: false }] }) });
    assert.equal(written.status, 200, await written.text());
    const state = async () => (await (await fetch(path, { headers })).json()).health;
    await until("deliveries to the shop", async () => shop.seen > 2);
    await die(shop);
    await until("failed attempts of the shop", async () => (await rows("playground", "attempts?reason=connect&limit=3")).length === 3);
    await go(page, "playground/integration/shop-sync", "shop-sync");
    await page.getByRole("button", { name: /^Details of the attempt/ }).first().click();
    await page.getByRole("dialog").getByText("No connection to the receiver could be made. Cause: ").first().waitFor();
    await sound(page, "bad day: the cause");
    await picture(page, "bad-day-cause");
    await page.keyboard.press("Escape");
    await until("that the shop is behind", async () => (await state()).behindSince);
    await go(page, "playground/integrations", "Integrations");
    const row = page.getByRole("row").filter({ has: page.getByRole("link", { name: "shop-sync" }) });
    await row.getByText(/ ago$/).last().waitFor();
    await go(page, "playground/integration/shop-sync", "shop-sync");
    await page.getByText("Behind since").waitFor();
    await page.getByText("it gets its events in order").waitFor();
    await sound(page, "bad day: behind");
    await picture(page, "bad-day-behind");
    const [missed] = await rows("playground", "events?filter=%7B%22items%22%3A%5B%7B%7D%5D%7D");
    const account = page.getByText(/^\d+ matched = /);
    // The page shows the account of one moment: it is opened when the API has the one that is wanted.
    const traced = async () => (await (await fetch(`${demo.api}/api/v1/playground/events/${encodeURIComponent(missed.origin)}/trace`, { headers })).json()).account;
    await until("the event to wait", async () => (await traced()).waiting === 1);
    await go(page, `playground/event?event=${encodeURIComponent(missed.origin)}`, "Event");
    await page.getByText("1 matched = 0 acknowledged + 1 waiting + 0 dead + 0 dropped").waitFor();
    await picture(page, "bad-day-waiting");
    shop = await startGood(port);
    await until("that the shop is level again", async () => !(await state()).behindSince);
    await until("an event after the return", async () => shop.seen > 10);
    await until("the event to be acknowledged", async () => (await traced()).acknowledged === 1);
    await page.reload();
    await page.getByText("1 matched = 1 acknowledged + 0 waiting + 0 dead + 0 dropped").waitFor();
    assert.equal(await account.count(), 1);
    await sound(page, "bad day: the account");
    await picture(page, "bad-day-account");
    assert.equal((await fetch(path, { method: "DELETE", headers })).status, 200);
    await page.context().close();
    await die(shop);
  };
  await badDay();

  // An integration whose receiver answers with hostile text, from here on.
  const put = await fetch(instance, { method: "PUT", headers, body: JSON.stringify(record) });
  assert.equal(put.status, 200, await put.text());
  await until("a failed attempt of the hostile receiver", async () => (await rows("playground", "attempts?limit=1")).length);

  const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
  await sound(page, "sign in");
  await page.getByLabel("Token").fill("not-a-token");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("This token is not known.").waitFor();
  await signIn(page);
  const cookies = await page.context().cookies();
  assert.ok(cookies.every((cookie) => cookie.httpOnly && cookie.secure && cookie.sameSite === "Strict"), "the cookie");
  assert.equal(await page.evaluate(() => document.cookie + localStorage.length + sessionStorage.length), "00");

  await page.getByRole("link", { name: "c81e4f6d-92ab-4c37-8d11-b5a90e63f703" }).waitFor();
  await sound(page, "integrations");
  await picture(page, "integrations");
  await page.keyboard.press("/");
  await page.keyboard.type("0a7f3b52");
  await page.getByText("1 of the workspace's integrations match").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "0a7f3b52-6a0c-4d59-8a55-3f0d3c1b9e01", level: 1 }).waitFor();

  await go(page, "demo/integration/c81e4f6d-92ab-4c37-8d11-b5a90e63f703", "c81e4f6d-92ab-4c37-8d11-b5a90e63f703");
  const details = page.getByRole("button", { name: /^Details of the attempt/ }).first();
  await details.waitFor();
  await page.getByText("webhook.signingSecret (2 values, as in a rotation)", { exact: true }).waitFor();
  await sound(page, "integration");
  await picture(page, "integration");
  await page.getByLabel("Live").check();
  await page.getByText(/^\d+ new attempts$/).waitFor();
  await page.getByLabel("Live").uncheck();
  await details.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("without the header X-XCOM-Integration-Echo").first().waitFor();
  await sound(page, "attempt");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.ok(await details.evaluate((element) => element === document.activeElement), "focus returns to what opened the dialog");

  // Pages of one row: each look further back adds the row before, and none is shown twice.
  const older = page.getByRole("button", { name: "Look further back" });
  const onePerPage = (route) => { const url = new URL(route.request().url()); url.searchParams.set("limit", "1"); return route.continue({ url: url.href }); };
  const lookBack = async (row) => {
    const shown = async () => (await row.allTextContents()).length;
    for (const count of [1, 2]) {
      await until(`${count} rows`, async () => await shown() === count);
      await older.focus();
      await page.keyboard.press("Enter");
    }
    await until("three rows", async () => await shown() === 3);
    const details = await row.evaluateAll((buttons) => buttons.map((button) => button.getAttribute("aria-label") || button.textContent));
    assert.equal(new Set(details).size, 3, `a row is shown twice: ${details.join("; ")}`);
  };
  await page.route(/\/(attempts|dead-letters)\?/, onePerPage);
  await page.getByRole("combobox", { name: "Reason" }).selectOption("echo-missing");
  await page.getByRole("button", { name: "Look", exact: true }).click();
  await lookBack(page.getByRole("button", { name: /^Details of the attempt/ }));
  await sound(page, "attempts further back");
  await go(page, "demo/dead-letters", "Dead letters");
  await lookBack(page.getByRole("button", { name: /^Details of webhooks.dead-letter/ }));
  await page.unroute(/\/(attempts|dead-letters)\?/);

  const [attempt] = await rows("demo", "attempts?limit=1");
  // A trace that met a bound says so, and goes on. The bound is this test's: the demo's log is short.
  const asked = [];
  await page.route(/\/trace(\?|$)/, async (route) => {
    const url = new URL(route.request().url());
    asked.push(url.searchParams.get("next"));
    url.searchParams.delete("next");
    const response = await route.fetch({ url: url.href });
    const trace = await response.json();
    if (asked.length === 1) Object.assign(trace, { complete: false, next: "1.more", searchedBackTo: "2026-01-31T12:00:00.000Z", webhooks: trace.webhooks.slice(0, 1) });
    return route.fulfill({ response, json: trace });
  });
  await go(page, `demo/event?event=${encodeURIComponent(attempt.origin)}`, "Event");
  await page.getByText("Not everything was looked at").waitFor();
  await sound(page, "a trace that met a bound");
  const before = await page.locator("main").textContent();
  await older.click();
  await page.getByText("Not everything was looked at").waitFor({ state: "detached" });
  assert.deepEqual(asked, [null, "1.more"], "the page goes on where the answer before ended");
  assert.notEqual(await page.locator("main").textContent(), before, "what is found further back is shown");
  await page.unroute(/\/trace(\?|$)/);
  await go(page, "demo/integration/c81e4f6d-92ab-4c37-8d11-b5a90e63f703", "c81e4f6d-92ab-4c37-8d11-b5a90e63f703");
  await go(page, `demo/event?event=${encodeURIComponent(attempt.origin)}`, "Event");
  await page.getByText(/\d+ matched = \d+ acknowledged \+ \d+ waiting \+ \d+ dead \+ \d+ dropped/).waitFor();
  await page.getByRole("button", { name: "Show the event's bytes" }).click();
  await page.getByText("changeData").waitFor();
  await sound(page, "event");
  await picture(page, "event");
  await page.goBack();
  await page.getByRole("heading", { name: "c81e4f6d-92ab-4c37-8d11-b5a90e63f703", level: 1 }).waitFor();

  await go(page, "demo/dead-letters", "Dead letters");
  await page.getByRole("button", { name: /^Details of webhooks.dead-letter/ }).first().click();
  await page.getByRole("dialog").getByText("Every attempt of the schedule failed.").or(page.getByRole("dialog").getByText("The record is no event")).first().waitFor();
  await sound(page, "dead letter");
  await page.keyboard.press("Escape");
  await picture(page, "dead-letters");

  // A redrive: its preview fixes what runs; stopped between two records, then run to its end.
  // At one a second there is time to stop it: twenty seconds.
  await until("twenty exhausted dead letters", async () => (await rows("demo", "dead-letters?reason=exhausted&limit=20")).length === 20, 3 * PATIENCE_MS);
  await page.getByRole("combobox", { name: "Reason" }).selectOption("exhausted");
  const counted = async (box) => {
    const count = Number((await box.getByText(/^\d+ would be sent\.$/).textContent()).match(/\d+/)[0]);
    assert.ok(count >= 20, `${count} are counted`);
    return { box, count };
  };
  const redrive = async () => {
    await page.getByRole("button", { name: "Redrive this selection…" }).click();
    return counted(page.getByRole("dialog", { name: "Redrive dead letters" }));
  };
  const slow = await redrive();
  await slow.box.getByLabel("At most a second").fill("1");
  await sound(page, "preview of a redrive");
  await picture(page, "redrive");
  await slow.box.getByRole("button", { name: `Send ${slow.count}` }).click();
  await slow.box.getByText(/^[1-9]\d* of \d+ sent$/).waitFor();
  await slow.box.getByRole("button", { name: "Stop" }).click();
  await slow.box.getByText(/^Stopped: /).waitFor();
  const stoppedAt = Number((await slow.box.getByText(/^Stopped: /).textContent()).match(/\d+/)[0]);
  assert.ok(stoppedAt < slow.count, `the run was stopped after ${stoppedAt} of ${slow.count}`);
  await page.keyboard.press("Escape");
  const fast = await redrive();
  await fast.box.getByLabel("At most a second").fill("1000");
  await fast.box.getByRole("button", { name: `Send ${fast.count}` }).click();
  await fast.box.getByText(`Done: ${fast.count} sent.`).waitFor();
  await sound(page, "redrive");
  await page.keyboard.press("Escape");

  await page.getByRole("textbox", { name: "Integration" }).fill("not-registered");
  await page.getByRole("button", { name: "Look", exact: true }).click();
  await page.getByText("Nothing was found: no integration not-registered is registered in workspace demo.").waitFor();
  await sound(page, "dead letters of an integration that is not registered");

  await go(page, "demo/lab", "Filter lab");
  await page.getByRole("button", { name: "Try it" }).click();
  await page.getByText(/^Matched \d+ of \d+ recent events/).waitFor();
  await sound(page, "filter lab");
  await picture(page, "lab");

  await page.goto(`${demo.console}#/playground/integration/${encodeURIComponent(ID)}`);
  await page.getByRole("heading", { name: ID, level: 1 }).waitFor();
  await page.getByRole("button", { name: /^Details of the attempt/ }).first().click();
  await page.getByRole("dialog").getByText(HOSTILE).waitFor();
  await sound(page, "hostile answer");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: `Send a test to ${HOOK}` }).click();
  await page.getByText("The receiver answered with HTTP status 500").last().waitFor();
  await sound(page, "test delivery");

  // What fails for long is suspended. The page brings it back, with keys alone, and then sends past events again.
  const health = async () => (await (await fetch(instance, { headers })).json()).health;
  await until("the suspension of the hostile receiver", async () => (await health()).status === "failed", SUSPEND_AFTER_MS + 2 * PATIENCE_MS);
  await page.reload();
  await page.getByRole("button", { name: "Resume…" }).waitFor();
  await sound(page, "suspended");
  await tabTo(page, "Resume…");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Resume the integration" }).waitFor();
  await tabTo(page, "Resume");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").getByText("The integration is active again.").waitFor();
  assert.notEqual((await health()).status, "failed", "the API says what the page says");
  await sound(page, "resume");
  await page.keyboard.press("Escape");

  // Some events were dropped; more come. At one a second there is time to close the dialog: twenty seconds.
  const replay = async () => {
    await page.getByRole("button", { name: "Replay…" }).click();
    const box = page.getByRole("dialog", { name: "Replay past events" });
    await box.getByPlaceholder("where the suspension began").waitFor();
    await box.getByRole("button", { name: "Count first" }).click();
    return counted(box);
  };
  const since = Date.now();
  await until("events to replay", async () => (await rows("playground", `events?filter=${encodeURIComponent('{"items":[{}]}')}`)).filter((row) => new Date(row.at) > since).length >= 20, 4 * PATIENCE_MS);
  const first = await replay();
  await sound(page, "preview of a replay");
  await first.box.getByLabel("At most a second").fill("1");
  await first.box.getByRole("button", { name: `Send ${first.count}` }).click();
  await first.box.getByText(new RegExp(`^[1-9]\\d* of ${first.count} sent$`)).waitFor();
  // A dialog that is closed ends its run as well.
  await page.keyboard.press("Escape");
  await first.box.waitFor({ state: "detached" });
  const second = await replay();
  await second.box.getByLabel("At most a second").fill("1000");
  await second.box.getByRole("button", { name: `Send ${second.count}` }).click();
  await second.box.getByText(`Done: ${second.count} sent.`).waitFor();
  await sound(page, "replay");
  await page.keyboard.press("Escape");

  await go(page, "elsewhere/integrations", "Integrations");
  await page.getByRole("alert").getByText("The token is not for the workspace elsewhere.").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in", level: 1 }).waitFor();
  assert.equal((await page.context().cookies()).length, 0, "the cookie is gone");

  const dark = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
  await signIn(dark);
  await go(dark, "demo/integration/c81e4f6d-92ab-4c37-8d11-b5a90e63f703", "c81e4f6d-92ab-4c37-8d11-b5a90e63f703");
  await dark.getByRole("button", { name: /^Details of the attempt/ }).first().waitFor();
  await sound(dark, "integration in the dark");
  await picture(dark, "dark");

  await go(dark, "demo/dead-letters", "Dead letters");
  await dark.getByRole("button", { name: "Redrive this selection…" }).click();
  await counted(dark.getByRole("dialog", { name: "Redrive dead letters" }));
  await sound(dark, "preview in the dark");
  await dark.keyboard.press("Escape");

  const small = await open({ viewport: { width: 390, height: 780 }, colorScheme: "light" });
  await signIn(small);
  for (const [path, heading] of [["demo/integrations", "Integrations"], ["demo/dead-letters", "Dead letters"], ["demo/integration/c81e4f6d-92ab-4c37-8d11-b5a90e63f703", "c81e4f6d-92ab-4c37-8d11-b5a90e63f703"]]) {
    await go(small, path, heading);
    await small.getByRole("table").last().waitFor();
    const wide = await small.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    if (wide) problems.push(`${path} is wider than a small screen`);
    await sound(small, `${path} on a small screen`);
  }
  await small.getByRole("button", { name: "Replay…" }).click();
  await sound(small, "replay on a small screen");
  await small.keyboard.press("Escape");
  await picture(small, "small");

  // A token that may only look sees no answer of a receiver and no action, and gets none done.
  const reader = await open({ viewport: { width: 1280, height: 800 } });
  await signIn(reader, TOKENS.reader);
  await go(reader, "demo/integration/c81e4f6d-92ab-4c37-8d11-b5a90e63f703", "c81e4f6d-92ab-4c37-8d11-b5a90e63f703");
  await reader.getByText("This token may only read").waitFor();
  assert.equal(await reader.getByRole("button", { name: /^(Send a test|Resume|Replay|Redrive)/ }).count(), 0, "a reader is offered actions");
  const refused = await reader.evaluate(async () => (await fetch("api/v1/demo/actions/redrive/preview", { method: "POST", headers: { "x-hookstream-console": "1", "content-type": "application/json" }, body: "{}" })).status);
  assert.equal(refused, 403, "a reader's action");
  await sound(reader, "a reader's page");

  // A token that is revoked in mid-session.
  const gone = await open({ viewport: { width: 1280, height: 800 } });
  await signIn(gone, TOKENS.revoked);
  writeFileSync(tokensFile, `${LINES.slice(0, 2).join("\n")}\n`);
  demo.child.kill("SIGHUP");
  const asks = (token) => fetch(`${demo.console}api/v1/demo/health`, { headers: { authorization: `Bearer ${token}` } });
  await until("the revocation", async () => (await asks(TOKENS.revoked)).status === 401);
  await gone.getByRole("link", { name: "Dead letters" }).click();
  await gone.getByRole("heading", { name: "Sign in", level: 1 }).waitFor();
  await sound(gone, "revoked");
} finally {
  if (browser) await browser.close();
  receiver.close();
  demo.child.kill("SIGKILL");
  rmSync(folder, { recursive: true });
}
for (const problem of problems) console.error(problem);
assert.equal(problems.length, 0, `${problems.length} problems`);
console.log("the page holds");
