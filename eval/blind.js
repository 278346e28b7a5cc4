"use strict";
// Choices are kept in this browser under the test's code, and saved as a file that the cards can resolve.
const test = JSON.parse(document.getElementById("test").dataset.test);
const trials = [...document.querySelectorAll(".trial")];
const players = [...document.querySelectorAll("audio")];
const place = `listening-test-${test.test}`;

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(place)) ?? {};
  } catch {
    return {}; // a browser that keeps nothing: the votes live as long as the page
  }
}

const random = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
let { listener = random(), votes = {} } = remembered();

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify({ listener, votes }));
  } catch {
    /* as above */
  }
  document.querySelector(".progress").textContent = `${Object.keys(votes).length} of ${trials.length} judged`;
}

trials.forEach((trial, i) => {
  const item = test.items[i];
  const choices = trial.querySelector(".choices");
  const heard = new Set();
  for (const player of trial.querySelectorAll("audio")) {
    player.addEventListener("play", () => {
      players.forEach((other) => other !== player && other.pause());
      heard.add(player);
      if (heard.size === 2) choices.disabled = false; // no vote on what was not heard
    });
  }
  if (Object.hasOwn(votes, item)) {
    choices.disabled = false;
    choices.querySelector(`[value="${votes[item]}"]`).checked = true;
  }
  choices.addEventListener("change", (event) => {
    votes[item] = event.target.value;
    keep();
  });
});

document.querySelector(".save").addEventListener("click", () => {
  const file = new Blob([JSON.stringify({ ...test, listener, votes }, null, 1)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `votes-${listener}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});

document.querySelector(".clear").addEventListener("click", () => {
  if (!confirm("Forget all choices of this test?")) return;
  votes = {};
  listener = random();
  keep();
  location.reload();
});

keep();
