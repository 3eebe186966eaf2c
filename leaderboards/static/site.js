"use strict";
// Sorting and filters. The state of both is in the address:
// #task=desed&protocol=linear&sort=c0123abcd.desc

const state = new URLSearchParams();

function readAddress() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return false; // a place on the page
  for (const key of [...state.keys()]) state.delete(key);
  for (const [key, value] of new URLSearchParams(text)) state.append(key, value);
  return true;
}

function writeAddress() {
  const text = "#" + state.toString();
  if (location.hash === text || (!location.hash && text === "#")) return;
  history.replaceState(null, "", text === "#" ? location.pathname + location.search : text);
}

function set(key, value) {
  if (value) state.set(key, value);
  else state.delete(key);
}

// ---- sorting

const first = (th) => th.dataset.first || "desc"; // the direction in which the best comes first

function sortTable(table, th, direction) {
  const index = [...th.parentNode.children].indexOf(th);
  const body = table.tBodies[0];
  table.home ??= [...body.rows];
  const sign = direction === "asc" ? 1 : -1;
  const keys = table.home.map((row, place) => {
    const cell = row.cells[index];
    if (index === 0) return { row, place, text: cell.textContent };
    const value = cell.dataset.v;
    return { row, place, value: value === undefined ? NaN : Number(value) };
  });
  keys.sort((a, b) => {
    if (a.text !== undefined)
      return sign * a.text.localeCompare(b.text, "en", { numeric: true }) || a.place - b.place;
    // Rows without a value stay last in both directions.
    const none = Number.isNaN(a.value) - Number.isNaN(b.value);
    return none || sign * (a.value - b.value) || a.place - b.place;
  });
  body.append(...keys.map((key) => key.row));
  mark(table, th, direction);
}

function mark(table, th, direction) {
  for (const head of table.tHead.rows[0].cells) {
    if (!head.dataset.col) continue;
    const own = head === th ? (direction === "asc" ? "ascending" : "descending") : "none";
    head.setAttribute("aria-sort", own);
  }
}

function applySort() {
  const [column, direction] = (state.get("sort") || "").split(".");
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const th = heads.find((head) => head.dataset.col && head.dataset.col === column);
    if (th) sortTable(table, th, direction === "asc" ? "asc" : "desc");
    else if (table.home) {
      table.tBodies[0].append(...table.home);
      mark(table, null, "");
    }
  }
}

function onSort(th) {
  const [column, direction] = (state.get("sort") || "").split(".");
  const other = { asc: "desc", desc: "asc" };
  const next = column === th.dataset.col ? other[direction] || first(th) : first(th);
  state.set("sort", `${th.dataset.col}.${next}`);
  sortTable(th.closest("table"), th, next);
  for (const table of document.querySelectorAll("table[data-sortable]"))
    if (table !== th.closest("table") && table.home) {
      table.tBodies[0].append(...table.home);
      mark(table, null, "");
    }
  writeAddress();
}

// ---- filters

const OF_COLUMNS = ["task", "protocol"];
const OF_ROWS = ["stage", "show", "model"];

function chosen(key) {
  return new Set(state.getAll(key));
}

function fits(element, keys, wanted) {
  return keys.every((key) => {
    const own = element.dataset[key];
    return !wanted[key].size || own === undefined || wanted[key].has(own);
  });
}

function applyFilters(form) {
  const wanted = {};
  for (const key of [...OF_COLUMNS, ...OF_ROWS]) wanted[key] = chosen(key);
  const query = (state.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  let all = 0;
  for (const table of document.querySelectorAll("table.scores")) {
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows];
    const matching = rows.filter((row) => {
      const text = row.dataset.text.toLowerCase();
      return fits(row, OF_ROWS, wanted) && query.every((word) => text.includes(word));
    });
    const open = heads.map((head, k) => k > 0 && fits(head, OF_COLUMNS, wanted));
    // A row is shown if it has something in an open column, a column if one of its rows is shown.
    const scored = heads.map((head) => head.dataset.task !== undefined);
    const left = new Set(
      matching.filter((row) => open.some((on, k) => on && scored[k] && row.cells[k].firstChild)),
    );
    const used = heads.map((head, k) => k === 0 || (open[k] && [...left].some((row) => row.cells[k].firstChild)));
    heads.forEach((head, k) => (head.hidden = !used[k]));
    for (const row of rows) {
      row.hidden = !left.has(row);
      if (row.hidden) continue;
      for (let k = 1; k < used.length; k++)
        if (row.cells[k].hidden === used[k]) row.cells[k].hidden = !used[k];
    }
    table.closest("section").hidden = !left.size;
    shown += left.size;
    all += rows.length;
  }
  document.getElementById("count").textContent = shown ? `${shown} of ${all} rows` : "No row fits: clear some filters";
  const active = [...OF_COLUMNS, ...OF_ROWS].filter((key) => wanted[key].size).length;
  document.getElementById("active").textContent = active ? `(${active} in use)` : "";
  for (const input of form.elements) {
    if (input.type === "checkbox") input.checked = wanted[input.name].has(input.value);
    if (input.type === "search" && input.value !== (state.get("q") || "")) input.value = state.get("q") || "";
  }
}

function startFilters(form) {
  form.hidden = false;
  form.addEventListener("change", (event) => {
    const input = event.target;
    if (input.type !== "checkbox") return;
    const values = chosen(input.name);
    values[input.checked ? "add" : "delete"](input.value);
    state.delete(input.name);
    for (const value of values) state.append(input.name, value);
    applyFilters(form);
    writeAddress();
  });
  form.elements.q.addEventListener("input", (event) => {
    set("q", event.target.value);
    applyFilters(form);
    writeAddress();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key of [...OF_COLUMNS, ...OF_ROWS, "q"]) state.delete(key);
    applyFilters(form);
    writeAddress();
  });
}

// ---- start

function apply() {
  const form = document.getElementById("filters");
  if (form) applyFilters(form);
  applySort();
}

for (const table of document.querySelectorAll("table[data-sortable]"))
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) onSort(button.closest("th"));
  });
const filters = document.getElementById("filters");
if (filters) startFilters(filters);
readAddress();
apply();
if (filters && [...OF_COLUMNS, ...OF_ROWS].some((key) => state.has(key)))
  filters.querySelector("details").open = true;
addEventListener("hashchange", () => {
  if (readAddress()) apply();
  else if (state.toString()) writeAddress(); // the view stays when a place on the page is gone to
});
