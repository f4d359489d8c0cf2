// What is drawn: bars, the heat map over time, the model card. Text is only ever set as text.

/** Returns a new element; `properties` are set on it, those that begin with -- as style. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Marks that turn text round. One that is not closed reaches beyond the element that it is in, a <bdi> too.
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** Returns a text that anybody may have written, no longer than a reader wants it. */
export function short(text, most = 120) {
  const cut = text.length > most ? `${text.slice(0, most).replace(/[\ud800-\udbff]$/, "")}…` : text;
  return cut.replace(TURNING, "");
}

/** Returns such a text as an element beside others, with a direction of its own. */
export const foreign = (text, most) => make("bdi", {}, short(text, most));

export const nameOf = (label) => short(label.name ?? `Class ${label.class_id}`);
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const score = (value) => (value > 0 && value < 0.001 ? "<0.001" : value.toFixed(3));

/** Draws the best classes; those in `known`, the record's own labels, get a mark. */
export function drawBars(list, labels, known) {
  list.replaceChildren(...labels.map((label) => {
    const details = [label.vertical, label.knowledge_graph_id, label.name ? `class ${label.class_id}` : "no name"].filter(Boolean);
    const shown = details.flatMap((detail, index) => (index ? [" · ", foreign(detail, 60)] : [foreign(detail, 60)]));
    return make("li", { className: "bar-row", "--score": label.score },
      make("span", { className: "bar-name" }, nameOf(label),
        ...(known.includes(label.class_id) ? [make("span", { className: "bar-known" }, "in the record")] : [])),
      make("span", { className: "bar-score" }, score(label.score)),
      make("span", { className: "bar", "aria-hidden": "true" }, make("span", { className: "bar-fill" })),
      make("span", { className: "bar-details" }, ...shown));
  }));
}

// Low scores are the interesting ones of a heat map: the square root tells them apart.
export const shade = (value) => Math.sqrt(value).toFixed(3);

/** Draws scores [windows][classes]; pointing, or the arrow keys, read single cells out. */
export function drawTimeline(heat, readout, labels, timeline, numFrames) {
  const numWindows = timeline.scores.length, { window_s: step } = timeline;
  const end = numFrames ?? numWindows * step;
  heat.style.setProperty("--windows", numWindows);
  heat.replaceChildren(...labels.map((label, row) => make("div", { className: "heat-row" },
    make("span", { className: "heat-name", title: nameOf(label) }, nameOf(label)),
    make("div", { className: "heat-cells" }, ...timeline.scores.map((scores, column) =>
      make("span", { className: "cell", "--shade": shade(scores[row]), "data-row": row, "data-column": column }))))),
  axis(numWindows, step));
  const cells = [...heat.querySelectorAll(".cell")];
  let row = 0, column = 0, marked = null;
  const point = (nextRow, nextColumn) => {
    [row, column] = [nextRow, nextColumn];
    marked?.classList.remove("marked");
    marked = cells[row * numWindows + column];
    marked.classList.add("marked");
    const until = Math.min((column + 1) * step, end);
    readout.replaceChildren(foreign(nameOf(labels[row])), `, ${clock(column * step)}–${clock(until)}: ${score(timeline.scores[column][row])}`);
  };
  const clamp = (value, limit) => Math.max(0, Math.min(limit - 1, value));
  const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -1e9], End: [0, 1e9] };
  heat.onpointermove = heat.onclick = (event) => {
    const cell = event.target.closest(".cell");
    if (cell) point(Number(cell.dataset.row), Number(cell.dataset.column));
  };
  heat.onfocus = () => point(row, column);
  heat.onkeydown = (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    point(clamp(row + keys[event.key][0], labels.length), clamp(column + keys[event.key][1], numWindows));
  };
  const best = strongest(timeline.scores);
  readout.replaceChildren();
  if (labels.length) point(best.row, best.column);
}

