// Sorting with a permalink, a filter, the choice of colours, and pointing at one configuration everywhere.
"use strict";
(() => {
  const root = document.documentElement;

  // Colours: as the system has them, until somebody chooses. A page opened from a file may have no storage.
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  const show = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = theme;
  };
  let theme = "auto";
  try { theme = localStorage.getItem("segsweep-theme") || "auto"; } catch { /* stays as the system has it */ }
  if (!order.includes(theme)) theme = "auto";
  show(theme);
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    show(theme);
    try { localStorage.setItem("segsweep-theme", theme); } catch { /* for this time only */ }
  });

  // Sorting: numbers by value, words by alphabet, what is missing last either way.
  const RISING = new Set(["rank", "name", "family", "sd", "params", "flops", "memory", "minutes", "state"]);
  const sort = (table, key, falls) => {
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((head) => head.dataset.key === key);
    if (column < 0) return false;
    const isWord = heads[column].classList.contains("word");
    const value = (row) => row.cells[column].dataset.v;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = isWord ? x.localeCompare(y, "en", { numeric: true }) : Number(x) - Number(y);
      return falls ? -by : by;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falls ? "descending" : "ascending");
    return true;
  };

  // #sort=d1-board:miou:desc
  const fromAddress = () => {
    const match = /^#sort=([\w-]+):(\w+):(asc|desc)$/.exec(location.hash);
    const table = match && document.getElementById(match[1]);
    if (table && table.matches("table.sorts") && sort(table, match[2], match[3] === "desc")) {
      table.closest("section").scrollIntoView();
    }
  };
  document.querySelectorAll("table.sorts").forEach((table) => {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("button") && event.target.closest("th");
      if (!head) return;
      const now = head.getAttribute("aria-sort");
      const falls = now ? now === "ascending" : !RISING.has(head.dataset.key);
      sort(table, head.dataset.key, falls);
      const address = `#sort=${table.id}:${head.dataset.key}:${falls ? "desc" : "asc"}`;
      try { history.replaceState(null, "", address); } catch { /* some browsers keep files from doing so */ }
    });
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();

  document.querySelectorAll("input.filter").forEach((input) => {
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      });
    });
  });

  // Pointing.
  let pointed = null;
  const point = (slot) => {
    if (slot === pointed) return;
    document.querySelectorAll(".hot").forEach((each) => each.classList.remove("hot"));
    pointed = slot;
    root.classList.toggle("pointed", slot !== null);
    if (slot !== null) document.querySelectorAll(`[data-c="${CSS.escape(slot)}"]`).forEach((each) => each.classList.add("hot"));
  };
  document.addEventListener("pointerover", (event) => {
    const target = event.target.closest("[data-c]");
    point(target ? target.dataset.c : null);
  });
  document.addEventListener("pointerleave", () => point(null));
})();
