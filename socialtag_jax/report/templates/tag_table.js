// The table of tags: sorted by a click on a column's head, searched as one types, filled a page of rows at a time.

const FIRST_ROWS = 50;
const NONE = "–";

const section = document.getElementById("tag-table");
const { columns, rows, sort } = JSON.parse(document.getElementById("tag-table-data").textContent);
const body = section.querySelector("tbody");
const heads = [...section.querySelectorAll("thead th")];
const search = section.querySelector("input");
const status = section.querySelector("[role=status]");
const more = section.querySelector(".more");

const words = rows.map((row) => row[0].toLowerCase());
const inOrder = new Intl.Collator(undefined, { numeric: true });
let sorted = { column: sort, descending: true };
let found = rows.map((_, index) => index);
let shown = FIRST_ROWS;

const FORMS = {
  text: (value) => value,
  count: (value) => value.toLocaleString("en"),
  ratio: (value) => value.toFixed(3),
  signed: (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3),
  times: (value) => `${value.toLocaleString("en", { minimumFractionDigits: 1 })} ×`,
};

function compare(first, second) {
  const { column, descending } = sorted;
  const [a, b] = [rows[first][column], rows[second][column]];
  // What has no value stands last, whichever way.
  if (a === null || b === null) {
    return (a === null) - (b === null) || first - second;
  }
  const order = columns[column].kind === "text" ? inOrder.compare(a, b) : a - b;
  return (descending ? -order : order) || first - second;
}

function cell(value, { kind }, index) {
  const made = document.createElement(index === 0 ? "th" : "td");
  if (index === 0) {
    made.scope = "row";
    made.dir = "auto";
  }
  made.textContent = value === null ? NONE : FORMS[kind](value);
  return made;
}

function draw() {
  const visible = found.slice(0, shown);
  body.replaceChildren(
    ...visible.map((index) => {
      const line = document.createElement("tr");
      line.append(...rows[index].map((value, column) => cell(value, columns[column], column)));
      return line;
    }),
  );
  heads.forEach((head, column) => {
    if (column === sorted.column) {
      head.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    } else {
      head.removeAttribute("aria-sort");
    }
  });
  const of = search.value.trim() === "" ? "tags" : "tags that match";
  status.textContent = `${visible.length.toLocaleString("en")} of ${found.length.toLocaleString("en")} ${of}`;
  more.hidden = visible.length === found.length;
}

function select() {
  const wanted = search.value.trim().toLowerCase().replace(/^#+/, "");
  found = rows.map((_, index) => index).filter((index) => words[index].includes(wanted));
  found.sort(compare);
  draw();
}

heads.forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    // A word is looked for from A, a number from the highest; a second click turns the order round.
    const again = sorted.column === column;
    sorted = { column, descending: again ? !sorted.descending : columns[column].kind !== "text" };
    // Twelve thousand rows take seconds to lay out; of another order, the first ones are wanted.
    shown = FIRST_ROWS;
    select();
  });
});
search.addEventListener("input", () => {
  shown = FIRST_ROWS;
  select();
});
more.addEventListener("click", () => {
  shown *= 4;
  draw();
  if (more.hidden) {
    // The button had the focus, which would go back to the top of the page.
    section.querySelector(".wide").focus({ preventScroll: true });
  }
});

section.classList.add("ready");
select();
