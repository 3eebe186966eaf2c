"use strict";
// Sorting, filters and the take-away of tables. Their state is in the address:
// #protocol=finetuned&model=beats&show=untrained&sort=c0123abcd.desc

const state = new URLSearchParams();
const phone = matchMedia("(max-width: 640px)");
const form = document.getElementById("filters");
const tables = [...document.querySelectorAll("table[data-sortable]")];

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

const headsOf = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];

// ---- sorting

function sortTable(table, th, direction) {
  const k = headsOf(table).indexOf(th);
  const sign = direction === "asc" ? 1 : -1;
  for (const body of table.tBodies) {
    body.home ??= [...body.rows];
    const keys = body.home.map((row, place) => {
      const cell = row.cells[k];
      const rule = row.className === "rule";
      const text = rule || cell.dataset.v !== undefined ? "" : cell.textContent;
      return { row, place, rule, text, value: rule ? NaN : Number(cell.dataset.v ?? NaN) };
    });
    keys.sort((a, b) => {
      if (a.rule || b.rule) return b.rule - a.rule;
      // Rows without a value stay last in both directions.
      const none = (Number.isNaN(a.value) && !a.text) - (Number.isNaN(b.value) && !b.text);
      const order = a.text && b.text ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.value - b.value;
      return none || sign * order || a.place - b.place;
    });
    body.append(...keys.map((key) => key.row));
  }
  mark(table, th, direction);
}

function mark(table, th, direction) {
  table.classList.toggle("sorted", Boolean(th));
  for (const head of headsOf(table)) {
    const sort = head === th ? (direction === "asc" ? "ascending" : "descending") : "none";
    if (head.dataset.col) head.setAttribute("aria-sort", sort);
  }
}

function applySort() {
  const [column, direction] = (state.get("sort") || "").split(".");
  for (const table of tables) {
    const th = headsOf(table).find((head) => head.dataset.col && head.dataset.col === column);
    if (th) sortTable(table, th, direction === "asc" ? "asc" : "desc");
    else if (table.classList.contains("sorted")) {
      for (const body of table.tBodies) body.append(...body.home);
      mark(table, null, "");
    }
  }
}

function onSort(th) {
  const [column, direction] = (state.get("sort") || "").split(".");
  const other = { asc: "desc", desc: "asc" };
  const next = (column === th.dataset.col && other[direction]) || th.dataset.first || "desc";
  state.set("sort", `${th.dataset.col}.${next}`);
  applySort();
  writeAddress();
}

// ---- filters: rows by data-family, data-model, data-stage, data-show; columns by data-kind, data-task

const ROWS = ["family", "model", "stage"];

function shownView() {
  const views = [...form.elements].filter((input) => input.name === "protocol").map((input) => input.value);
  return views.includes(state.get("protocol")) ? state.get("protocol") : views[0];
}

function shownTask() {
  const select = form?.elements.task;
  const tasks = select ? [...select.options].map((option) => option.value) : [];
  return tasks.includes(state.get("task")) ? state.get("task") : tasks[0];
}

function shownKinds() {
  // What has no switch is always shown.
  const switches = [...(form?.elements ?? [])].filter((input) => input.name === "show").map((input) => input.value);
  const off = switches.filter((value) => !state.getAll("show").includes(value));
  return (kind) => !off.includes(kind);
}

