// What the page does: takes a file or an example, asks the service, shows what it says.

import { clock, count, drawBars, drawCard, drawTimeline, foreign, make, shade, short } from "./charts.js";
import { MOST_RECORDS, openRecords } from "./records.js";

const TOP_K = 20;
const TOKEN_KEY = "yt8m-token";
const PATIENCE_MS = 200; // what is quicker than that needs no word that it is going on

const at = (id) => document.getElementById(id);
const BINARY = { "content-type": "application/octet-stream" };

let cards = null;
let asking = new AbortController(); // a new question ends the one before
let again = null; // what to do once there is a token

/** What the service, or the file, says is wrong. */
class Refusal extends Error {
  constructor(title, message, status = 0, requestId = "") {
    super(message);
    Object.assign(this, { title, status, requestId });
  }
}

const TITLES = { 401: "A token is needed", 413: "Too large", 503: "Busy", 504: "Too slow" };

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("No answer", "The service cannot be reached, or has closed the connection.");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null); // a proxy in between may answer anything
  const error = told?.error ?? {};
  const title = TITLES[response.status] ?? (response.status < 500 ? "Refused" : "The service failed");
  throw new Refusal(title, error.message ?? `status ${response.status}`, response.status, error.request_id ?? "");
}

function showError(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refusal)) error = new Refusal("This file cannot be read", error.message);
  const needsToken = error.status === 401;
  if (needsToken) {
    sessionStorage.removeItem(TOKEN_KEY);
    at("token-form").hidden = false;
    at("token").value = "";
    at("token").focus();
  }
  at("error-title").textContent = error.title;
  at("error-text").textContent = short(error.message, 1000);
  at("error-id").textContent = error.requestId && `request ${error.requestId}`;
  at("error").hidden = false;
}

/** Runs a step of the user's; errors are shown, and a step that lacked a token is done again with one. */
async function attempt(step) {
  asking.abort();
  const mine = (asking = new AbortController());
  at("error").hidden = true;
  const waiting = setTimeout(() => { at("status").textContent = "Asking the model …"; }, PATIENCE_MS);
  try {
    await step(mine.signal);
  } catch (error) {
    if (error.status === 401) again = step;
    if (mine === asking) showError(error);
  } finally {
    clearTimeout(waiting);
    if (mine === asking) at("status").textContent = "";
  }
}

function drawChoices(list, choices, choose) {
  list.replaceChildren(...choices.map((choice) => {
    const length = choice.numFrames === null ? "means" : clock(choice.numFrames);
    const button = make("button", { type: "button", className: "chip", title: short(choice.title, 1000), "aria-pressed": "false" },
      make("span", { className: "chip-title" }, short(choice.title)), make("span", { className: "chip-length" }, length));
    button.onclick = () => {
      markChosen(button);
      choose(choice);
    };
    return make("li", {}, button);
  }));
}

function markChosen(button) {
  for (const each of document.querySelectorAll(".chip[aria-pressed=true]")) each.setAttribute("aria-pressed", "false");
  button?.setAttribute("aria-pressed", "true");
}

async function predict(title, payload, numFrames, known, signal) {
  const topK = Math.min(TOP_K, cards?.current.num_classes ?? TOP_K);
  const started = performance.now();
  const response = await ask(`v1/predict?top_k=${topK}&timeline=true`, { method: "POST", headers: BINARY, body: payload, signal });
  const answer = await response.json();
  const elapsed = performance.now() - started;
  const { video_id: videoId, labels, timeline } = answer.predictions[0];
  at("result").hidden = false;
  at("result-title").textContent = `Top ${labels.length}`;
  drawBars(at("bars"), labels, known);
  const hasTimeline = labels.length > 0 && (timeline?.scores.length ?? 0) > 1;
  at("timeline").hidden = !hasTimeline;
  if (hasTimeline) {
    at("timeline-hint").textContent = `What the model makes of each ${timeline.window_s} seconds alone. Point at a cell, or use the arrow keys.`;
    drawTimeline(at("heat"), at("readout"), labels, timeline, numFrames);
  }
  const length = numFrames === null ? "means" : `${clock(numFrames)}, ${count(numFrames, "frame")}`;
  at("answer-facts").replaceChildren(
    foreign(videoId || title), ` (${length}) · ${answer.model_name} `, make("code", {}, answer.model_version),
    ` · ${Math.round(elapsed)} ms${hasTimeline ? " with its timeline" : ""} · request `, make("code", {}, answer.request_id));
  at("result").scrollIntoView({ block: "nearest" });
  const versions = [cards?.current.version, cards?.canary?.version];
  if (!versions.includes(answer.model_version)) await loadCards(); // another model answers since the page was loaded
}

function clearResult() {
  at("result").hidden = true;
}

async function takeFile(file) {
  await attempt(async (signal) => {
    clearResult();
    markChosen(null);
    at("records").hidden = true;
    const { isShard, hasMore, records } = await openRecords(file);
    if (isShard) {
      const which = hasMore ? `the first ${MOST_RECORDS} records` : count(records.length, "record");
      at("records-title").replaceChildren(foreign(file.name), `: ${which}`);
      const choose = (record) => attempt((next) => predict(record.title, record.payload, record.numFrames, record.labels, next));
      drawChoices(at("records-list"), records, choose);
      at("records").hidden = false;
    }
    markChosen(isShard ? at("records-list").querySelector("button") : null);
    const [first] = records;
    await predict(first.title, first.payload, first.numFrames, first.labels, signal);
  });
}

async function loadCards() {
  cards = await (await ask("v1/model")).json();
  const share = (part) => `${Math.round(part * 100)} % of the requests`;
  const { name, current, canary, canary_share: part } = cards;
  const shown = drawCard(name, current, canary ? share(1 - part) : null);
  if (canary) shown.push(make("h3", {}, "Canary"), ...drawCard(name, canary, share(part)));
  at("card-body").replaceChildren(...shown);
}

async function loadExamples() {
  const { is_made_up: isMadeUp, examples } = await (await ask("v1/examples")).json();
  at("examples").hidden = examples.length === 0;
  at("examples-title").textContent = isMadeUp ? "Or try an example (noise, with which the model checks itself)" : "Or try an example";
  const choices = examples.map(({ id, title, num_frames: numFrames, labels }) => ({ id, title, numFrames, labels }));
  drawChoices(at("examples-list"), choices, ({ id, title, numFrames, labels }) => attempt(async (signal) => {
    at("records").hidden = true;
    const record = await (await ask(`v1/examples/${encodeURIComponent(id)}`, { signal })).arrayBuffer();
    await predict(title, record, numFrames, labels, signal);
  }));
}

async function start() {
  await loadCards();
  await loadExamples();
}

function listen() {
  const drop = at("drop");
  let depth = 0; // children of the page send their own enter and leave
  const mark = () => drop.classList.toggle("over", depth > 0);
  document.addEventListener("dragenter", () => { depth += 1; mark(); });
  document.addEventListener("dragleave", () => { depth -= 1; mark(); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser opens the file in place of the page
    depth = 0;
    mark();
    const [file] = event.dataTransfer.files;
    if (file) takeFile(file);
  });
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    if (file) takeFile(file);
    at("file").value = ""; // the same file can be chosen again
  });
  at("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN_KEY, at("token").value.trim());
    at("token-form").hidden = true;
    const step = again;
    again = null;
    await attempt(async (signal) => {
      await start();
      if (step && step !== start) await step(signal);
    });
  });
}

listen();
for (let part = 0; part <= 8; part += 1) at("ramp").append(make("span", { className: "cell", "--shade": shade(part / 8) }));
attempt(start);
