// The index table: sorts by any column, filters by text, experiment and state, and shows the first MOST of what is left
// until all are asked for. No library, works from the file system.
"use strict";
const table = document.getElementById("cells");
const rows = Array.from(table.tBodies[0].rows);
const shown = document.getElementById("shown");
const all = document.getElementById("all");
const MOST = 50;      // rows: an experiment of 800 configurations would be a page of 100 screens
let whole = false;    // whether all rows were asked for
const filters = ["text", "experiment", "state"].map((name) => document.getElementById(name));

function key(row, column) {
  const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text.toLowerCase();
}

function compare(a, b) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;      // empty ones last
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function sort(column) {
  const heads = Array.from(table.tHead.rows[0].cells);
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, index) => head.setAttribute("aria-sort", index !== column ? "none" : up ? "ascending" : "descending"));
  const keyed = rows.map((row) => [key(row, column), row]);
  keyed.sort(([a], [b]) => (a === "" || b === "" || up ? compare(a, b) : compare(b, a)));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
  filter();
}

function filter() {
  const [text, experiment, state] = filters.map((field) => field.value.trim().toLowerCase());
  const words = text.split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of table.tBodies[0].rows) {
    const content = row.textContent.toLowerCase();
    const wanted = words.every((word) => content.includes(word)) &&
      (!experiment || row.dataset.experiment.toLowerCase() === experiment) && (!state || row.dataset.state === state);
    count += wanted;
    row.hidden = !wanted || (!whole && count > MOST);
  }
  const rest = !whole && count > MOST;
  shown.textContent = `${count} of ${rows.length} match${rest ? `, the first ${MOST} are shown` : ""}`;
  all.hidden = !rest;
  all.textContent = `Show all ${count}`;
}

table.tHead.querySelectorAll("button").forEach((button) =>
  button.addEventListener("click", () => sort(button.closest("th").cellIndex)));
filters.forEach((field) => ["input", "change"].forEach((event) => field.addEventListener(event, filter)));
document.querySelectorAll("a.of").forEach((link) => link.addEventListener("click", () => {
  filters.forEach((field) => { field.value = field.id === "experiment" ? link.dataset.experiment : ""; });
  filter();
}));
all.addEventListener("click", () => {
  whole = true;
  filter();
});
document.getElementById("clear").addEventListener("click", () => {
  filters.forEach((field) => { field.value = ""; });
  filter();
});
filter();