function hide(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

function applyTable(table, matches) {
  const shows = shownKinds();
  const task = shownTask();
  const heads = headsOf(table);
  const ofTask = (data) => !phone.matches || !task || !data.task || data.task === task;
  const open = heads.map(({ dataset: data }) => {
    if (!shows("published") && data.kind === "published") return false;
    if (data.kind === "small" && !shows("small")) return false;
    if (phone.matches && task && (data.kind === "wide" || data.published !== undefined)) return false;
    return ofTask(data);
  });
  heads.forEach((head, k) => {
    // A published column beside small tasks goes with them.
    const beside = head.dataset.published !== undefined && heads[k - 1]?.dataset.kind === "small";
    if (beside && !open[k - 1]) open[k] = false;
    hide(head, !open[k]);
  });
  let k = 0;
  for (const group of table.tHead.rows.length > 1 ? table.tHead.rows[0].cells : []) {
    group.all ??= group.colSpan;
    const width = open.slice(k, k + group.all).filter(Boolean).length;
    k += group.all;
    hide(group, !width);
    if (width) group.colSpan = width;
  }
  let count = 0;
  for (const body of table.tBodies) {
    let rule = null;
    for (const row of [...body.rows].sort((a, b) => (body.home ? body.home.indexOf(a) - body.home.indexOf(b) : 0))) {
      if (row.className === "rule") {
        if (rule) hide(rule, true);
        rule = row;
        continue;
      }
      const fits = matches(row) && shows(row.dataset.show);
      hide(row, !fits);
      if (!fits) continue;
      count += 1;
      if (rule) hide(rule, false);
      rule = null;
      for (let i = 0; i < open.length; i++) hide(row.cells[i], !open[i]);
    }
    if (rule) hide(rule, true);
  }
  return count;
}

function applyFilters() {
  if (!form) return;
  const wanted = Object.fromEntries(ROWS.map((key) => [key, state.getAll(key)]));
  const words = (state.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  const matches = ({ dataset }) =>
    ROWS.every((key) => !wanted[key].length || wanted[key].includes(dataset[key])) &&
    words.every((word) => dataset.text.toLowerCase().includes(word));
  const view = shownView();
  let count = 0;
  for (const section of document.querySelectorAll("[data-view]"))
    section.hidden = view !== undefined && view !== "all" && section.dataset.view !== view;
  for (const table of document.querySelectorAll("table.scores")) {
    const rows = applyTable(table, matches);
    if (!table.closest("[hidden]")) count += rows;
  }
  for (const row of document.querySelectorAll(".glance tbody tr"))
    row.hidden =
      (row.dataset.kind === "small" && !shownKinds()("small")) ||
      (phone.matches && row.dataset.task !== undefined && shownTask() !== undefined && row.dataset.task !== shownTask());
  form.querySelector("output").textContent = count ? `${count} rows` : "No row fits: reset the filters";
  for (const input of form.elements) {
    if (input.type === "checkbox") input.checked = state.getAll(input.name).includes(input.value);
    if (input.type === "radio") input.checked = input.value === view;
    if (input.name === "task") input.value = shownTask();
    if (input.type === "search" && input.value !== (state.get("q") || "")) input.value = state.get("q") || "";
  }
  for (const span of form.querySelectorAll("[data-active]")) {
    const active = state.getAll(span.dataset.active).length;
    span.textContent = active ? `(${active})` : "";
  }
}

function startFilters() {
  form.hidden = false;
  form.addEventListener("input", ({ target }) => {
    if (!target.name) return; // it only opens the filters on phones
    const values = state.getAll(target.name).filter((value) => value !== target.value);
    state.delete(target.name);
    if (target.type !== "checkbox") state.set(target.name, target.value);
    else for (const value of target.checked ? [...values, target.value] : values) state.append(target.name, value);
    if (!state.get(target.name)) state.delete(target.name);
    applyFilters();
    writeAddress();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key of [...state.keys()]) state.delete(key);
    apply();
    writeAddress();
  });
  document.addEventListener("click", ({ target }) => {
    for (const menu of form.querySelectorAll("details[open]")) if (!menu.contains(target)) menu.open = false;
  });
  phone.addEventListener("change", applyFilters);
}

// ---- the take-away of what is shown

function shownCells(table) {
  const heads = headsOf(table).map((head, k) => ({ head, k })).filter(({ head }) => !head.hidden);
  const text = (cell) => (cell.firstElementChild?.tagName === "A" ? cell.firstElementChild : cell.firstChild)?.textContent.trim() ?? "";
  const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.hidden && row.className !== "rule");
  return {
    heads: heads.map(({ head }) => head.dataset.name),
    rows: rows.map((row) =>
      heads.map(({ k }) => {
        const cell = row.cells[k];
        const name = cell.tagName === "TH";
        const half = name ? "" : (cell.querySelector("small")?.textContent.slice(1) ?? "");
        const more = name && (cell.querySelector("small")?.textContent ?? "");
        const stage = name && table.closest("[data-view]") === null ? cell.querySelector("span").textContent : "";
        return { text: [text(cell), stage, more && `(${more})`].filter(Boolean).join(" "), half, best: cell.className === "best" };
      }),
    ),
  };
}

