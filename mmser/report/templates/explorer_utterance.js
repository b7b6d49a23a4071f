"use strict";
// One utterance: its waveform and segments, what each head said of it, and where heads looked.

function showUtterance() {
  const found = data.utterances.filter(passes);
  const one = data.utterances.find(({ id }) => id === chosenId()) || found.find(({ detail }) => detail) || found[0];
  if (!one) return;
  const others = Object.entries(one.fields).filter(([, value]) => value !== one.truth);
  const fields = others.map(([name, value]) => `${name} ${value}`);
  const about = make("p", { class: "about" }, [one.truth, ...fields].filter(Boolean).join(" · "));
  const parts = [make("h2", {}, one.id), make("p", { class: "text" }, one.text || "(no transcript)"), about];
  const sound = one.detail ? timeline(one) : null;
  if (sound) parts.push(...sound.parts);
  else parts.push(make("p", { class: "hint" }, "Waveform, segments and attention of this utterance were left out."));
  parts.push(...predictions(one), ...attention(one, sound));
  byId("utterance").replaceChildren(...parts);
  shownId = one.id;
  markChosen();
  if (location.hash && byId("utterance").getBoundingClientRect().top > innerHeight / 2) byId("utterance").scrollIntoView();
}

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Waveform, tiers of segments and player; `light(start, end)` marks segments, `play(start, end)` plays it. */
function timeline(one) {
  const { duration_s: length, wave, audio, tiers = {} } = one.detail;
  if (!length) return { parts: [make("p", { class: "hint" }, "Neither recording nor alignment is there.")], light() {}, play() {} };
  const player = audio ? make("audio", { controls: true, src: audio, preload: "auto" }) : null;
  const readout = make("output", { class: "readout" }, audio ? "Choose a segment to hear it." : "Point at a segment.");
  const line = make("div", { class: "playhead", hidden: true });
  const inner = make("div", { class: "time", style: `min-width: ${Math.round(length * 260)}px` }, line);
  if (wave) inner.append(waveform(new Int8Array(bytesOf(wave).buffer)));
  let stop = length;
  const play = (start, end) => {
    if (!player) return;
    player.currentTime = start;
    stop = end;
    player.play();
  };
  const follow = () => {
    line.style.left = `${(100 * player.currentTime) / length}%`;
    if (player.currentTime >= stop) player.pause();
    if (!player.paused) requestAnimationFrame(follow);
  };
  player?.addEventListener("play", () => ((line.hidden = false), follow()));
  player?.addEventListener("pause", () => (stop = length));
  player?.addEventListener("seeked", follow);
  for (const [tier, segments] of Object.entries(tiers)) {
    const boxes = segments.map(([start, end, label, kind]) => {
      const words = `${tier} ${kind === 1 ? "(pause)" : label}, ${start.toFixed(2)} to ${seconds(end)}`;
      const tell = () => (readout.textContent = words);
      const style = `left: ${(100 * start) / length}%; width: ${(100 * (end - start)) / length}%`;
      const on = { onfocus: tell, onpointerenter: tell, onclick: () => play(start, end) };
      const span = { "data-start": start, "data-end": end };
      const name = kind === 1 ? "segment pause" : "segment";
      return make("button", { type: "button", class: name, style, "aria-label": words, ...span, ...on }, label);
    });
    rove(boxes);
    inner.append(make("div", { class: "tier", role: "group", "aria-label": `${tier}s` }, ...boxes));
  }
  // what lies in it, and what it lies in: a frame is shorter than a phone
  const light = (start, end) => {
    const middle = (start + end) / 2;
    for (const box of inner.querySelectorAll(".segment")) {
      const [from, to] = [Number(box.dataset.start), Number(box.dataset.end)];
      const isLit = (from >= start && to <= end) || (from <= middle && middle < to);
      box.classList.toggle("lit", start !== null && isLit);
    }
  };
  const missing = wave ? null : make("p", { class: "hint" }, "The recording could not be read when this page was written.");
  return { parts: [make("div", { class: "scroll" }, inner), readout, missing, player].filter(Boolean), light, play };
}

/** Lowest and highest samples (2 x points, one after the other) as one closed shape. */
function waveform(values) {
  const points = values.length / 2;
  const above = Array.from({ length: points }, (_, i) => `${i},${-values[points + i]}`);
  const below = Array.from({ length: points }, (_, i) => `${i},${-values[i]}`).reverse();
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", `M${above.join(" ")} ${below.join(" ")}Z`);
  svg.setAttribute("viewBox", `0 -130 ${points - 1} 260`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "waveform");
  svg.append(shape);
  return svg;
}

