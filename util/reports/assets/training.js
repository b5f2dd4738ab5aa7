// Draws the training page. data.js holds one line `add({...});` per update of the training; it is
// read again from time to time, which works from disk too, where fetch() does not.
// Text reaches the page by textContent only.
"use strict";
(() => {
  const REFRESH_MS = 1000 * Number(document.body.dataset.refresh);
  const IMAGE_SIZE = Number(document.body.dataset.size);
  const CHART_HEIGHT = 200;
  const NOTHING_YET = "No updates yet. (If there were some before, the last line of data.js was "
    + "cut off: train.py removes it when it continues with --continue_train.)";
  const $ = (id) => document.getElementById(id);
  const hidden = new Set(); // losses switched off
  let sections = new Map(); // "epoch:iters" -> its element
  let charts = [];
  let curves = collect([]).curves;
  let incoming = [];
  window.add = (entry) => incoming.push(entry);

  // ---- data ---------------------------------------------------------------------------------

  function collect(entries) {
    const curves = { x: [], epochs: [], columns: new Map() };
    const visuals = new Map(); // the last entry of an epoch wins
    for (const entry of entries) {
      if (entry.losses) addPoint(curves, entry);
      if (entry.visuals) visuals.set(entry.epoch, entry);
    }
    return { curves, visuals };
  }

  function addPoint({ x, epochs, columns }, entry) {
    for (const [name, value] of entry.losses) {
      if (!columns.has(name)) columns.set(name, []);
      const column = columns.get(name);
      while (column.length < x.length) column.push(undefined); // no value is not a gap, null is
      column.push(value);
    }
    x.push(entry.total_iters);
    epochs.push(entry.epoch);
  }

  // Exponential moving average without the pull of its start (Kingma & Ba, arXiv 1412.6980).
  function smoothed(column, count) {
    const keep = 1 - 1 / count;
    let sum = 0;
    let weight = 0;
    return column.map((value) => {
      if (value == null) return value;
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return sum / weight;
    });
  }

  // ---- charts -------------------------------------------------------------------------------

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (name) => `--series-${[...curves.columns.keys()].indexOf(name) % 8}`;
  const positive = (column) => column.map((value) => (value <= 0 ? null : value));
  const chartHeight = () => CHART_HEIGHT * ($("together").checked ? 2 : 1);
  const windowSize = () => Math.round(10 ** Number($("smooth").value));

  function element(tag, className = "", text = "") {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  }

  function swatch(name) {
    const node = element("i", "swatch");
    node.style.background = `var(${color(name)})`;
    return node;
  }

  function format(value) {
    return value == null ? "–" : String(Number(value.toPrecision(4)));
  }

  // One line per loss: the average, and behind it, where a loss has a chart to itself, the values.
  function lines(names) {
    const average = windowSize() > 1;
    return names.flatMap((name) => {
      const raw = curves.columns.get(name);
      if (!average) return [{ name, values: raw, alpha: 1 }];
      const mean = { name, values: smoothed(raw, windowSize()), alpha: 1 };
      return names.length > 1 ? [mean] : [{ name, values: raw, alpha: 0.3 }, mean];
    });
  }

  function logRange(chart, min, max) {
    return min > 0 && max > 0 ? [min * 0.9, max * 1.1] : [0.1, 1];
  }

  // Ours, as uPlot's own (1.6.32) never end on some ranges that start between powers of ten:
  // the sparsest of these digits of each decade that gives four ticks; within one, even steps.
  const LOG_DIGITS = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]];

  function logTicks(chart, axisIndex, min, max) {
    const powers = [];
    for (let p = Math.floor(Math.log10(min)); p <= Math.log10(max); p++) powers.push(10 ** p);
    for (const digits of LOG_DIGITS) {
      const ticks = powers.flatMap((power) => digits.map((digit) => digit * power));
      const inside = ticks.filter((tick) => min <= tick && tick <= max);
      if (inside.length > 3) return inside;
    }
    return [0.1, 0.4, 0.7, 1].map((part) => Number((min + part * (max - min)).toPrecision(2)));
  }

  function axis(extra) {
    const line = { stroke: () => css("--line"), width: 1 };
    return { stroke: () => css("--muted"), grid: line, ticks: line, ...extra };
  }

  // As wide as the longest label needs; the short ones of most losses are in charts that line up.
  function axisWidth(chart, labels, axisIndex) {
    const { font, ticks, gap } = chart.axes[axisIndex];
    const widths = (labels ?? []).map((label) => {
      chart.ctx.font = font[0]; // in pixels of the device
      return chart.ctx.measureText(label).width / devicePixelRatio;
    });
    return Math.ceil(Math.max(28, ...widths) + ticks.size + gap);
  }

  const linearAxis = {
    values: (chart, ticks) => ticks.map((tick) => String(Number(tick.toPrecision(12)))),
  };

  const logAxis = {
    splits: logTicks,
    filter: (chart, ticks) => ticks,
    values: (chart, ticks) => ticks.map(format),
  };

  function chartOptions(width, drawn, onCursor) {
    const log = $("log").checked;
    const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
    return {
      width,
      height: chartHeight(),
      padding: [8, 14, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "losses" }, y: false, points: { size: 6 } },
      scales: { x: { time: false }, y: log ? { distr: 3, range: logRange } : {} },
      axes: [
        axis({ size: 28, values: (_, ticks) => ticks.map((tick) => compact.format(tick)) }),
        axis({ size: axisWidth, space: 32, ...(log ? logAxis : linearAxis) }),
      ],
      series: [{}, ...drawn.map(({ name, alpha }) => ({
        stroke: () => css(color(name)), alpha, width: alpha < 1 ? 1 : 1.75,
      }))],
      hooks: { setCursor: [onCursor] },
    };
  }

  function makeChart(names) {
    const box = element("article", "chart");
    const head = element("header");
    const plot = element("div", "plot");
    const outputs = names.map((name) => {
      const key = element("span");
      const output = element("output");
      key.append(swatch(name), element("b", "", name), output);
      head.append(key);
      return output;
    });
    plot.style.minHeight = `${chartHeight()}px`; // keeps the page's height while it is redrawn
    box.append(head, plot);
    $("charts").append(box);
    return { names, outputs, plot };
  }

  function plotChart({ names, outputs, plot }) {
    const drawn = lines(names);
    const shown = $("log").checked ? (line) => positive(line.values) : (line) => line.values;
    const onCursor = (chart) => {
      const index = chart.cursor.idx ?? curves.x.length - 1;
      names.forEach((name, i) => {
        outputs[i].textContent = format(drawn.findLast((line) => line.name === name).values[index]);
      });
      showPosition(index);
    };
    const data = [curves.x, ...drawn.map(shown)];
    const chart = new uPlot(chartOptions(plot.clientWidth, drawn, onCursor), data, plot);
    onCursor(chart);
    return chart;
  }

  function showPosition(index) {
    const images = curves.x[index].toLocaleString("en");
    $("position").textContent = `epoch ${curves.epochs[index]}, ${images} images seen`;
  }

  function zoomOf(chart) {
    const { min, max } = chart.scales.x;
    const [first, last] = [chart.data[0][0], chart.data[0].at(-1)];
    return min != null && (min > first || max < last) ? { min, max } : null;
  }

  function drawCharts() {
    const zoom = charts.length ? zoomOf(charts[0]) : null;
    const names = [...curves.columns.keys()].filter((name) => !hidden.has(name));
    const together = $("together").checked && names.length > 0;
    charts.forEach((chart) => chart.destroy());
    $("window").textContent = windowSize();
    $("charts").replaceChildren();
    $("charts").className = together ? "together" : "";
    const boxes = (together ? [names] : names.map((name) => [name])).map(makeChart);
    charts = boxes.map(plotChart); // after all boxes are there, so that their widths are final
    if (zoom) charts.forEach((chart) => chart.setScale("x", zoom));
  }

  function fitCharts() {
    for (const chart of charts) {
      const width = chart.root.parentElement.clientWidth;
      if (width && width !== chart.width) chart.setSize({ width, height: chart.height });
    }
  }

  function nameToggle(name) {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.checked = !hidden.has(name);
    box.addEventListener("input", () => {
      if (box.checked) hidden.delete(name);
      else hidden.add(name);
    });
    label.append(box, swatch(name), element("span", "", name));
    return label;
  }

  // ---- images -------------------------------------------------------------------------------

  function figure([label, address], iters) {
    const node = element("figure");
    const link = element("a");
    const image = element("img");
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener";
    image.loading = "lazy";
    image.width = image.height = IMAGE_SIZE; // keeps the place; the shape is the file's own
    image.alt = label;
    image.src = `${address}?${iters}`; // an epoch's files are replaced by its later ones
    link.append(image);
    node.append(link, element("figcaption", "", label));
    return node;
  }

  function epochSection(entry) {
    const node = element("section", "epoch");
    const head = element("header");
    const images = `${entry.total_iters.toLocaleString("en")} images seen`;
    head.append(element("h3", "", `Epoch ${entry.epoch}`), element("span", "note", images));
    for (const caption of entry.captions) head.append(element("span", "note", caption));
    const strip = element("div", "strip");
    strip.append(...entry.visuals.map((visual) => figure(visual, entry.total_iters)));
    node.append(head, strip);
    return node;
  }

  // Leaves the elements that stay where they are, so that the reader's place is kept.
  function showVisuals(visuals) {
    const list = $("epochs");
    const newestFirst = [...visuals.values()].sort((a, b) => b.epoch - a.epoch);
    const known = sections;
    sections = new Map(newestFirst.map((entry) => {
      const key = `${entry.epoch}:${entry.total_iters}`;
      return [key, known.get(key) ?? epochSection(entry)];
    }));
    const wanted = [...sections.values()];
    const kept = new Set(wanted);
    [...list.children].forEach((node) => kept.has(node) || node.remove());
    wanted.forEach((node, i) => {
      if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null);
    });
  }

  // ---- updates ------------------------------------------------------------------------------

  let shownMark = "";

  function show(entries) {
    const last = entries.at(-1);
    const mark = `${entries.length} ${JSON.stringify(last)}`;
    if (mark === shownMark) return;
    shownMark = mark;
    const collected = collect(entries);
    curves = collected.curves;
    $("names").replaceChildren(...[...curves.columns.keys()].map(nameToggle));
    drawCharts();
    showVisuals(collected.visuals);
    const images = last.total_iters.toLocaleString("en");
    $("status").textContent =
      `Epoch ${last.epoch}, ${images} images seen. This page follows the training by itself.`;
  }

  // A line caught half-written makes the browser refuse the whole of data.js: nothing arrives
  // then, what is shown stays, and the next reading finds the line complete.
  function read() {
    const script = document.createElement("script");
    const start = performance.now();
    const done = () => {
      script.remove();
      if (incoming.length) show(incoming);
      else if (!shownMark) $("status").textContent = NOTHING_YET;
      incoming = [];
      setTimeout(readWhenVisible, Math.max(REFRESH_MS, 20 * (performance.now() - start)));
    };
    script.onload = script.onerror = done;
    script.src = `data.js?${Date.now()}`;
    document.head.append(script);
  }

  function readWhenVisible() {
    if (document.hidden) document.addEventListener("visibilitychange", read, { once: true });
    else read();
  }

  $("controls").addEventListener("input", drawCharts);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(fitCharts).observe($("charts"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  read();
})();
