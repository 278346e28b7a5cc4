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