// ---- predictions ----

function predictions(one) {
  const seeds = [...new Set(data.heads.flatMap((head) => head.seeds))].sort((a, b) => a - b).map(String);
  const tables = make("div", { id: "predictions" });
  const show = (seed) => tables.replaceChildren(...classTables(one, seed), ...ratingTables(one, seed));
  show("");
  const [label] = choice("Predictions,", [["", "mean over seeds"], ...seeds.map((seed) => [seed, `seed ${seed}`])], show);
  return [make("h3", {}, "What each head said"), label, tables];
}

const scrolled = (table) => make("div", { class: "scroll" }, table);

/** A table for each set of classes: heads by probabilities. */
function classTables(one, seed) {
  const sets = [...new Set(data.heads.filter((head) => head.labels.length).map((head) => JSON.stringify(head.labels)))];
  return sets.map((set) => {
    const labels = JSON.parse(set);
    const truth = (label) => (label === one.truth ? make("small", {}, " true") : null);
    const names = labels.map((label) => make("th", { scope: "col" }, label, truth(label)));
    const rows = data.heads.flatMap((head, i) => (JSON.stringify(head.labels) === set ? [classRow(one, i, seed)] : []));
    const top = make("tr", {}, make("th", { scope: "col" }, "head"), make("th", {}, "says"), ...names, make("th", {}, "fold"));
    return scrolled(make("table", { class: "classes" }, make("thead", {}, top), make("tbody", {}, ...rows)));
  });
}

function classRow(one, i, seed) {
  const head = data.heads[i];
  const p = answer(one, i, "p", seed);
  const best = classSaid(one, i, seed);
  const wrong = isWrong(one, i, seed);
  const cells = head.labels.map((_, k) => {
    const value = p ? p[k].toFixed(3) : "–";
    return make("td", { class: k === best ? "best" : null, style: `--share: ${p ? p[k] : 0}` }, value);
  });
  const said = p ? head.labels[best] + { true: " ✗", false: " ✓", null: "" }[wrong] : whyNone(one, i, seed);
  const name = make("th", { scope: "row" }, head.name, make("small", {}, figure(head)));
  const fold = make("td", { class: "fold" }, one.said[i] ? one.said[i].fold : "");
  return make("tr", {}, name, make("td", { class: `says ${wrong ? "wrong" : ""}` }, said), ...cells, fold);
}

const figure = (head) => (head.score === null ? "" : ` ${head.figure} ${head.score.toFixed(3)}`);

/** One table of what was rated: the truth, then heads by dimensions. */
function ratingTables(one, seed) {
  const names = [...new Set(data.heads.flatMap((head) => head.dimensions))];
  if (!names.length) return [];
  const written = (value) => value.toFixed(2).replace(/^-(?=[0.]+$)/, ""); // zero has no minus
  const cell = (value) => make("td", {}, value === null || value === undefined ? "–" : written(value));
  const row = (name, values) => make("tr", {}, make("th", { scope: "row" }, ...name), ...values.map(cell));
  const rows = data.heads.flatMap((head, i) => {
    if (!head.dimensions.length) return [];
    const r = answer(one, i, "r", seed);
    const why = r ? [] : [make("small", {}, ` ${whyNone(one, i, seed)}`)];
    return [row([head.name, ...why], names.map((name) => r?.[head.dimensions.indexOf(name)]))];
  });
  const truth = row(["true"], names.map((name) => one.ratings[name]));
  const top = make("tr", {}, make("th", { scope: "col" }, "ratings"), ...names.map((name) => make("th", { scope: "col" }, name)));
  return [scrolled(make("table", { class: "ratings" }, make("thead", {}, top), make("tbody", {}, truth, ...rows)))];
}

// ---- attention ----

