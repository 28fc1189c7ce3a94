for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const read = (row, i) => {
    const cell = row.cells[i];
    return cell.dataset.value ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const texts = new Intl.Collator(undefined, { numeric: true });
  const order = (a, b) => {  // numbers before texts
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? (a > b) - (a < b) : texts.compare(a, b);
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [read(row, i), row]);
      rows.sort(([a], [b]) => {  // empty cells last
        return a === "" || b === "" ? (a === "") - (b === "") : sign * order(a, b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
