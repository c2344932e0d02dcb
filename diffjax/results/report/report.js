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
    button.append(...header.childNodes);
    header.append(button);
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

/* Under the pointer, a panel of learning curves tells the numbers of the nearest step; they are its table's. */
for (const figure of document.querySelectorAll("#learning-curves figure")) {
  const drawing = figure.querySelector("svg");
  const frame = drawing.querySelector("clipPath rect");
  const [left, top, width, height] = ["x", "y", "width", "height"].map((name) => Number(frame.getAttribute(name)));
  const last = Number(drawing.dataset.last);
  const table = figure.querySelector("table");
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  const steps = rows.map((row) => Number(row[0].replaceAll(",", "")));
  if (rows.length === 0) continue;

  const hair = drawing.querySelector(".hair");
  const box = document.createElement("div");
  box.className = "readout";
  box.setAttribute("aria-hidden", "true");
  box.hidden = true;
  drawing.after(box);

  const line = (text) => {
    const part = document.createElement("div");
    part.textContent = text;
    return part;
  };

  drawing.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
    const wanted = ((at.x - left) / width) * last;
    const distance = (index) => Math.abs(steps[index] - wanted);
    const nearest = steps.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), 0);
    const reference = drawing.querySelector(".reference");
    const hidden = reference !== null && getComputedStyle(reference).display === "none";
    const shown = hidden ? names.length - 1 : names.length;
    const texts = names.slice(1, shown).map((name, index) => `${name}: ${rows[nearest][index + 1]}`);
    box.replaceChildren(line(`${rows[nearest][0]} updates`), ...texts.map(line));
    box.hidden = false;
    const x = left + (steps[nearest] / last) * width;
    box.classList.toggle("at-left", x > left + width / 2);
    hair.setAttribute("d", `M${x} ${top}v${height}`);
  });
  drawing.addEventListener("pointerleave", () => {
    box.hidden = true;
    hair.removeAttribute("d");
  });
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
