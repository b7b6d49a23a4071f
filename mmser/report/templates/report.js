"use strict";

// The table: sorted by a click on a heading (again: the other way round), filtered by what is typed.

const table = document.getElementById("table");
const rows = [...table.tBodies[0].rows];

function sortBy(column) {
  const headings = [...table.tHead.rows[0].cells];
  const heading = headings[column];
  const first = column === 0 ? "ascending" : "descending"; // names from a, figures from the best
  const other = first === "ascending" ? "descending" : "ascending";
  const way = heading.getAttribute("aria-sort") === first ? other : first;
  headings.forEach((own) => own.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", way);
  const sign = way === "ascending" ? 1 : -1;
  rows.sort((one, two) => {
    const [a, b] = [one, two].map((row) => row.cells[column]);
    if (column === 0) return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
    const [x, y] = [a, b].map((cell) => cell.dataset.value);
    if (x === "" || y === "") return (x === "") - (y === ""); // what has no figure stays below
    return sign * (Number(x) - Number(y));
  });
  table.tBodies[0].append(...rows);
}

function filterBy(text) {
  const words = text.toLowerCase().split(/\s+/);
  for (const row of rows) {
    const own = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => own.includes(word));
  }
  const left = rows.filter((row) => !row.hidden).length;
  document.getElementById("shown").textContent = `${left} of ${rows.length} rows`;
}

[...table.tHead.rows[0].cells].forEach((heading, column) => {
  heading.querySelector("button").addEventListener("click", () => sortBy(column));
});
document.getElementById("filter").addEventListener("input", (event) => filterBy(event.target.value));

// The figures: drawn by plotly in the page's own colours, and anew when those change or the page is printed.

const plots = JSON.parse(document.getElementById("plots").textContent);
const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, lines, paper] = ["--ink", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: lines, linecolor: lines, zerolinecolor: lines, automargin: true, ticklabelstandoff: 4 };
  const whole = {
    font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: paper, bordercolor: ink, font: { color: ink } },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
    margin: { l: 10, r: 15, t: layout.showlegend ? 50 : 10, b: 25 },
    dragmode: false,
    ...structuredClone(layout),
  };
  for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d/.test(key))]) {
    whole[name] = { ...axis, ...whole[name] };
    if (whole[name].title) whole[name].title.standoff = 10;
  }
  return [whole, ink];
}

function draw(place) {
  const key = place.dataset.figure;
  const chosen = document.querySelector(`select[data-figure="${key}"]`);
  const { data, layout } = plots[key][chosen ? Number(chosen.value) : 0];
  const [whole, ink] = themed(layout);
  const traces = data.map((trace) => ({ ...structuredClone(trace), textfont: { color: ink } }));
  Plotly.react(place, traces, whole, config);
}

const places = [...document.querySelectorAll(".plot")];
const drawAll = () => places.forEach(draw);
drawAll();
document.querySelectorAll("select[data-figure]").forEach((select) => {
  select.addEventListener("change", () => draw(document.querySelector(`.plot[data-figure="${select.dataset.figure}"]`)));
});
for (const medium of ["(prefers-color-scheme: dark)", "print"]) {
  window.matchMedia(medium).addEventListener("change", drawAll);
}
