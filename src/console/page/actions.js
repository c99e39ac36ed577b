// What the page does: it sends a test delivery. The API does it with the token of the user who is signed in.
import * as api from "./api.js";
import { facts, failure, h, replace } from "./dom.js";
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
