"use strict";
// Everything here adds to a page that is complete without it. No text is ever read as HTML.
(() => {
  const root = document.documentElement;
  const find = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const hidden = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
  const visible = (text) =>
    text.replace(hidden, (c) => `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
  const make = (tag, text = "", more = {}) =>
    Object.assign(document.createElement(tag), { textContent: text }, more);
  const data = JSON.parse(document.getElementById("data").textContent);
  const report = data.report;
  root.classList.add("js");

  // --- copying and saving ------------------------------------------------------------------
  const save = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    make("a", "", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
  };
  for (const button of find("button.copy")) button.addEventListener("click", () => copy(button));
  document.getElementById("save-data").addEventListener("click", () =>
    save("report.json", JSON.stringify(report, null, 1)));

  // --- tables ------------------------------------------------------------------------------
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const own = cell.dataset.v ?? cell.textContent.trim();
    return own !== "" && !isNaN(own) ? Number(own) : own.toLowerCase();
  };
  const sort = (table, column, heading) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0)
      : typeof a === "number" ? -1 : 1);
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
    rows.sort((a, b) => (down ? -1 : 1) * order(a[0], b[0]));
    table.tBodies[0].append(...rows.map((row) => row[1]));
  };
  for (const table of find("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = make("button", heading.textContent, { type: "button" });
      heading.replaceChildren(button);
      button.addEventListener("click", () => sort(table, column, heading));
    });
  }

  // --- pictures ----------------------------------------------------------------------------
  const digits = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
  const scenes = find(".scene[data-scene]");
  const other = document.getElementById("other");
  for (const scene of scenes) {
    const panes = scene.querySelector(".panes");
    const width = Number(panes.dataset.width);
    const slide = (percent) => {
      scene.querySelector(".right").style.clipPath = `inset(0 0 0 ${percent}%)`;
      const line = scene.querySelector(".cut");
      for (const end of ["x1", "x2"]) line.setAttribute(end, (width * percent) / 100);
    };
    // clip-path of a group counts from the group's own box: make that the box of one frame
    const group = scene.querySelector(".right");
    group.style.transformBox = "view-box";
    group.style.clipPath = "inset(0 0 0 50%)";
    const cutter = scene.querySelector(".cutter");
    cutter.addEventListener("input", () => slide(cutter.value));
    const picture = scene.querySelector(".slider svg");
    const drag = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = picture.getBoundingClientRect();
      cutter.value = (100 * (event.clientX - box.left)) / box.width;
      slide(cutter.value);
    };
    picture.addEventListener("pointerdown", drag);
    picture.addEventListener("pointermove", drag);
    const frame = scene.querySelector(".frame");
    if (!frame) continue;
    const count = Number(frame.max) + 1;
    const show = (at) => {
      frame.value = at;
      for (const use of find(".panes:not(.sound) use", scene)) use.setAttribute("x", -at * width);
      scene.querySelector(".at").textContent = `${at + 1} of ${count}`;
      const pictures = report.gallery.scenes[scene.dataset.scene].pictures;
      const values = pictures[other.value]?.per_frame ?? [];
      const lpips = scene.querySelector(".frame-lpips");
      if (lpips) lpips.textContent = at in values ? digits(values[at]) : "–";
    };
    other.addEventListener("change", () => show(Number(frame.value)));
    frame.addEventListener("input", () => show(Number(frame.value)));
    const play = scene.querySelector(".play");
    let timer = 0;
    play.addEventListener("click", () => {
      clearInterval(timer);
      const on = play.getAttribute("aria-pressed") !== "true";
      play.setAttribute("aria-pressed", on);
      play.textContent = on ? "Pause" : "Play both";
      if (on) timer = setInterval(() => show((Number(frame.value) + 1) % count), 250);
    });
  }
  const showList = (name) => {
    for (const scene of scenes) {
      const own = report.gallery.scenes[scene.dataset.scene];
      const picture = own.pictures[name];
      const there = picture && document.getElementById(picture.file);
      scene.querySelector(".value").textContent = there ? digits(picture.lpips) : "–";
      for (const who of find(".who", scene)) who.textContent = visible(there ? name : `${name}: not kept`);
      scene.querySelector("p .flip").hidden = !there || !own.flipped.includes(name);
      const words = visible(`${there ? "by" : "not kept of"} ${name}: ${own.prompt}`);
      for (const use of find("figure > svg > use.b:only-child, use.b-strip", scene))
        use.parentElement.setAttribute("aria-label", words);
      for (const use of find("use.b, use.b-strip", scene)) {
        if (there) use.setAttribute("href", `#${picture.file}`);
        else use.removeAttribute("href");
      }
    }
  };
  if (other) other.addEventListener("change", () => showList(other.value));

  // --- one list, looked at -----------------------------------------------------------------
  const card = document.getElementById("point");
  const layersOf = (trial) => {
    const layers = Object.fromEntries(report.layers.map((layer) => [layer.fqn, "bf16"]));
    [...trial.choice].forEach((option, place) => {
      const own = parseInt(option, 36);
      for (const at of report.groups[place].members[own])
        layers[report.layers[at].fqn] = report.formats[own];
    });
    return layers;
  };
  const listOf = (trial) => {
    const layers = layersOf(trial);
    return {
      notice: "one list of a search, not a recipe: its pictures were compared on search prompts",
      name: trial.name, study: report.reproduction.search.study ?? null,
      speedup: trial.speedup, typical_lpips: trial.typical, steps: trial.policy || null, layers,
      skip: Object.keys(layers).filter((fqn) => layers[fqn] === "bf16"),
    };
  };
  const look = (trial) => {
    if (!card) return;
    const bf16 = Object.values(layersOf(trial)).filter((format) => format === "bf16").length;
    const lines = data.differences[trial.name] ?? [];
    const select = data.select[trial.name];
    const button = make("button", "Save this list as JSON", { type: "button" });
    button.addEventListener("click", () =>
      save(`${trial.name}.json`, JSON.stringify(listOf(trial), null, 1)));
    const parts = [
      make("h3", visible(trial.name)),
      make("p", `${trial.speedup.toFixed(3)}× bf16, typical LPIPS ${digits(trial.typical)}, ` +
        `mean ${digits(trial.mean)}; ${trial.quantized} Linears quantized, ${bf16} in bf16.`),
      make("p", lines.length ? "What it does otherwise than the recipe:" : ""),
      ...lines.map((line) => make("p", visible(line))),
    ];
    if (select) {
      const line = make("p", "As a recipe, verified on unseen prompts: ");
      line.append(make("code", visible(select)));
      parts.push(line);
    }
    const kept = other && [...other.options].some((option) => option.value === trial.name);
    if (kept) {
      const show = make("button", "Show its pictures", { type: "button" });
      show.addEventListener("click", () => {
        other.value = trial.name;
        other.dispatchEvent(new Event("change"));
        document.getElementById("pictures").scrollIntoView();
      });
      parts.push(show, document.createTextNode(" "));
    }
    card.replaceChildren(...parts, button);
    card.hidden = false;
  };
  for (const button of find("button.look"))
    button.addEventListener("click", () => {
      look(report.trials[button.dataset.trial]);
      if (card) card.scrollIntoView({ block: "center" });
    });

  // --- charts ------------------------------------------------------------------------------
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const unpack = async () => {
    const packed = atob(document.getElementById("plotly-packed").textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", await new Response(stream).text()));
    return window.Plotly;
  };
  // plotly reads tags and formulas in texts
  const escaped = (text) => visible(text).replace(/[&<>"'$]/g, (c) => `&#${c.charCodeAt(0)};`);
  const traceOf = (series) => ({
    type: "scatter", name: series.name, x: series.x, y: series.y,
    mode: series.stairs ? "lines+markers" : "markers",
    line: { shape: "hv", width: 1.5, color: colour(series.colour) },
    marker: { symbol: series.symbol, color: colour(series.colour),
      size: series.symbol === "star" ? 16 : series.symbol === "diamond" ? 12 : 8 },
    error_y: series.low.length ? { type: "data", symmetric: false, thickness: 1, width: 2,
      color: colour(series.colour),
      array: series.high.map((v, i) => (v === null ? 0 : v - series.y[i])),
      arrayminus: series.low.map((v, i) => (v === null ? 0 : series.y[i] - v)) } : undefined,
    text: series.texts.map((lines) => lines.map(escaped).join("<br>")),
    customdata: series.names, hovertemplate: "%{text}<extra></extra>",
  });
  const layoutOf = (chart) => {
    const round = [-9, -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2].flatMap((e) =>
      [1, 2, 5].map((m) => Number(`${m}e${e}`)));
    const axis = (title, log) => ({ title: { text: escaped(title) }, type: log ? "log" : "linear",
      gridcolor: colour("line"), zeroline: false,
      ...(log ? { tickvals: round, ticktext: round.map(digits) } : {}) });
    const values = chart.series.flatMap((series) => [...series.x, ...series.y]);
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { color: colour("soft"), family: "system-ui, sans-serif" },
      margin: { l: 80, r: 20, t: 10, b: 60 }, hovermode: "closest",
      hoverlabel: { align: "left", bgcolor: colour("card"), font: { color: colour("ink") } },
      xaxis: axis(chart.x_title, chart.log.includes("x")),
      yaxis: axis(chart.y_title, chart.log.includes("y")),
      shapes: chart.diagonal ? [{ type: "line", line: { dash: "dot", color: colour("soft") },
        x0: Math.min(...values), y0: Math.min(...values),
        x1: Math.max(...values), y1: Math.max(...values) }] : [],
    };
  };
  const draw = async () => {
    const plotly = await unpack();
    for (const chart of data.charts) {
      const box = document.getElementById(`chart-${chart.id}`);
      const plot = make("div", "", { className: "plot" });
      const still = box.querySelector("svg");
      box.append(plot);
      const paint = () => plotly.react(plot, chart.series.map(traceOf), layoutOf(chart),
        { responsive: true, displaylogo: false, displayModeBar: false });
      await paint();
      still.style.display = "none";
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
      plot.on("plotly_click", (event) => {
        const name = event.points[0].customdata;
        const trial = report.trials.find((own) => own.name === name);
        if (trial) look(trial);
      });
    }
    root.dataset.drawn = "yes";
  };
  if (!data.charts.length) root.dataset.drawn = "yes";
  else if ("DecompressionStream" in window)
    draw().catch((error) => console.warn("charts stay as they are drawn:", error));
})();