const FORMATS = {
  CSV: {
    end: "csv",
    write({ heads, rows }) {
      // A column of half-widths beside each that has some; no cell is a formula to a spreadsheet.
      const wide = heads.map((_, k) => rows.some((row) => row[k].half));
      const quoted = (text) => {
        const safe = /^[=+\-@\t\r＝＋－＠]/.test(text) && !/^-?[\d.]+$/.test(text) ? `'${text}` : text;
        return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
      };
      const line = (cells) => cells.map(quoted).join(",");
      const top = heads.flatMap((head, k) => (wide[k] ? [head, `${head}, half-width`] : [head]));
      const plain = (text) => text.replace(/^−/, "-");
      const lines = rows.map((row) => row.flatMap((cell, k) => (wide[k] ? [plain(cell.text), cell.half] : [plain(cell.text)])));
      return [top, ...lines].map(line).join("\n") + "\n";
    },
  },
  Markdown: {
    end: "md",
    write({ heads, rows }) {
      const safe = (text) => text.replace(/[\\`*_{}[\]|~$]/g, "\\$&").replace(/</g, "&lt;").replace(/>/g, "&gt;");
      const cell = ({ text, half, best }) => (best ? `**${safe(text)}**` : safe(text)) + (half && ` ± ${half}`);
      const line = (texts) => `| ${texts.join(" | ")} |`;
      const body = rows.map((row) => line(row.map(cell)));
      return [line(heads.map(safe)), `|${"---|".repeat(heads.length)}`, ...body].join("\n") + "\n";
    },
  },
  LaTeX: {
    end: "tex",
    write({ heads, rows }) {
      const named = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "±": "$\\pm$" };
      const safe = (text) => text.replace(/[\\~^−±&%$#_{}]/g, (sign) => named[sign] ?? `\\${sign}`);
      const cell = ({ text, half, best }) =>
        (best ? `\\textbf{${safe(text)}}` : safe(text)) + (half && ` {\\scriptsize $\\pm$ ${half}}`);
      const line = (texts) => `${texts.join(" & ")} \\\\`;
      const spec = heads.map((head) => (/^(Model|Stage|Licence)/.test(head) ? "l" : "r")).join("");
      const body = rows.map((row) => line(row.map(cell)));
      const parts = ["% needs booktabs", `\\begin{tabular}{${spec}}`, "\\toprule", line(heads.map(safe)), "\\midrule"];
      return [...parts, ...body, "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
    },
  },
};

async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => (button.textContent = before), 1500);
}

function startTakeAway() {
  for (const part of document.querySelectorAll(".take")) part.hidden = false;
  for (const button of document.querySelectorAll("[data-copy], [data-copy-code]"))
    button.hidden = !navigator.clipboard; // only of pages from https, this machine, or a file
  document.addEventListener("click", ({ target }) => {
    if (target.matches("[data-copy-code]")) copy(target, target.previousElementSibling.textContent);
    const format = FORMATS[target.dataset?.take];
    if (!format) return;
    const section = target.closest("section");
    const text = format.write(shownCells(section.querySelector("table.scores")));
    if (target.dataset.copy !== undefined) return copy(target, text);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = `leaderboard-${section.dataset.view ?? "task"}.${format.end}`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// ---- two models picked in the chart of classes: their numbers

function showClasses(part, picked) {
  const data = JSON.parse(part.querySelector("script.data").textContent);
  const [first, second] = picked.map((k) => data.rows[k]);
  const table = part.querySelector("table");
  const heads = headsOf(table).map((head) => head.querySelector("button"));
  heads[1].textContent = first.label;
  heads[2].textContent = second.label;
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row]));
  const scale = data.percent ? 100 : 1;
  const put = (cell, text, value) => {
    cell.textContent = text;
    if (value === null) delete cell.dataset.v;
    else cell.dataset.v = value;
  };
  data.classes.forEach((name, i) => {
    const { cells } = rows.get(name);
    const [a, b] = [first.values[i], second.values[i]];
    const less = a === null || b === null ? null : a - b;
    put(cells[1], first.texts[i], a);
    put(cells[2], second.texts[i], b);
    const text = less === null ? "" : (scale * less).toFixed(scale === 1 ? 2 : 1).replace(/^-/, "−");
    put(cells[3], less > 0 ? `+${text}` : text, less);
  });
  sortTable(table, headsOf(table)[3], "desc");
}

// ---- start

function apply() {
  applyFilters();
  applySort();
}

for (const table of tables)
  table.tHead.addEventListener("click", ({ target }) => {
    if (target.closest("th[data-col] > button:not(.why)")) onSort(target.closest("th"));
  });
for (const part of document.querySelectorAll("[data-classes]"))
  part.addEventListener("change", ({ target }) => {
    const selects = target.closest(".pick")?.querySelectorAll("select");
    if (selects) showClasses(part, [...selects].map((select) => Number(select.value)));
  });
if (form) startFilters();
startTakeAway();
readAddress();
apply();
addEventListener("hashchange", () => {
  if (readAddress()) apply();
  else if (state.toString()) writeAddress(); // the view stays when a place on the page is gone to
});
