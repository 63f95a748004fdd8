"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // light, dark, or as the system has it
  const button = document.querySelector(".theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  try { const kept = localStorage.getItem("lesionforge-theme"); if (kept === "light" || kept === "dark") root.dataset.theme = kept; } catch { /* no storage */ }
  name();
  system.addEventListener("change", name);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("lesionforge-theme", root.dataset.theme); } catch { /* no storage */ }
    name();
  });

  // tables: a click on a heading sorts, a second one turns the order round; empty cells stay last
  const value = (row, column, isNumber) => {
    const cell = row.cells[column];
    if (!isNumber) return cell.textContent.trim();
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  all("table.sortable").forEach((table) => {
    const heads = all("thead th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const isNumber = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : (isNumber ? "descending" : "ascending");
      const sign = order === "ascending" ? 1 : -1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const rows = all("tr", table.tBodies[0]);
      const keys = new Map(rows.map((row) => [row, value(row, column, isNumber)]));
      rows.sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...rows);
    }));
  });

  // figures: what lies near the pointer says what it is
  const tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const around = [[0, 0], [0, 3], [0, -3], [3, 0], [-3, 0], [0, 7], [0, -7], [7, 0], [-7, 0]];
  all("svg.plot").forEach((plot) => {
    const series = all("path[data-tip]", plot);
    const clear = () => { tip.hidden = true; plot.classList.remove("lit"); all(".on", plot).forEach((one) => one.classList.remove("on")); };
    plot.addEventListener("pointermove", (event) => {
      let found = null;
      for (const [x, y] of around) {
        const one = document.elementFromPoint(event.clientX + x, event.clientY + y);
        if (one && one.dataset && one.dataset.tip && plot.contains(one)) { found = one; break; }
      }
      clear();
      if (!found) return;
      if (series.length > 1 && series.length < 400) {
        plot.classList.add("lit");
        all("[data-tip]", plot).filter((one) => one.dataset.tip === found.dataset.tip).forEach((one) => one.classList.add("on"));
      }
      tip.textContent = found.dataset.tip; tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = Math.max(8, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
      tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18) + "px";
    });
    plot.addEventListener("pointerleave", clear);
  });

  // pictures: a click enlarges
  const dialog = document.querySelector("dialog");
  const large = dialog.querySelector("img"), about = dialog.querySelector("p");
  all(".zoom").forEach((one) => one.addEventListener("click", () => {
    const image = one.querySelector("img");
    large.src = image.src; large.alt = image.alt; about.textContent = image.alt;
    dialog.showModal();
  }));
  dialog.addEventListener("click", () => dialog.close());

  // commands: copied with a click where the browser allows it
  if (navigator.clipboard) all(".copy").forEach((one) => {
    one.hidden = false;
    one.addEventListener("click", () => navigator.clipboard.writeText(one.nextElementSibling.textContent).then(
      () => { one.textContent = "copied"; setTimeout(() => { one.textContent = "copy"; }, 1500); }, () => {}));
  });

  // the section in sight, in the navigation
  const links = new Map(all("nav a[href^='#']").map((link) => [link.getAttribute("href").slice(1), link]));
  const sections = all("section[id]");
  const mark = () => {
    let here = sections[0];
    for (const section of sections) if (section.getBoundingClientRect().top < innerHeight * 0.3) here = section;
    if (innerHeight + scrollY >= document.body.scrollHeight - 4 && scrollY > 0) here = sections[sections.length - 1];
    links.forEach((link, id) => link.classList.toggle("here", here && id === here.id));
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  // what is folded is printed
  let folded = [];
  addEventListener("beforeprint", () => { folded = all("details:not([open])"); folded.forEach((one) => { one.open = true; }); });
  addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
})();
