"use strict";

/* Sorts tables by a column: within each body, the averages staying last, and what is printed of a row staying below it;
   a third click brings the first order back. */
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const grouped = (rows) => {
    const groups = [];
    for (const row of rows) {
      if (row.classList.contains("printed") && groups.length > 0) groups.at(-1).push(row);
      else groups.push([row]);
    }
    return groups;
  };
  const original = [...table.tBodies].map((body) => grouped([...body.rows]));

  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    return cell.tagName === "TH" || cell.className === "data" ? cell.textContent : null;
  };

  const compare = (a, b) => {
    if (a === null || b === null) return 0;
    return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  };

  const sort = (column, direction) => {
    [...table.tBodies].forEach((body, index) => {
      const isAverage = ([row]) => row.classList.contains("average");
      const rows = original[index].filter((group) => !isAverage(group));
      const averages = original[index].filter(isAverage);
      const known = rows.filter(([row]) => value(row, column) !== null);
      const unknown = rows.filter(([row]) => value(row, column) === null);
      const sign = direction === "descending" ? -1 : 1;
      known.sort(([a], [b]) => sign * compare(value(a, column), value(b, column)));
      body.append(...[...(direction ? [...known, ...unknown] : rows), ...averages].flat());
    });
  };

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const link = header.querySelector("a");
    button.append(...[...header.childNodes].filter((node) => node !== link));
    header.prepend(button);
    const first = column < 2 ? "ascending" : "descending";
    const second = column < 2 ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const now = header.getAttribute("aria-sort");
      const next = now === null ? first : now === first ? second : null;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) header.setAttribute("aria-sort", next);
      sort(column, next);
    });
  });
}

const element = (tag, parent, properties = {}) => {
  const made = Object.assign(document.createElement(tag), properties);
  parent?.append(made);
  return made;
};

/* What a screen reader says when a key has moved something. */
const said = element("div", document.body, { className: "unseen" });
said.setAttribute("role", "status");

/* All or no boxes of a group at once. */
for (const group of document.querySelectorAll(".toggles")) {
  const tools = element("div", null, { className: "tools" });
  for (const [text, checked] of [["Show all", true], ["Show none", false]]) {
    const button = element("button", tools, { type: "button", textContent: text });
    button.addEventListener("click", () => {
      for (const box of group.querySelectorAll("input")) box.checked = checked;
    });
  }
  group.before(tools);
}

