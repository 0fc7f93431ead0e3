"use strict";
// Without this script all units are shown, in the order in which they stand in the file.
(() => {
  const controls = document.getElementById("controls");
  if (!controls) return;
  const FEW = 12;
  const sort = document.getElementById("sort");
  const order = document.getElementById("order");
  const category = document.getElementById("category");
  const more = document.getElementById("more");
  const columns = [...document.querySelectorAll(".cards")].map((list) => ({
    list,
    cards: [...list.children],
  }));
  let all = false;

  const value = (card) => {
    const text = sort.value === "unit" ? card.dataset.number : card.dataset["f" + sort.value];
    return text === "" ? null : Number(text);
  };

  const show = () => {
    const lower = sort.selectedOptions[0].dataset.better === "lower";
    const sign = lower === (order.value === "best") ? 1 : -1;
    let hidden = 0;
    for (const { list, cards } of columns) {
      // Units without the figure come last, in either order.
      cards.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (x - y);
      });
      let shown = 0;
      for (const card of cards) {
        const fits = !category || !category.value || card.dataset.category === category.value;
        card.hidden = !fits || (!all && shown >= FEW);
        if (fits) shown += 1;
        if (fits && card.hidden) hidden += 1;
      }
      list.append(...cards);
    }
    more.hidden = !hidden && !all;
    more.textContent = all ? "Show fewer units" : `Show ${hidden} more units`;
  };

  for (const control of [sort, order, category]) {
    if (control) control.addEventListener("change", show);
  }
  more.addEventListener("click", () => {
    all = !all;
    show();
  });
  controls.hidden = false;
  show();
})();
