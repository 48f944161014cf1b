// The drop page: takes files from a drag or a dialog, sends them a few at a time, and asks what came of them.
"use strict";
(() => {
  const AT_ONCE = 3;
  const ASK_EVERY_MS = 700;
  const TIME_IS_UP = "The time of these files is up: they were deleted.";
  const HIDDEN = /(^|\/)(\.[^/]*|Thumbs\.db|desktop\.ini|__MACOSX\/.*)$/;
  const find = (id) => document.getElementById(id);
  const root = find("drop"), target = find("target"), results = find("results");
  const csrf = document.querySelector("meta[name=csrf-token]").content;
  const largest = Number(root.dataset.largest), most = Number(root.dataset.most);

  let drop = null; // a promise of the key of what is open on the server
  let key = "";
  let queue = [], active = new Set();
  let dropped = 0, bytesWanted = 0, bytesSent = 0;
  let sort = "outcome", timer = 0, announced = "";

  const call = (method, path, body) =>
    fetch(path, {
      method, keepalive: method === "DELETE", credentials: "same-origin",
      headers: { "X-CSRF-Token": csrf, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
  const population = () => document.querySelector("input[name=population]:checked").value;

  async function open() {
    const answer = await call("POST", "/api/drops", { population: population() });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    key = (await answer.json()).key;
    return key;
  }

  // ---- what was dropped, folders walked through

  async function* filesIn(entry) {
    if (entry.isFile) {
      yield [await new Promise((resolve, reject) => entry.file(resolve, reject)), entry.fullPath.replace(/^\//, "")];
    } else if (entry.isDirectory) {
      const reader = entry.createReader();
      for (;;) { // a reader gives a hundred at a time
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        for (const one of some) yield* filesIn(one);
      }
    }
  }

  async function take(entries) {
    for (const entry of entries) {
      try {
        for await (const [file, name] of filesIn(entry)) add(file, name);
      } catch (error) {
        tell(entry.name, "it cannot be read");
      }
    }
    start();
  }

  function add(file, name) {
    if (HIDDEN.test(name)) return;
    if (dropped >= most) return tell(name, `not sent: at most ${most} files can be tried at a time`);
    if (bytesWanted + file.size > largest) return tell(name, "not sent: with it there would be more than the node takes at a time");
    dropped += 1;
    bytesWanted += file.size;
    queue.push({ file, name, sent: 0 });
  }

  function tell(name, reason) {
    const line = document.createElement("li");
    line.textContent = `${name}: ${reason}`;
    find("unsent").append(line);
    find("unsent").hidden = false;
  }

  // ---- sending

  async function start() {
    if (!queue.length) return;
    find("sending").hidden = false;
    try {
      drop ??= open();
      await drop;
    } catch (error) {
      drop = null;
      tell("The upload", error.message || "the node does not answer");
      queue = [];
    }
    next();
    ask();
  }

  function next() {
    while (active.size < AT_ONCE && queue.length) send(queue.shift());
    showProgress();
  }

  function send(item) {
    const request = new XMLHttpRequest(); // fetch tells nothing of how far an upload is
    item.request = request;
    active.add(item);
    request.open("POST", `/api/drops/${key}/files`);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-File-Name", encodeURIComponent(item.name.toWellFormed?.() ?? item.name).slice(-4000));
    request.upload.onprogress = (event) => {
      item.sent = event.loaded;
      showProgress();
    };
    request.onloadend = () => {
      active.delete(item);
      item.line?.remove();
      if (item.cancelled) forgo(item);
      else bytesSent += item.file.size;
      if (request.status !== 201 && !item.cancelled) tell(item.name, reasonOf(request));
      next();
      ask();
    };
    request.send(item.file);
  }

  function forgo(item) {
    dropped -= 1;
    bytesWanted -= item.file.size;
  }

  function reasonOf(request) {
    try {
      return `not taken: ${JSON.parse(request.responseText).detail}`;
    } catch (error) {
      return "not taken: the connection broke";
    }
  }

  function showProgress() {
    const left = queue.length + active.size;
    find("sending").hidden = !left;
    let sent = bytesSent;
    for (const item of active) {
      sent += Math.min(item.sent, item.file.size);
      if (!item.line) {
        item.line = document.createElement("li");
        const name = document.createElement("span"), bar = document.createElement("progress");
        name.textContent = item.name;
        bar.max = Math.max(1, item.file.size);
        bar.setAttribute("aria-label", `Upload of ${item.name}`);
        item.line.append(name, bar);
        find("uploads").append(item.line);
      }
      item.line.lastChild.value = item.sent;
    }
    find("overall").value = bytesWanted ? sent / bytesWanted : 0;
    find("overall-text").textContent = `Uploaded ${dropped - left} of ${dropped} files`;
  }

  find("cancel").addEventListener("click", () => {
    queue.forEach(forgo);
    queue = [];
    for (const item of active) {
      item.cancelled = true;
      item.request.abort();
    }
    showProgress();
    find("choose").focus();
  });

  // ---- what came of it

  function ask() {
    clearTimeout(timer);
    if (!key) return;
    window.htmx.ajax("GET", `/drop/results?key=${key}&sort=${sort}`, { target: results, swap: "morph:innerHTML" });
  }

  document.body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== results) return;
    const summary = find("summary");
    if (!summary) return;
    clearTimeout(timer);
    const busy = Number(summary.dataset.unsettled) || queue.length || active.size;
    if (busy) timer = setTimeout(ask, ASK_EVERY_MS);
    else {
      if (announced !== summary.dataset.text) find("announcer").textContent = announced = summary.dataset.text;
      // Gone on the server by then, and so it must be here. A delay of more than weeks would overflow.
      const left = Number(summary.dataset.left);
      timer = left < 3600 ? setTimeout(forget, left * 1000, TIME_IS_UP) : setTimeout(ask, 3600 * 1000);
    }
  });
  document.body.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 404 && key) forget(TIME_IS_UP);
  });

  function forget(reason) {
    clearTimeout(timer);
    key = "";
    drop = null;
    dropped = bytesWanted = bytesSent = 0;
    announced = "";
    results.replaceChildren();
    find("unsent").replaceChildren();
    find("unsent").hidden = true;
    find("announcer").textContent = reason;
  }

  results.addEventListener("change", (event) => {
    if (event.target.id !== "sort") return;
    sort = event.target.value;
    ask();
  });
  results.addEventListener("click", async (event) => {
    if (event.target.id !== "clear") return;
    find("cancel").click();
    await call("DELETE", `/api/drops/${key}`);
    forget("Everything was deleted.");
    find("choose").focus();
  });
  for (const radio of document.querySelectorAll("input[name=population]")) {
    radio.addEventListener("change", async () => {
      if (!key) return;
      await call("PUT", `/api/drops/${key}/population`, { population: population() });
      ask();
    });
  }
  window.addEventListener("pagehide", () => {
    if (key) call("DELETE", `/api/drops/${key}`);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) forget("");
  });

  // ---- ways in: a drag anywhere on the page, two dialogs

  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    target.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) target.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("over");
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // gone after the first await
    if (entries.length) return take(entries);
    for (const file of event.dataTransfer.files) add(file, file.name);
    start();
  });
  for (const [button, input] of [["choose", "files"], ["choose-folder", "folder"]]) {
    find(button).addEventListener("click", () => find(input).click());
    find(input).addEventListener("change", (event) => {
      for (const file of event.target.files) add(file, file.webkitRelativePath || file.name);
      event.target.value = "";
      start();
    });
  }
})();
