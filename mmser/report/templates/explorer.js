// All that is shown of the data is set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const AT_ONCE = 200; // utterances in the list before "Show more"
const seconds = (t) => `${t.toFixed(2)} s`;

/** An element with attributes, listeners ("onclick") and children; strings become text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A labelled choice among [value, words] pairs; `changed` is told the value. */
function choice(label, pairs, changed) {
  const select = make("select", { onchange: () => changed(select.value) });
  fill(select, pairs);
  return [make("label", {}, `${label} `, select), select];
}

function fill(select, pairs) {
  select.replaceChildren(...pairs.map(([value, words]) => make("option", { value }, words)));
}

/** One tab stop for many elements: arrow keys go from one to the next, up and down by `columns`. */
function rove(elements, columns = 1) {
  elements.forEach((element, i) => {
    element.tabIndex = i ? -1 : 0;
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const next = elements[i + step];
      if (!next) return;
      event.preventDefault();
      element.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
}

// ---- what heads said ----

/** Rows of numbers (seeds) to their mean; seeds without numbers do not count; null where none has any. */
function mean(rows) {
  const there = rows.filter((row) => row.every((value) => value !== null));
  if (!there.length) return null;
  return there[0].map((_, k) => there.reduce((sum, row) => sum + row[k], 0) / there.length);
}

/** What a head said of an utterance ("p" or "r"): of one seed, or the mean where seed is "". */
function answer(utterance, head, kind, seed = "") {
  const said = utterance.said[head];
  if (!said) return null;
  const rows = said[kind];
  return mean(seed === "" ? rows : rows.filter((_, i) => String(data.heads[head].seeds[i]) === seed));
}

/** The class, by number, that a head said of an utterance: of one seed, or the mean where seed is ""; -1 for none. */
function classSaid(utterance, head, seed = "") {
  const said = utterance.said[head];
  if (!said) return -1;
  return seed === "" ? said.class_of_mean : (said.classes[data.heads[head].seeds.indexOf(Number(seed))] ?? -1);
}

/** Why a head has no answer of an utterance. */
function whyNone(utterance, head, seed) {
  if (!utterance.said[head]) return "not tested";
  return seed === "" || data.heads[head].seeds.includes(Number(seed)) ? "no number" : "no such seed";
}

/** Whether a head is wrong of an utterance; null where that cannot be said. */
function isWrong(utterance, head, seed = "") {
  const said = classSaid(utterance, head, seed);
  return utterance.truth && said >= 0 ? data.heads[head].labels[said] !== utterance.truth : null;
}

for (const utterance of data.utterances) {
  utterance.wrong = data.heads.map((_, head) => isWrong(utterance, head));
  utterance.judged = utterance.wrong.filter((one) => one !== null).length;
  utterance.mistakes = utterance.wrong.filter((one) => one).length;
  utterance.haystack = `${utterance.id}\n${utterance.text}`.toLowerCase();
}

// ---- the list ----

const filters = ["search", "wrong", "truth", "speaker", "detailed"].map(byId);
let numShown = AT_ONCE;
let shownId = ""; // the utterance beside the list

function fillFilters() {
  const distinct = (values) => [...new Set(values)].filter(Boolean).sort().map((value) => [value, value]);
  const classes = data.heads.flatMap((head, i) => (head.labels.length ? [[`${i}`, `wrong by ${head.name}`]] : []));
  fill(byId("wrong"), [["", "all"], ["any", "wrong by any head"], ["every", "wrong by all heads"], ...classes]);
  fill(byId("truth"), [["", "all"], ...distinct(data.utterances.map((one) => one.truth))]);
  fill(byId("speaker"), [["", "all"], ...distinct(data.utterances.map((one) => one.fields.speaker))]);
  const useless = { wrong: !classes.length };
  for (const id of ["truth", "speaker"]) useless[id] = byId(id).options.length < 3;
  useless.detailed = data.utterances.every((one) => one.detail);
  for (const [id, hide] of Object.entries(useless)) byId(id).closest("label").hidden = hide;
}

function passes(utterance) {
  const [search, wrong, truth, speaker, detailed] = filters.map((f) => (f.type === "checkbox" ? f.checked : f.value));
  const fits = {
    "": () => true,
    any: () => utterance.mistakes > 0,
    every: () => utterance.judged > 0 && utterance.mistakes === utterance.judged,
  };
  return (
    utterance.haystack.includes(search.trim().toLowerCase()) &&
    (fits[wrong] || (() => utterance.wrong[wrong] === true))() &&
    (!truth || utterance.truth === truth) &&
    (!speaker || utterance.fields.speaker === speaker) &&
    (!detailed || utterance.detail !== null)
  );
}

function showList() {
  const found = data.utterances.filter(passes);
  const items = found.slice(0, numShown).map((one) => {
    const marks = one.judged ? `${one.mistakes} of ${one.judged} wrong` : "";
    const title = make("span", { class: "title" }, make("b", {}, one.id), make("span", {}, one.truth));
    const about = make("span", { class: one.mistakes ? "marks wrong" : "marks" }, marks);
    return make("a", { href: `#${encodeURIComponent(one.id)}` }, title, make("span", { class: "said" }, one.text), about);
  });
  byId("list").replaceChildren(...items.map((item) => make("li", {}, item)));
  rove(items);
  markChosen();
  byId("count").textContent = `${found.length} of ${data.utterances.length} utterances`;
  byId("more").hidden = found.length <= numShown;
  return found;
}

/** The id in the address; "" where a slip in it ("#%zz") makes it none. */
function chosenId() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch (error) {
    if (error instanceof URIError) return "";
    throw error;
  }
}

function markChosen() {
  for (const link of byId("list").querySelectorAll("a")) {
    if (link.hash.slice(1) === encodeURIComponent(shownId)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

fillFilters();
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", () => ((numShown = AT_ONCE), showList()));
byId("more").addEventListener("click", () => ((numShown += AT_ONCE), showList()));
addEventListener("hashchange", showUtterance);
showList();
showUtterance();
