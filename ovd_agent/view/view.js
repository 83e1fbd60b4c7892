"use strict";
// Whatever comes from a run is set as text, never as markup.
const at = (id) => document.getElementById(id);
const FILTERS = ["source", "text", "em", "hops", "update", "least", "most", "end", "kind"];
const PAGE = 50;
let offset = 0, shown = [], chosen = -1, counts = "";

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

async function ask(path, wanted) {
  const reply = await fetch(path + "?" + new URLSearchParams(wanted || {}));
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

const number = (value, digits) => (value === null || value === undefined ? "—" : value.toFixed(digits));

function curve(name, values) {
  const points = values.map((value, place) => [place, value]).filter(([, value]) => typeof value === "number");
  if (points.length < 2) return null;
  const [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("width", "190");
  svg.setAttribute("height", "60");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${name}, from ${number(low, 3)} to ${number(high, 3)}`);
  const line = document.createElementNS(space, "polyline");
  const last = Math.max(1, values.length - 1);
  line.setAttribute("points", points.map(([x, y]) =>
    `${5 + (180 * x) / last},${55 - (50 * (y - low)) / (high - low || 1)}`).join(" "));
  svg.append(line);
  const figure = node("figure");
  figure.append(svg, node("figcaption", `${name} ${number(points[points.length - 1][1], 3)}`));
  return figure;
}

async function showRun() {
  const run = await ask("/api/run");
  at("title").textContent = run.name;
  document.title = `${run.name} · ovd view`;
  const evaluations = run.evaluations.map((each) => `EM ${number(each.em, 3)} after ${each.update} updates`);
  const done = run.curves.loss.length;
  at("what").textContent = [`${run.algorithm} on ${run.env}, student ${run.student}`,
    `${done} of ${run.updates} updates`, ...evaluations].join(" · ");
  const curves = Object.entries(run.curves).map(([name, values]) => curve(name, values)).filter(Boolean);
  at("curves").replaceChildren(...curves);
  const now = JSON.stringify(run.counts);
  if (counts && now !== counts) await showList();
  if (!counts && !run.counts.training) at("source").value = run.counts.after ? "after" : "before";
  counts = now;
}

function wanted() {
  const found = { offset: String(offset), limit: String(PAGE) };
  for (const name of FILTERS) if (at(name).value !== "") found[name] = at(name).value;
  if (found.source === "training") found.order = "newest";
  return found;
}

async function showList() {
  const page = await ask("/api/episodes", wanted());
  shown = page.episodes;
  const end = Math.min(offset + PAGE, page.total);
  at("count").textContent = page.total ? `${offset + 1} to ${end} of ${page.total} episodes` : "no such episode";
  at("earlier").disabled = offset === 0;
  at("later").disabled = end >= page.total;
  at("rows").replaceChildren(...shown.map((line, place) => {
    const row = node("tr");
    const right = line.em === null ? "—" : line.em ? "right" : "wrong";
    for (const [text, kind] of [[line.update ?? "—"], [line.question], [line.hops], [line.turns],
      [number(line.score, 1)], [right, line.em ? "good" : "bad"], [line.end], [line.kind]]) row.append(node("td", text, kind));
    row.addEventListener("click", () => choose(place));
    return row;
  }));
  chosen = -1;
}

async function choose(place) {
  if (place < 0 || place >= shown.length) return;
  chosen = place;
  [...at("rows").children].forEach((row, index) => row.classList.toggle("chosen", index === place));
  at("rows").children[place].scrollIntoView({ block: "nearest" });
  await showEpisode(at("source").value, shown[place].place);
}

async function showEpisode(source, place) {
  const found = await ask("/api/episode", { source, place });
  const main = found.episode || found;
  history.replaceState(null, "", `#${source}/${place}`);  // a link to this episode
  const target = at("episode");
  target.replaceChildren(node("h2", main.task.prompt), node("p", `${main.task.id} · answer: ${main.task.answers.join(" / ")}`, "soft"));
  const sides = node("div", null, "sides");
  sides.append(side(main, label(source, found.kind)));
  target.append(sides);
  if (found.beside.length) {
    const others = node("p", "Beside it: ");
    for (const other of found.beside) {
      const button = node("button", `${label(other.source, other.kind)}, ${other.em ? "right" : "wrong"}`);
      button.addEventListener("click", async () => {
        const record = await ask("/api/episode", { source: other.source, place: other.place });
        while (sides.children.length > 1) sides.lastChild.remove();
        sides.append(side(record.episode || record, label(other.source, other.kind)));
      });
      others.append(button, " ");
    }
    target.insertBefore(others, sides);
    others.querySelector("button").click();
  }
}

const label = (source, kind) => (source === "training" ? kind || "sample" : `held out, ${source}`);

function side(episode, name) {
  const box = node("article");
  box.append(node("h3", `${name}: ${episode.end_reason ?? "running"}, ${episode.exact_match ? "right" : "wrong"}`));
  episode.turns.forEach((turn, index) => {
    const score = turn.score && turn.score.level !== null ? turn.score : null;
    const made = node("div", null, `turn ${score === null ? "" : score.level >= 7 ? "good" : score.level <= 3 ? "bad" : ""}`);
    const said = score === null ? "no score" : `score ${score.level}${score.rationale ? ": " + score.rationale : ""}`;
    made.append(node("p", `${index + 1} · ${turn.kind} · ${said}`, "soft"), node("pre", turn.action.trim()));
    if (turn.observation && turn.observation.trim()) made.append(node("pre", turn.observation.trim(), "said"));
    box.append(made);
  });
  return box;
}

function failed(error) { at("count").textContent = error.message; }
const again = () => { offset = 0; showList().catch(failed); };
for (const name of FILTERS) at(name).addEventListener("input", again);
at("earlier").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); showList().catch(failed); });
at("later").addEventListener("click", () => { offset += PAGE; showList().catch(failed); });
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" && event.key !== "Escape") return;
  if (event.key === "j") choose(chosen + 1).catch(failed);
  if (event.key === "k") choose(chosen - 1).catch(failed);
  if (event.key === "/") { event.preventDefault(); at("text").focus(); }
  if (event.key === "Escape") event.target.blur();
});
async function begin() {
  await showRun();
  const [, source, place] = location.hash.match(/^#(training|before|after)\/(\d+)$/) || [];
  if (source) at("source").value = source;
  await showList();
  if (source) await showEpisode(source, place);
}
begin().catch(failed);
setInterval(() => showRun().catch(() => {}), 5000);
