// Without this script the explanations of an image stand side by side, and tables in their order.
(() => {
  for (const part of document.querySelectorAll(".explained")) {
    const shown = [...part.querySelectorAll(".shown")];
    const choose = (method) => {
      for (const image of shown) {
        const told = image.querySelector(".told");
        told.textContent = "no explanation by this method";
        for (const over of image.querySelectorAll(".over")) {
          const on = over.dataset.method === method;
          over.classList.toggle("on", on);
          if (on) told.textContent = over.querySelector("figcaption").textContent;
        }
      }
    };
    const radios = [...part.querySelectorAll(".switch input")];
    for (const radio of radios) radio.addEventListener("change", () => choose(radio.value));
    for (const image of shown) {
      const slider = image.querySelector(".steer input");
      slider.addEventListener("input", () => {
        image.style.setProperty("--cut", slider.value);
        slider.setAttribute("aria-valuetext", slider.value + " %");
      });
      image.style.setProperty("--cut", slider.value);
    }
    if (!radios.length) continue;
    part.classList.add("live");
    for (const hidden of part.querySelectorAll("[hidden]")) hidden.hidden = false;
    // A browser may keep what was chosen before the page was loaded again.
    choose((radios.find((radio) => radio.checked) || radios[0]).value);
  }
  for (const hint of document.querySelectorAll(".live-only")) hint.hidden = false;

  for (const table of document.querySelectorAll(".sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = head.querySelector(".sorter");
      if (!button) return;
      button.addEventListener("click", () => {
        const text = button.dataset.text === "true";
        const before = head.getAttribute("aria-sort");
        const first = text || button.dataset.better === "lower" ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = before === first ? other : first;
        for (const each of heads) if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...body.rows];
        rows.sort((a, b) => {
          const [x, y] = [a.cells[place], b.cells[place]];
          if (text) return sign * x.textContent.localeCompare(y.textContent);
          const [p, q] = [x.dataset.value, y.dataset.value];
          // What is not defined comes last, in either order.
          if (p === "" || q === "") return (p === "") - (q === "");
          return sign * (Number(p) - Number(q));
        });
        body.append(...rows);
      });
    });
  }
})();