function strongest(scores) {
  let best = { row: 0, column: 0, value: -1 };
  scores.forEach((values, column) => values.forEach((value, row) => {
    if (value > best.value) best = { row, column, value };
  }));
  return best;
}

function axis(numWindows, step) {
  const every = [1, 2, 3, 6, 12, 24, 48].find((n) => numWindows / n <= 6) ?? numWindows;
  const ticks = [];
  for (let window = 0; window < numWindows; window += every) {
    ticks.push(make("span", { className: "tick", "--at": window + 1 }, clock(window * step)));
  }
  return make("div", { className: "heat-row axis", "aria-hidden": "true" }, make("span"),
    make("div", { className: "heat-cells" }, ...ticks));
}

function facts(pairs) {
  return pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, typeof value === "string" ? short(value, 300) : value)));
}

const gap = (value) => (value === null ? "–" : value.toFixed(4));
const megabytes = (bytes) => (bytes === null ? "–" : `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: bytes < 1e7 ? 2 : 0 })} MB`);
const options = (tree) => Object.entries(tree).filter(([, value]) => value !== null).map(([key, value]) =>
  (value && typeof value === "object" ? `${key}: ${Array.isArray(value) ? value.join(", ") : `{${options(value)}}`}` : `${key} ${value}`)).join(", ");

/** Returns the elements of the card of one model. */
export function drawCard(name, card, remark) {
  const { quality, licence, provenance } = card;
  const inputs = `${card.features.map(({ name: feature, size }) => `${feature} ${size}`).join(", ")} (${card.features[0].dtype})`;
  const parts = [make("dl", { className: "facts" }, ...facts([
    ["Name", name],
    ["Version", make("code", {}, card.version)],
    ["Kind", card.kind === "bundle" ? `bundle of ${count(card.members.length, "model")}` : "checkpoint"],
    ["Answers", remark],
    ["GAP@20", quality && `${gap(quality.gap_after)} as served, ${gap(quality.gap_before)} as trained`],
    ["Measured on", quality && `${count(quality.num_videos, "video")} of ${count(quality.num_shards, "shard")} (${quality.shards.map((name) => short(name.replace(".tfrecord", ""), 60)).join(" … ")})`],
    ["GAP@20", quality ? null : "not measured"],
    ["Classes", card.num_classes.toLocaleString("en")],
    ["Reads", card.level === "frame" ? `frames, one a second, at most ${card.max_frames}` : "means over a video, or its frames to average"],
    ["Features", inputs],
    ["Normalized", card.normalize],
    ["Weights", card.transform && `${card.transform.name}, activations ${card.transform.activations}`],
    ["Size", card.stored_bytes !== null && `${megabytes(card.stored_bytes)} stored, ${megabytes(card.float32_bytes)} as trained`],
    ["Licence", licence?.weights ?? "unknown"],
    ["Written", provenance && `${provenance.created.slice(0, 10)} by yt8m_ray ${provenance.package_version}`],
    ["Commit", provenance?.git_commit && make("code", {}, provenance.git_commit.slice(0, 12))],
  ].filter(([, value]) => value !== false)))];
  if (card.members) parts.push(membersTable(card.members));
  for (const each of licence?.attributions ?? []) {
    parts.push(make("p", { className: "quiet" }, foreign(each.title), ": ", foreign(each.holder), ", ", foreign(each.licence), ", ", foreign(each.source)));
  }
  return parts;
}

function membersTable(members) {
  const head = ["Member", "Weight", "GAP trained", "GAP served", "Size"];
  const rows = members.map((member) => make("tr", {},
    make("th", { scope: "row" }, foreign(member.name), make("span", { className: "options" }, short(options(member.options), 400))),
    ...[member.weight.toFixed(3), gap(member.gap_before), gap(member.gap_after), megabytes(member.stored_bytes)]
      .map((text) => make("td", {}, text))));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Members" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...rows)));
}