/* A command line can be copied: the selection where a page may do that, else through the clipboard. */
for (const command of document.querySelectorAll("code.command")) {
  const button = element("button", null, { type: "button", className: "copy", textContent: "Copy" });
  command.after(" ", button);
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(command);
    const written = () => navigator.clipboard?.writeText(command.textContent).then(() => true, () => false);
    const done = document.execCommand("copy") || (await written());
    said.textContent = button.textContent = done ? "Copied" : "Select it and press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

const short = (value) => {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(6))}${unit}`;
  }
  return String(Number(value.toPrecision(6)));
};

/* Multiples of 1, 2 or 5 times a power of ten, fewer than `most` steps; as the program that wrote the page has them. */
const ticks = (low, high, most) => {
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = [1, 2, 5, 10, 20].map((factor) => factor * power).find((each) => (high - low) / each < most);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index <= Math.floor(high / step + 1e-9); index += 1) found.push(index * step);
  return found;
};

/* A figure with axes tells the numbers of a step, by pointer and arrow keys, and can be drawn nearer. */
for (const figure of document.querySelectorAll("figure:has(svg[data-ranges])")) {
  const drawing = figure.querySelector("svg");
  const wrapper = element("div", null, { className: "drawing" });
  drawing.before(wrapper);
  wrapper.append(drawing);
  const frame = drawing.querySelector("clipPath rect");
  const [left, top, width, height] = ["x", "y", "width", "height"].map((name) => Number(frame.getAttribute(name)));
  const [xLow, xHigh, yLow, yHigh] = drawing.dataset.ranges.split(" ").map(Number);
  const table = figure.querySelector("table");
  const header = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  const steps = rows.map((row) => Number(row[0].replaceAll(",", "")));
  if (rows.length === 0) continue;

  const hair = drawing.querySelector(".hair");
  const curves = drawing.querySelector(".curves");
  const axes = drawing.querySelector(".axes");
  const clip = drawing.querySelector("g[clip-path]").getAttribute("clip-path");
  const whole = { x: [xLow, xHigh], y: [yLow, yHigh] };
  let view = whole;
  let at = null; // the place of the step that is told

  const box = document.createElement("div");
  box.className = "readout";
  box.setAttribute("aria-hidden", "true");
  box.hidden = true;
  drawing.after(box);

  const pixelX = (value) => left + ((value - view.x[0]) / (view.x[1] - view.x[0])) * width;
  const pixelY = (value) => top + ((view.y[1] - value) / (view.y[1] - view.y[0])) * height;
  const valueX = (pixel) => view.x[0] + ((pixel - left) / width) * (view.x[1] - view.x[0]);
  const valueY = (pixel) => view.y[1] - ((pixel - top) / height) * (view.y[1] - view.y[0]);

  /* Where everything lies in the whole view; a nearer one moves it. */
  const places = [...drawing.querySelectorAll("g[clip-path] path, .curves path")].map((shape) => {
    const name = shape.hasAttribute("transform") ? "transform" : "d";
    return { shape, name, text: shape.getAttribute(name) };
  });
  const pair = /(-?[\d.]+(?:e[+-]?\d+)?)([ ,])(-?[\d.]+(?:e[+-]?\d+)?)/g;
  const moved = (text, name) => {
    const place = (x, y, between) => {
      const value = [xLow + ((x - left) / width) * (xHigh - xLow), yHigh - ((y - top) / height) * (yHigh - yLow)];
      return `${pixelX(value[0]).toFixed(1)}${between}${pixelY(value[1]).toFixed(1)}`;
    };
    if (name === "transform") return text.replace(pair, (_, x, between, y) => place(Number(x), Number(y), between));
    return text.replace(/(-?[\d.]+(?:e[+-]?\d+)?),(-?[\d.]+(?:e[+-]?\d+)?)/g, (_, x, y) => place(Number(x), Number(y), ","));
  };

  const label = (text, x, y, anchor) => {
    const made = document.createElementNS(drawing.namespaceURI, "text");
    for (const [name, value] of [["x", x.toFixed(1)], ["y", y.toFixed(1)], ["text-anchor", anchor]]) made.setAttribute(name, value);
    made.textContent = text;
    axes.append(made);
  };

  const draw = () => {
    for (const { shape, name, text } of places) shape.setAttribute(name, view === whole ? text : moved(text, name));
    if (view === whole) curves.removeAttribute("clip-path");
    else curves.setAttribute("clip-path", clip);
    for (const text of axes.querySelectorAll("text:not(.axis)")) text.remove();
    let grid = "";
    for (const value of ticks(...view.x, 6)) {
      grid += `M${pixelX(value).toFixed(1)} ${top + height}V${top}`;
      label(short(value), pixelX(value), top + height + 15, "middle");
    }
    for (const value of ticks(...view.y, 7)) {
      grid += `M${left} ${pixelY(value).toFixed(1)}H${left + width}`;
      label(short(value), left - 6, pixelY(value) + 4, "end");
    }
    axes.querySelector(".grid").setAttribute("d", grid);
    reset.disabled = out.disabled = view === whole;
    tell(false);
  };

  /* A view within the whole one, of at least a hundredth of it. */
  const within = ([low, high], [first, last]) => {
    const size = Math.min(Math.max(high - low, (last - first) / 100), last - first);
    const start = Math.min(Math.max((low + high - size) / 2, first), last - size);
    return [start, start + size];
  };
  const look = (x, y) => {
    const next = { x: within(x, whole.x), y: within(y, whole.y) };
    const isWhole = ["x", "y"].every((axis) => next[axis][1] - next[axis][0] > 0.999 * (whole[axis][1] - whole[axis][0]));
    view = isWhole ? whole : next;
    draw();
  };
  const zoom = (factor) => {
    const middle = at === null || view.x[0] > steps[at] || view.x[1] < steps[at] ? (view.x[0] + view.x[1]) / 2 : steps[at];
    const half = ((view.x[1] - view.x[0]) * factor) / 2;
    const center = (view.y[0] + view.y[1]) / 2;
    const rise = ((view.y[1] - view.y[0]) * factor) / 2;
    look([middle - half, middle + half], [center - rise, center + rise]);
  };
  const pan = (across, up) => {
    const [x, y] = [(view.x[1] - view.x[0]) * across, (view.y[1] - view.y[0]) * up];
    look(view.x.map((end) => end + x), view.y.map((end) => end + y));
  };

  /* The numbers of a step, the largest first, of what is shown; without intervals where they are many. */
  const tell = (aloud) => {
    box.hidden = at === null || pixelX(steps[at]) < left - 0.5 || pixelX(steps[at]) > left + width + 0.5;
    if (box.hidden) {
      hair.removeAttribute("d");
      return;
    }
    const isShown = (cell) => {
      const part = drawing.querySelector(cell.className ? `.curves .${cell.className}` : ".reference");
      return part !== null && getComputedStyle(part).display !== "none";
    };
    const found = header
      .map((cell, index) => ({ name: cell.textContent, text: rows[at][index], isShown: index > 0 && isShown(cell) }))
      .filter((each) => each.isShown && each.text !== "–")
      .sort((one, other) => parseFloat(other.text) - parseFloat(one.text));
    const many = found.length > 8;
    const lines = found.map(({ name, text }) => `${name}: ${many ? text.split(" [")[0] : text}`);
    box.replaceChildren();
    element("div", box, { textContent: `${rows[at][0]} ${header[0].textContent === "τ" ? "= τ" : header[0].textContent}` });
    for (const line of lines) element("div", box, { textContent: line });
    box.classList.toggle("many", many);
    box.classList.toggle("at-left", pixelX(steps[at]) > left + width / 2);
    hair.setAttribute("d", `M${pixelX(steps[at])} ${top}v${height}`);
    if (aloud) said.textContent = `${rows[at][0]}: ${lines.join("; ")}`;
  };

  const point = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  let from = null; // where a selection began
  const area = document.createElementNS(drawing.namespaceURI, "rect");
  area.setAttribute("class", "area");

  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    from = point(event);
    drawing.setPointerCapture(event.pointerId);
  });
  drawing.addEventListener("pointermove", (event) => {
    const now = point(event);
    if (from !== null && Math.abs(now.x - from.x) > 4) {
      drawing.append(area);
      const tall = Math.abs(now.y - from.y) > 12;
      const [x, y] = [Math.min(from.x, now.x), tall ? Math.min(from.y, now.y) : top];
      const size = [Math.abs(now.x - from.x), tall ? Math.abs(now.y - from.y) : height];
      ["x", "y", "width", "height"].forEach((name, index) => area.setAttribute(name, [x, y, ...size][index]));
    }
    const wanted = valueX(now.x);
    const distance = (index) => Math.abs(steps[index] - wanted);
    at = steps.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0);
    tell(false);
  });
  drawing.addEventListener("pointerup", () => {
    if (area.isConnected) {
      const [x, y, across, down] = ["x", "y", "width", "height"].map((name) => Number(area.getAttribute(name)));
      area.remove();
      look([valueX(x), valueX(x + across)], [valueY(y + down), valueY(y)]);
    }
    from = null;
  });
  drawing.addEventListener("pointerleave", () => {
    at = null;
    tell(false);
  });
  drawing.addEventListener("dblclick", () => look(whole.x, whole.y));

  const step = (by) => {
    at = at === null ? (by > 0 ? 0 : steps.length - 1) : Math.min(Math.max(at + by, 0), steps.length - 1);
    if (steps[at] < view.x[0] || steps[at] > view.x[1]) {
      const half = (view.x[1] - view.x[0]) / 2;
      look([steps[at] - half, steps[at] + half], view.y);
    }
    tell(true);
  };
  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    Home: () => step(-steps.length),
    End: () => step(steps.length),
    "+": () => zoom(0.5),
    "=": () => zoom(0.5),
    "-": () => zoom(2),
    0: () => look(whole.x, whole.y),
    Escape: () => look(whole.x, whole.y),
  };
  const shifted = {
    ArrowLeft: () => pan(-0.25, 0),
    ArrowRight: () => pan(0.25, 0),
    ArrowUp: () => pan(0, 0.25),
    ArrowDown: () => pan(0, -0.25),
  };
  const name = figure.querySelector("figcaption").textContent;
  drawing.setAttribute("tabindex", "0");
  drawing.setAttribute("role", "application");
  drawing.setAttribute("aria-roledescription", "figure; arrow keys tell numbers, plus and minus zoom, shift and arrows move");
  drawing.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : ((event.shiftKey && shifted[event.key]) || keys[event.key]);
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
  drawing.addEventListener("blur", () => {
    at = null;
    tell(false);
  });

  const tools = element("div", null, { className: "tools" });
  const button = (text, title, act) => {
    const made = element("button", tools, { type: "button", textContent: text, title });
    made.setAttribute("aria-label", `${title}: ${name}`);
    made.addEventListener("click", act);
    return made;
  };
  button("+", "Zoom in", () => zoom(0.5));
  const out = button("−", "Zoom out", () => zoom(2));
  const reset = button("Reset", "Show all", () => look(whole.x, whole.y));
  reset.disabled = out.disabled = true;
  wrapper.after(tools);
}

/* On paper everything is open. */
const closed = [];
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("#hyper-parameters details:not([open])")) {
    part.open = true;
    closed.push(part);
  }
});
window.addEventListener("afterprint", () => {
  for (const part of closed.splice(0)) part.open = false;
});
