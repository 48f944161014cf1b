// Keeps the open list as it is on the server: renewed when the node says that it changed, and once a minute. Elements
// that stay the same stay the very same, so focus, selection, scroll and open menus outlive a renewal. Without this
// file the page is the same: filters and pages are a form and links, and the browser renews it.
"use strict";
(() => {
  const list = document.getElementById("list");
  const live = document.getElementById("live");
  const liveText = document.getElementById("live-text");
  const announce = document.getElementById("announce");
  const keys = document.getElementById("keys");
  if (!list || !window.EventSource || !window.fetch || !window.Idiomorph) return;

  const RENEW_EVERY_MS = 60000;
  const TICK_EVERY_MS = 5000;
  const KEYS_OFF = "cxr-node-keys-off";

  const byId = (id) => document.getElementById(id);
  const rows = () => [...document.querySelectorAll("#rows tr[data-key]")];
  const linkOf = (row) => row.querySelector("th[scope=row] a");

  // ---- The clock is the server's: a reading room's own may be wrong by minutes.
  let serverAt = 0;
  let readAt = 0;
  const readClock = () => {
    serverAt = Date.parse(byId("as-of").querySelector("time").dateTime);
    readAt = performance.now();
  };
  const minutes = (ms) => Math.max(0, Math.floor(ms / 60000));
  const duration = (ms) => {
    const whole = minutes(ms);
    if (whole < 120) return `${whole} min`;
    if (whole < 2880) return `${Math.floor(whole / 60)} h ${String(whole % 60).padStart(2, "0")} min`;
    return `${Math.floor(whole / 1440)} d ${Math.floor(whole / 60) % 24} h`;
  };
  const put = (element, words) => {
    if (element.textContent !== words) element.textContent = words;
  };
  const tick = () => {
    const now = serverAt + performance.now() - readAt;
    for (const element of list.querySelectorAll("[data-since]")) {
      put(element, duration(now - Date.parse(element.dataset.since)));
    }
    for (const element of list.querySelectorAll("[data-due]")) {
      const left = Date.parse(element.dataset.due) - now;
      element.classList.toggle("over", left <= 0);
      put(element, left <= 0 ? `${duration(-left)} past max wait` : `max wait in ${duration(left)}`);
    }
  };

  // ---- What came while somebody looked: marked until it is opened, and a flagged one is said once.
  let known = new Set();
  let fresh = new Set();
  let flaggedRows = new Set();
  let flaggedCount = 0;
  const countFlagged = () => Number(byId("state-flagged").querySelector(".count").textContent);
  const remember = () => {
    known = new Set(rows().map((row) => row.dataset.key));
    fresh = new Set();
    flaggedCount = countFlagged();
  };
  const mark = () => {
    const said = [];
    for (const row of rows()) {
      const key = row.dataset.key;
      if (!known.has(key)) {
        fresh.add(key);
        if (row.classList.contains("flagged")) {
          said.push(`Flagged: ${row.querySelector("bdi").textContent}, waiting ${row.querySelector("[data-since]").textContent}`);
        }
      } else if (row.classList.contains("flagged") && !flaggedRows.has(key)) {
        fresh.add(key);
        said.push(`Now flagged: ${row.querySelector("bdi").textContent}`);
      }
      known.add(key);
      row.classList.toggle("fresh", fresh.has(key) && row.classList.contains("r-new"));
    }
    const more = countFlagged() - flaggedCount;
    if (!said.length && more > 0) said.push(`${more} more flagged on the list`);
    flaggedCount = countFlagged();
    if (said.length) announce.textContent = said.slice(0, 3).join(". ");
  };
  const rememberFlagged = () => {
    flaggedRows = new Set(rows().filter((row) => row.classList.contains("flagged")).map((row) => row.dataset.key));
  };

  // ---- Renewing.
  const say = (on, words) => {
    live.classList.toggle("on", on);
    put(liveText, words);
  };
  let running = null;
  let again = false;
  let asked = 0;
  const fetchList = async (isOther) => {
    const source = list.dataset.source;
    // X-Live: the page asks by itself, and a session that nobody uses must end all the same.
    const headers = isOther ? { Accept: "text/html" } : { Accept: "text/html", "X-Live": "1" };
    const answer = await fetch(source, { headers, redirect: "manual" });
    if (answer.type === "opaqueredirect") {
      window.location.reload(); // the session ended: the server shows the form
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    const text = await answer.text();
    if (source !== list.dataset.source) return; // somebody went on meanwhile
    Idiomorph.morph(list, text, {
      morphStyle: "innerHTML",
      ignoreActiveValue: true,
    });
    readClock();
    if (isOther) remember();
    mark();
    rememberFlagged();
    say(true, "live");
  };
  const renew = async (isOther = false) => {
    if (running) {
      again = true;
      asked += isOther ? 1 : 0;
      return running;
    }
    running = (async () => {
      try {
        await fetchList(isOther);
      } catch (error) {
        say(false, "not renewed: the node does not answer");
      }
    })();
    await running;
    running = null;
    if (again) {
      const other = asked > 0;
      again = false;
      asked = 0;
      await renew(other);
    }
    return undefined;
  };

  // ---- Going to another part of the list without losing the place; the address stays the list's own.
  const show = (query) => {
    list.dataset.source = `/list${query}`;
    return renew(true);
  };
  const go = (query) => {
    window.history.pushState(null, "", `/${query}`);
    return show(query);
  };
  window.addEventListener("popstate", async () => {
    await show(window.location.search);
    byId("search").reset();
  });
  const askedBy = (form) => {
    const values = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (String(value).trim()) values.append(name, String(value).trim());
    return values.size ? `?${values}` : "";
  };
  list.addEventListener("submit", (event) => {
    if (event.target.id !== "search") return;
    event.preventDefault();
    go(askedBy(event.target));
  });
  list.addEventListener("change", (event) => {
    if (event.target.form && event.target.form.id === "search" && event.target.type !== "search") {
      go(askedBy(event.target.form));
    }
  });
  list.addEventListener("click", async (event) => {
    const link = event.target.closest("a");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) {
      return;
    }
    if (link.target || link.origin !== window.location.origin || link.pathname !== "/") return;
    event.preventDefault();
    const isPage = link.rel === "next" || link.rel === "prev";
    await go(link.search);
    if (link.id === "clear") byId("search").reset();
    if (isPage) {
      byId("studies").scrollTop = 0;
      byId("studies").scrollIntoView({ block: "nearest" });
    }
  });

  // ---- Keys.
  const chosen = () => {
    const row = document.activeElement ? document.activeElement.closest("#rows tr[data-key]") : null;
    return row ? rows().indexOf(row) : -1;
  };
  const move = (step) => {
    const all = rows();
    if (!all.length) return;
    const from = chosen();
    const to = from < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, from + step));
    linkOf(all[to]).focus();
    all[to].scrollIntoView({ block: "nearest" });
  };
  const keysOff = () => {
    try {
      return window.localStorage.getItem(KEYS_OFF) === "1";
    } catch (error) {
      return false;
    }
  };
  const actions = {
    j: () => move(1),
    k: () => move(-1),
    v: () => {
      const row = rows()[chosen()];
      const link = row && row.querySelector("a[data-key^=viewer-]");
      if (link) link.click();
    },
    f: () => byId(byId("state-flagged").hasAttribute("aria-current") ? "state-all" : "state-flagged").click(),
    "/": () => {
      byId("q").focus();
      byId("q").select();
    },
    "?": () => keys.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || keys.open) return;
    const at = event.target;
    if (event.key === "Escape" && at.id === "q") {
      at.blur();
      return;
    }
    if (at.closest("input:not([type=checkbox]), select, textarea, [contenteditable]")) return;
    const isArrow = event.key === "ArrowDown" || event.key === "ArrowUp";
    if (isArrow && chosen() >= 0) {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (Object.hasOwn(actions, event.key) && !keysOff()) {
      event.preventDefault();
      actions[event.key]();
    }
  });
  byId("key-hint").hidden = false;
  byId("show-keys").addEventListener("click", () => keys.showModal());
  byId("keys-on").checked = !keysOff();
  byId("keys-on").addEventListener("change", (event) => {
    try {
      if (event.target.checked) window.localStorage.removeItem(KEYS_OFF);
      else window.localStorage.setItem(KEYS_OFF, "1");
    } catch (error) {
      // A browser that keeps nothing: the keys stay on.
    }
  });

  readClock();
  remember();
  rememberFlagged();
  const events = new EventSource("/events");
  events.addEventListener("open", () => renew()); // what changed while nobody listened
  events.addEventListener("changed", () => renew());
  events.addEventListener("error", () => say(false, "connection lost, trying again"));
  window.setInterval(renew, RENEW_EVERY_MS);
  window.setInterval(tick, TICK_EVERY_MS);
})();
