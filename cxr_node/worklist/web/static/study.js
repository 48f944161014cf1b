// The study page: one key says agree, disagree or unsure, one goes on to the next study. Everything has a button too.
"use strict";
(() => {
  const KEYS_OFF = "cxr-node-keys-off"; // as on the worklist
  const LOOK_EVERY_MS = 5000;
  const status = document.getElementById("said");
  let keysOff = false;
  try {
    keysOff = window.localStorage.getItem(KEYS_OFF) !== null;
  } catch {
    // A browser that keeps nothing: the keys stay on.
  }

  const isTyping = (element) =>
    element instanceof HTMLElement &&
    (element.isContentEditable || element.matches("input, textarea, select, [role=application]"));

  document.addEventListener("keydown", (event) => {
    if (keysOff || event.ctrlKey || event.altKey || event.metaKey || event.repeat || isTyping(event.target)) return;
    const target = ["a", "d", "u", "n"].includes(event.key) && document.querySelector(`[data-key="${event.key}"]`);
    if (!target) return;
    event.preventDefault();
    target.click();
  });

  function showSwitch() {
    for (const box of document.querySelectorAll("[data-keys]")) {
      box.checked = !keysOff;
      box.closest("label").hidden = false;
    }
  }
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-keys]")) return;
    keysOff = !event.target.checked;
    try {
      if (keysOff) window.localStorage.setItem(KEYS_OFF, "1");
      else window.localStorage.removeItem(KEYS_OFF);
    } catch {
      // It holds for this page at least.
    }
  });

  // A verdict is shown at once; whoever cannot see it hears it.
  let pressed = "";
  document.addEventListener("submit", (event) => {
    if (event.target.matches(".verdict")) pressed = event.submitter ? event.submitter.value : "";
  });
  document.addEventListener("htmx:afterSwap", () => {
    const section = document.getElementById("assessment");
    if (!section) return;
    showSwitch();
    status.className = "hidden";
    status.textContent = "";
    if (section.dataset.announce) window.setTimeout(() => (status.textContent = section.dataset.announce), 50);
    const button = pressed && section.querySelector(`button[value="${pressed}"]`);
    if (button) button.focus({ preventScroll: true });
  });
  for (const name of ["htmx:sendError", "htmx:responseError"]) {
    document.addEventListener(name, () => {
      status.className = "problem";
      status.textContent = "That was not kept: the node did not take it. Try again, or load the page again.";
    });
  }

  // A late image or the end of the analysis makes what is shown here old: the page says so, and changes nothing itself.
  const newer = document.getElementById("newer");
  async function look() {
    if (document.hidden || newer.textContent) return;
    try {
      // X-Live: the page asks by itself, and a session that nobody uses must end all the same.
      const answer = await fetch(newer.dataset.state, { headers: { "X-Live": "1" } });
      if (!answer.ok) return;
      const now = await answer.json();
      if (String(now.revision) === newer.dataset.revision && now.status === newer.dataset.status) return;
      const link = document.createElement("a");
      link.href = window.location.pathname;
      link.textContent = "Show it";
      newer.append("There is something newer of this study. ", link);
    } catch {
      // Asked again soon.
    }
  }
  window.setInterval(look, LOOK_EVERY_MS);
  document.addEventListener("visibilitychange", look);
  showSwitch();
})();
