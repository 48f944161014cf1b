// Keeps the open list as it is on the server: renewed when the node says that it changed, and once a minute for the
// waiting times. Without this file the page is the same, renewed by the browser.
"use strict";
(() => {
  const list = document.getElementById("list");
  const live = document.getElementById("live");
  const text = document.getElementById("live-text");
  if (!list || !window.EventSource || !window.fetch) return;

  const RENEW_EVERY_MS = 60000;
  let busy = false;
  let again = false;

  const say = (on, words) => {
    live.classList.toggle("on", on);
    if (text.textContent !== words) text.textContent = words;
  };

  const keyOf = (element) => (element ? element.getAttribute("data-key") : null);

  // Rows that did not change stay the very same elements: selection, focus and scroll position live in them.
  const renewRows = (rows, fresh) => {
    const known = new Map();
    for (const row of rows.children) if (keyOf(row) !== null) known.set(keyOf(row), row);
    const next = [...fresh.children].map((row) => {
      const old = known.get(keyOf(row));
      if (old && old.isEqualNode(row)) return old;
      const made = document.importNode(row, true);
      if (!old && keyOf(row) !== null && known.size) made.classList.add("fresh");
      return made;
    });
    next.forEach((row, place) => {
      if (rows.children[place] !== row) rows.insertBefore(row, rows.children[place] || null);
    });
    while (rows.children.length > next.length) rows.lastElementChild.remove();
  };

  const renew = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(list.dataset.source, { headers: { Accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect") {
        window.location.reload(); // the token ended: the server shows the form
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const found = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focused = keyOf(document.activeElement);
      for (const id of ["filters", "pages", "as-of"]) {
        const old = document.getElementById(id);
        const fresh = found.getElementById(id);
        if (old && fresh && !old.isEqualNode(fresh)) old.replaceWith(document.importNode(fresh, true));
      }
      const rows = found.getElementById("rows");
      if (rows) renewRows(document.getElementById("rows"), rows);
      if (focused !== null && keyOf(document.activeElement) !== focused) {
        const back = [...list.querySelectorAll("a[data-key]")].find((element) => keyOf(element) === focused);
        if (back) back.focus({ preventScroll: true });
      }
      say(true, "live");
    } catch (error) {
      say(false, "not renewed: the node does not answer");
    } finally {
      busy = false;
      if (again) {
        again = false;
        renew();
      }
    }
  };

  const events = new EventSource("/events");
  events.addEventListener("open", renew); // what changed while nobody listened
  events.addEventListener("changed", renew);
  events.addEventListener("error", () => say(false, "connection lost, trying again"));
  window.setInterval(renew, RENEW_EVERY_MS);
})();