/** Choices and a heatmap of where a head looked; nothing where no head shows it. */
function attention(one, sound) {
  const looks = one.detail?.attention;
  if (!looks) return [];
  const bestFirst = Object.keys(looks).sort((a, b) => data.heads[b].score - data.heads[a].score);
  const heads = bestFirst.map((i) => [i, data.heads[i].name]);
  const state = { head: heads[0][0], map: "", direction: "speech_to_text", of: "" };
  const place = make("div", { class: "scroll" });
  const readout = make("output", { class: "readout" });
  const pick = (name) => (value) => ((state[name] = value), show());
  const [headLabel] = choice("Head", heads, (value) => ((state.head = value), fillMaps(), show()));
  const [mapLabel, mapSelect] = choice("Layer", [], (value) => ((state.map = value), fillDirections(), show()));
  const directions = [["speech_to_text", "speech looks at tokens"], ["text_to_speech", "tokens look at speech"]];
  const [directionLabel, directionSelect] = choice("Direction", [], pick("direction"));
  const [ofLabel, ofSelect] = choice("Attention head", [], pick("of"));
  function fillMaps() {
    const maps = Object.keys(looks[state.head].maps);
    const names = [...new Set(maps.map((name) => name.split(".").slice(0, 2).join(".")))];
    fill(mapSelect, names.map((name) => [name, `${name.split(".")[0]}s, block ${Number(name.split(".")[1]) + 1}`]));
    state.map = names[0];
    const numbers = Array.from({ length: looks[state.head].maps[maps[0]].shape[0] }, (_, i) => [`${i}`, `${i + 1}`]);
    fill(ofSelect, [["", "mean of all"], ...numbers]);
    state.of = "";
    mapLabel.hidden = names.length < 2;
    fillDirections();
  }
  /** Not every block looks both ways. */
  function fillDirections() {
    const there = directions.filter(([way]) => `${state.map}.${way}` in looks[state.head].maps);
    fill(directionSelect, there);
    if (!there.some(([way]) => way === state.direction)) state.direction = there[0][0];
    directionSelect.value = state.direction;
  }
  function show() {
    place.replaceChildren(heatmap(looks[state.head], state, readout, sound));
  }
  headLabel.hidden = heads.length < 2;
  fillMaps();
  show();
  const controls = make("div", { class: "controls" }, headLabel, mapLabel, directionLabel, ofLabel);
  return [make("h3", {}, "Where the head looked"), controls, readout, place];
}

/** The least and the greatest of rows of numbers, which may be too many to be the arguments of one call. */
function extremes(rows) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of rows.flat()) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

/** One map as a table: who looks in rows, at what in columns; a row's weights sum to 1. */
function heatmap(looks, { map, direction, of }, readout, sound) {
  const { shape, values } = looks.maps[`${map}.${direction}`];
  const [numHeads, numRows, numColumns] = shape;
  const raw = new Uint16Array(bytesOf(values).buffer);
  const heads = of === "" ? Array.from({ length: numHeads }, (_, i) => i) : [Number(of)];
  const at = (h, r, c) => raw[(h * numRows + r) * numColumns + c] / 65535;
  const weight = (r, c) => heads.reduce((sum, h) => sum + at(h, r, c), 0) / heads.length;
  const speech = looks.speech[map.split(".")[0]];
  const tokens = looks.tokens.map((token) => [token, null, null]);
  readout.textContent = "";
  if (!speech.length || !tokens.length) {
    const lacking = [!speech.length && `${map.split(".")[0]}s`, !tokens.length && "tokens"].filter(Boolean).join(" and no ");
    return make("p", { class: "hint" }, `There was nothing to look at: the utterance has no ${lacking}.`);
  }
  // where only the last state asks, or a summary of all, it alone has a row
  const [asking, asked] = direction === "speech_to_text" ? [speech, tokens] : [tokens, speech];
  const rows = looks.summary ? [["all of it", null, null]] : asking.slice(asking.length - numRows);
  const weights = rows.map((_, r) => asked.map((_, c) => weight(r, c)));
  const [least, most] = extremes(weights);
  const share = (value) => (most > least ? (value - least) / (most - least) : 0);
  const cells = rows.map((from, r) =>
    asked.map((to, c) => {
      const words = `${from[0]} → ${to[0]}: ${weights[r][c].toFixed(3)}`;
      const [, start, end] = direction === "speech_to_text" ? from : to;
      const tell = () => ((readout.textContent = words), sound.light(start, end));
      const on = { onfocus: tell, onpointerenter: tell, onclick: () => start !== null && sound.play(start, end) };
      return make("td", { style: `--share: ${share(weights[r][c])}`, "aria-label": words, ...on });
    }),
  );
  const body = rows.map(([label], r) => make("tr", {}, make("th", { scope: "row" }, label), ...cells[r]));
  rove(cells.flat(), numColumns);
  readout.textContent =
    `A row sums to 1, so that an even look is ${(1 / numColumns).toFixed(3)}; ` +
    `from ${least.toFixed(3)} (faint) to ${most.toFixed(3)} (strong). Point at a cell for its weight.`;
  const top = asked.map(([label]) => make("th", { scope: "col" }, make("span", {}, label)));
  const head = make("thead", {}, make("tr", {}, make("td"), ...top));
  return make("table", { class: "heatmap" }, head, make("tbody", {}, ...body));
}
