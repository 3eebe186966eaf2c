"use strict";
// Draws the charts of a page, each a Plotly figure as JSON in its <figure>, once it comes into view.
(() => {
  const library = new URL("plotly.min.js", document.currentScript.src);
  const PAPER = { ink: "#1c2126", soft: "#545d66", line: "#d5dade", paper: "#ffffff" }; // of downloads
  const drawn = new Set();
  let loading;

  function load() {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: library, onload: resolve, onerror: reject });
      document.head.append(script);
    });
    return loading;
  }

  function scheme() {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(Object.keys(PAPER).map((key) => [key, style.getPropertyValue(`--${key}`)]));
  }

  // The colours of a layout, by paths of attributes.
  function colours({ ink, soft, line, paper }) {
    const paths = { paper_bgcolor: paper, plot_bgcolor: paper, "font.color": ink };
    Object.assign(paths, { "modebar.bgcolor": paper, "modebar.color": soft, "modebar.activecolor": ink });
    Object.assign(paths, { "hoverlabel.bgcolor": paper, "hoverlabel.font.color": ink });
    for (const axis of ["xaxis", "yaxis"])
      Object.assign(paths, { [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: soft });
    return paths;
  }

  function paint(layout, palette) {
    for (const [path, colour] of Object.entries(colours(palette))) {
      const keys = path.split(".");
      const last = keys.pop();
      keys.reduce((part, key) => (part[key] ??= {}), layout)[last] = colour;
    }
    return layout;
  }

  function save(plot, title, format) {
    const layout = paint(structuredClone(plot.layout), PAPER);
    layout.title = { text: title.replace(/[&<$]/g, (letter) => `&#${letter.charCodeAt(0)};`), font: { size: 15 } };
    layout.margin.t += 40;
    const size = { width: Math.max(plot.offsetWidth, 700), height: layout.height + 40, scale: 2 };
    Plotly.downloadImage({ data: plot.data, layout }, { format, filename: plot.parentNode.id, ...size });
  }

  function buttons(title) {
    const button = (format, icon) => ({
      name: `Download as ${format.toUpperCase()}`,
      icon: Plotly.Icons[icon],
      click: (plot) => save(plot, title, format),
    });
    return [[button("png", "camera"), button("svg", "disk")], ["zoom2d", "pan2d", "resetScale2d"]];
  }

  // ---- two traces picked by their names, the classes by the difference of the two

  function choose(plot, [first, second]) {
    const { x: a, y: classes } = plot.data[first];
    const b = plot.data[second].x;
    const less = (k) => (a[k] === null || b[k] === null ? -Infinity : a[k] - b[k]);
    const falling = (m, n) => (less(m) === less(n) ? 0 : less(n) - less(m));
    const order = [...classes.keys()].sort(falling).map((k) => classes[k]);
    const visible = plot.data.map((_, k) => k === first || k === second);
    const fill = plot.data.map(({ marker }, k) => (k === first ? marker.line.color : "rgba(0, 0, 0, 0)"));
    return Plotly.update(plot, { visible, "marker.color": fill }, { "yaxis.categoryarray": order });
  }

  function addPicks(figure, plot, titles) {
    const line = document.createElement("p");
    line.className = "pick";
    const selects = titles.map((title, k) => {
      const label = document.createElement("label");
      const select = document.createElement("select");
      plot.data.forEach((trace, n) => select.add(new Option(trace.meta, n, n === k, n === k)));
      label.append(title, " ", select);
      line.append(label, " ");
      return select;
    });
    line.addEventListener("change", () => choose(plot, selects.map((select) => Number(select.value))));
    figure.insertBefore(line, plot);
  }

  // ---- start

  async function draw(figure) {
    await load();
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector("div");
    const title = figure.querySelector("figcaption").textContent;
    const touch = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page
    layout.font = { family: getComputedStyle(figure).fontFamily };
    layout.dragmode = touch ? false : "zoom";
    const config = { displaylogo: false, displayModeBar: true, responsive: true, modeBarButtons: buttons(title) };
    await Plotly.newPlot(plot, data, paint(layout, scheme()), config);
    if (layout.meta?.pick && data.length > 1) addPicks(figure, plot, layout.meta.pick);
    drawn.add(plot);
  }

  function repaint() {
    for (const plot of drawn) Plotly.relayout(plot, colours(scheme()));
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        seen.unobserve(target);
        draw(target).catch(() => (target.querySelector(".note").hidden = false));
      }
    },
    { rootMargin: "200px" },
  );
  for (const figure of document.querySelectorAll("figure.plot")) {
    const plot = document.createElement("div");
    plot.style.height = `${figure.dataset.height}px`; // the page does not move when it is drawn
    figure.append(plot);
    figure.querySelector(".note").hidden = true;
    seen.observe(figure);
  }
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
})();
