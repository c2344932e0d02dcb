"use strict";

/* Sorts tables by a column: within each body, the averages staying last; a third click brings the first order back. */
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  const original = [...table.tBodies].map((body) => [...body.rows]);

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
      const rows = original[index].filter((row) => !row.classList.contains("average"));
      const averages = original[index].filter((row) => row.classList.contains("average"));
      const known = rows.filter((row) => value(row, column) !== null);
      const unknown = rows.filter((row) => value(row, column) === null);
      const sign = direction === "descending" ? -1 : 1;
      known.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      body.append(...(direction ? [...known, ...unknown] : rows), ...averages);
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
