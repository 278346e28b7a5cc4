"use strict";
// One sound at a time; the pictures show where it is, and a click on them goes there.
const players = [...document.querySelectorAll("audio")];
for (const player of players) {
  const views = player.closest(".sound").querySelector(".views");
  const playhead = views.querySelector(".playhead");
  const draw = () => {
    const share = player.duration ? player.currentTime / player.duration : 0;
    playhead.style.left = `${100 * share}%`;
    playhead.classList.toggle("shown", share > 0);
    if (!player.paused) requestAnimationFrame(draw);
  };
  player.addEventListener("play", () => {
    players.forEach((other) => other !== player && other.pause());
    draw();
  });
  player.addEventListener("seeked", draw);
  views.addEventListener("click", (event) => {
    const box = views.getBoundingClientRect();
    if (!Number.isFinite(player.duration)) return;
    player.currentTime = player.duration * (event.clientX - box.left) / box.width;
    player.play();
  });
}

// A table whose head holds buttons is sorted by them: each cell says by what in data-value, and what says nothing
// comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "ascending" : "descending");
      const sign = falling ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value ?? "";
      const isNumeric = head.dataset.kind === "number";
      const order = (a, b) => (isNumeric ? Number(a) - Number(b) : a.localeCompare(b));
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        return left === "" || right === "" ? (left === "") - (right === "") : sign * order(left, right);
      });
      body.append(...rows);
    });
  });
}
