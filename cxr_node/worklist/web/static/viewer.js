// The preview of an image: stored values from the node, shown through a window that the reader moves.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  const stage = root.querySelector(".stage");
  const canvas = stage.querySelector("canvas");
  const readout = stage.querySelector(".readout");
  const message = stage.querySelector(".message");
  const progress = root.querySelector(".progress");
  const articles = [...root.querySelectorAll("[data-image]")];
  const ranges = Object.fromEntries([...root.querySelectorAll("[data-range]")].map((item) => [item.dataset.range, item]));
  const outs = Object.fromEntries([...root.querySelectorAll("[data-out]")].map((item) => [item.dataset.out, item]));
  const mapChoice = root.querySelector("[data-map]");
  const csrf = document.querySelector("meta[name=csrf-token]").content;
  const picture = document.createElement("canvas"); // the image in gray, as large as its values
  const STEP = 1.25;
  const MOST_ZOOM = 40;

  let shown = 0; // which image
  let image = null; // { about, values, rows, columns }
  let look = null; // { sent, low, high, invert }: sent is the first look, by its table
  let view = { zoom: 1, x: 0, y: 0 }; // x and y: middle of the stage, in parts of the image
  let tool = "window";
  let isFull = false;
  let heat = null; // { canvas } of the heat map shown
  let load = 0; // the newest request; answers of older ones are dropped

  function say(text) {
    message.textContent = text;
    message.hidden = !text;
  }

  async function fetched(url, options) {
    let answer = await fetch(url, options);
    for (let tried = 1; answer.status === 503 && tried < 5; tried++) {
      await new Promise((resume) => window.setTimeout(resume, 1000 * tried)); // others' previews are being made
      answer = await fetch(url, options);
    }
    if (answer.ok) return answer;
    let detail = `the node answered ${answer.status}`;
    try {
      detail = (await answer.json()).detail || detail;
    } catch {
      // No JSON: the number has to do.
    }
    throw new Error(typeof detail === "string" ? detail : "the node did not take the request");
  }

  async function show(index) {
    shown = index;
    articles.forEach((article, place) => (article.hidden = place !== index));
    for (const button of root.querySelectorAll("[data-show]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.show) === index));
    canvas.setAttribute("aria-label", `Preview of image ${index + 1}`);
    image = look = null;
    offerMaps();
    await fetchImage(true);
  }

  async function fetchImage(isNew) {
    const turn = ++load;
    const { href, query } = articles[shown].dataset;
    const size = isFull ? "full" : "1024";
    if (!image) say("Loading the preview…");
    progress.textContent = image ? "Loading every pixel…" : "";
    draw();
    try {
      const about = await (await fetched(`${href}/preview?${query}&size=${size}`)).json();
      const answer = await fetched(`${href}/pixels?${query}&size=${size}`);
      const values = new Uint16Array(await answer.arrayBuffer());
      if (turn !== load) return;
      image = { about, values, rows: Number(answer.headers.get("x-rows")), columns: Number(answer.headers.get("x-columns")) };
      say("");
      progress.textContent = `Showing ${image.columns} × ${image.rows} of ${about.columns} × ${about.rows} pixels, ${about.bits_stored} bits stored.`;
      if (isNew) {
        look = { sent: true, low: about.window_low, high: about.window_high, invert: about.inverted };
        view = { zoom: 1, x: 0.5, y: 0.5 };
      }
      limits();
      paint();
    } catch (error) {
      if (turn !== load) return;
      say(`No preview of this image: ${error.message}. It can be opened in the site's viewer.`);
      progress.textContent = "";
      draw();
    }
  }

  // Gray values --------------------------------------------------------------------------------------------------

  function table() {
    const { about } = image;
    const count = about.highest - about.lowest + 1;
    const gray = new Uint8ClampedArray(count);
    if (look.sent) {
      const last = about.gray.length - 1;
      for (let value = 0; value < count; value++) gray[value] = about.gray[count > 1 ? Math.round((value * last) / (count - 1)) : 0];
      if (look.invert !== about.inverted) for (let value = 0; value < count; value++) gray[value] = 255 - gray[value];
      return gray;
    }
    const span = Math.max(1e-6, look.high - look.low);
    for (let value = 0; value < count; value++) {
      const part = Math.min(1, Math.max(0, (value + about.lowest - look.low) / span));
      gray[value] = 255 * (look.invert ? 1 - part : part);
    }
    return gray;
  }

  function paint() {
    if (!image) return draw();
    const gray = table();
    picture.width = image.columns;
    picture.height = image.rows;
    const context = picture.getContext("2d");
    const pixels = context.createImageData(image.columns, image.rows);
    const words = new Uint32Array(pixels.data.buffer);
    const { values } = image;
    for (let place = 0; place < values.length; place++) {
      const level = gray[values[place]];
      words[place] = 0xff000000 | (level << 16) | (level << 8) | level;
    }
    context.putImageData(pixels, 0, 0);
    controls();
    draw();
  }

  function setWindow(low, high) {
    const least = Math.max(1, (image.about.highest - image.about.lowest) / 1000);
    const middle = (low + high) / 2;
    const half = Math.max(least, high - low) / 2;
    look.sent = false;
    look.low = middle - half;
    look.high = middle + half;
    paint();
  }

  function limits() {
    const { lowest, highest } = image.about;
    const span = Math.max(1, highest - lowest);
    ranges.level.min = Math.floor(lowest - span / 2);
    ranges.level.max = Math.ceil(highest + span / 2);
    ranges.width.min = 1;
    ranges.width.max = Math.ceil(span * 2);
  }

  function controls() {
    const level = (look.low + look.high) / 2;
    const width = look.high - look.low;
    ranges.level.value = level;
    ranges.width.value = width;
    outs.level.textContent = Math.round(level);
    outs.width.textContent = Math.round(width);
    pressed("sent", look.sent && look.invert === image.about.inverted);
    pressed("invert", look.invert !== image.about.inverted);
    pressed("resolution", isFull);
  }

  function pressed(name, is) {
    const button = root.querySelector(`[data-do="${name}"]`);
    if (button) button.setAttribute("aria-pressed", String(is));
  }

  // Geometry -----------------------------------------------------------------------------------------------------

  function place() {
    const { rows, columns } = image.about;
    const scale = Math.min(canvas.width / columns, canvas.height / rows) * view.zoom;
    return {
      scale,
      left: canvas.width / 2 - view.x * columns * scale,
      top: canvas.height / 2 - view.y * rows * scale,
      width: columns * scale,
      height: rows * scale,
    };
  }

  function draw() {
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!image) return;
    const at = place();
    context.imageSmoothingEnabled = at.width / image.columns < 4; // far in, a pixel is a square
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, at.left, at.top, at.width, at.height);
    if (heat) {
      context.globalAlpha = Number(ranges.opacity.value) / 100;
      context.imageSmoothingEnabled = true;
      context.drawImage(heat, at.left, at.top, at.width, at.height);
      context.globalAlpha = 1;
    }
  }

  function zoomBy(factor, x = canvas.width / 2, y = canvas.height / 2) {
    if (!image) return;
    const before = place();
    const across = (x - before.left) / before.width;
    const down = (y - before.top) / before.height;
    view.zoom = Math.min(MOST_ZOOM, Math.max(0.5, view.zoom * factor));
    const after = place();
    move(x - (after.left + across * after.width), y - (after.top + down * after.height));
  }

  function move(right, down) {
    if (!image) return;
    const at = place();
    view.x = Math.min(1, Math.max(0, view.x - right / at.width));
    view.y = Math.min(1, Math.max(0, view.y - down / at.height));
    draw();
  }

  const onCanvas = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };

  function read(event) {
    readout.textContent = "";
    if (!image) return;
    const [x, y] = onCanvas(event);
    const at = place();
    const across = (x - at.left) / at.width;
    const down = (y - at.top) / at.height;
    if (across < 0 || down < 0 || across >= 1 || down >= 1) return;
    const { about, columns, rows, values } = image;
    const stored = values[Math.floor(down * rows) * columns + Math.floor(across * columns)] + about.lowest;
    const isPlain = about.slope === null || (about.slope === 1 && about.intercept === 0);
    const modality = isPlain ? "" : `, modality value ${Math.round((stored * about.slope + about.intercept) * 100) / 100}`;
    const mean = columns < about.columns ? "mean " : "";
    readout.textContent = `column ${Math.floor(across * about.columns) + 1}, row ${Math.floor(down * about.rows) + 1}: ${mean}stored value ${stored}${modality}`;
  }

  // What a reader does -------------------------------------------------------------------------------------------

  const actions = {
    sent() {
      const { about } = image;
      look = { sent: true, low: about.window_low, high: about.window_high, invert: about.inverted };
      paint();
    },
    full() {
      setWindow(image.about.lowest, image.about.highest);
    },
    invert() {
      look.invert = !look.invert;
      paint();
    },
    in: () => zoomBy(STEP),
    out: () => zoomBy(1 / STEP),
    fit() {
      view = { zoom: 1, x: 0.5, y: 0.5 };
      draw();
    },
    resolution() {
      isFull = !isFull;
      fetchImage(false);
    },
    map: () => toggleMap(),
  };
  const width = () => look.high - look.low;
  const middle = () => (look.low + look.high) / 2;
  const widen = (factor) => setWindow(middle() - (width() * factor) / 2, middle() + (width() * factor) / 2);
  const raise = (part) => setWindow(look.low + width() * part, look.high + width() * part);
  const keys = {
    "+": actions.in, "=": actions.in, "-": actions.out, _: actions.out, 0: actions.fit,
    s: actions.sent, f: actions.full, i: actions.invert,
    "[": () => widen(1 / 1.1), "]": () => widen(1.1), ",": () => raise(-0.05), ".": () => raise(0.05),
    ArrowLeft: () => move(canvas.width / 12, 0), ArrowRight: () => move(-canvas.width / 12, 0),
    ArrowUp: () => move(0, canvas.height / 12), ArrowDown: () => move(0, -canvas.height / 12),
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !image || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.show) show(Number(button.dataset.show));
    if (button.dataset.do && image) actions[button.dataset.do]();
    if (button.dataset.tool) {
      tool = button.dataset.tool;
      for (const other of root.querySelectorAll("[data-tool]"))
        other.setAttribute("aria-pressed", String(other === button));
    }
  });
  ranges.level.addEventListener("input", () => image && setWindow(Number(ranges.level.value) - width() / 2, Number(ranges.level.value) + width() / 2));
  ranges.width.addEventListener("input", () => image && setWindow(middle() - Number(ranges.width.value) / 2, middle() + Number(ranges.width.value) / 2));

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (!image || event.button > 1) return;
    canvas.setPointerCapture(event.pointerId);
    const isPan = tool === "pan" || event.button === 1 || event.shiftKey;
    drag = { isPan, at: onCanvas(event), low: look.low, high: look.high };
  });
  canvas.addEventListener("pointermove", (event) => {
    read(event);
    if (!drag) return;
    const now = onCanvas(event);
    const [right, down] = [now[0] - drag.at[0], now[1] - drag.at[1]];
    if (drag.isPan) {
      move(right, down);
      drag.at = now;
      return;
    }
    // A drag over the whole stage doubles the window, or moves it by its own width.
    const span = drag.high - drag.low;
    const half = (span * 2 ** ((2 * right) / canvas.width)) / 2;
    const level = (drag.low + drag.high) / 2 + (span * down) / canvas.height;
    setWindow(level - half, level + half);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (drag = null));
  canvas.addEventListener("pointerleave", () => (readout.textContent = ""));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== canvas || !image) return; // else the page could not be scrolled past it
      event.preventDefault();
      zoomBy(event.deltaY < 0 ? STEP : 1 / STEP, ...onCanvas(event));
    },
    { passive: false },
  );

  // Heat map, where the page offers one --------------------------------------------------------------------------

  function offerMaps() {
    heat = null;
    if (!mapChoice) return;
    const offered = [...articles[shown].querySelectorAll("[data-finding]")];
    mapChoice.replaceChildren(
      ...offered.map((item) => new Option(`${item.dataset.finding} (${item.dataset.model})`)),
    );
    for (const item of root.querySelectorAll(".saliency button, .saliency select, .saliency input"))
      item.disabled = !offered.length;
    pressed("map", false);
  }

  async function toggleMap() {
    if (heat) {
      heat = null;
      pressed("map", false);
      progress.textContent = "Heat map hidden.";
      return draw();
    }
    const wanted = articles[shown].querySelectorAll("[data-finding]")[mapChoice.selectedIndex];
    const turn = load;
    const base = `${articles[shown].dataset.href}/heat-maps`;
    progress.textContent = "Asked for the heat map…";
    try {
      const body = JSON.stringify({ model: wanted.dataset.model, finding: wanted.dataset.finding });
      const headers = { "Content-Type": "application/json", "X-CSRF-Token": csrf };
      let state = await (await fetched(base, { method: "POST", headers, body })).json();
      for (let waited = 0; state.state === "asked" && waited < 120; waited++) {
        await new Promise((resume) => window.setTimeout(resume, 500));
        if (turn !== load) return;
        state = await (await fetched(`${base}/${state.id}`, { headers: { "X-Live": "1" } })).json();
      }
      if (turn !== load) return;
      if (state.state === "asked") throw new Error("it is still being made; ask again later");
      if (state.state === "failed") throw new Error(state.reason);
      if (state.state === "empty") throw new Error("covering no part of the image lowers the score");
      heat = await colored(`${base}/${state.id}/picture`);
      pressed("map", true);
      progress.textContent = `Heat map of ${state.finding} shown.`;
      draw();
    } catch (error) {
      progress.textContent = `No heat map: ${error.message}.`;
    }
  }

  async function colored(url) {
    const gray = await createImageBitmap(await (await fetched(url)).blob());
    const made = document.createElement("canvas");
    made.width = gray.width;
    made.height = gray.height;
    const context = made.getContext("2d");
    context.drawImage(gray, 0, 0);
    const pixels = context.getImageData(0, 0, made.width, made.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const value = pixels.data[at] / 255;
      const [red, green, blue] = color(value);
      pixels.data.set([red, green, blue, 255 * Math.min(1, value * 1.6)], at); // cold places stay as they are
    }
    context.putImageData(pixels, 0, 0);
    return made;
  }

  // The stops of the legend.
  const STOPS = [[59, 15, 112], [222, 73, 104], [252, 253, 191]];
  function color(value) {
    const at = Math.min(0.999999, Math.max(0, value)) * 2;
    const [from, to] = [STOPS[Math.floor(at)], STOPS[Math.floor(at) + 1]];
    return from.map((part, index) => part + (to[index] - part) * (at % 1));
  }

  if (ranges.opacity)
    ranges.opacity.addEventListener("input", () => {
      outs.opacity.textContent = `${ranges.opacity.value} %`;
      draw();
    });
  if (mapChoice)
    mapChoice.addEventListener("change", () => {
      if (heat) {
        heat = null;
        toggleMap();
      }
    });

  // ----------------------------------------------------------------------------------------------------------------

  stage.hidden = false;
  for (const part of root.querySelectorAll(".tools, .choice")) part.hidden = false;
  new ResizeObserver(() => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    draw();
  }).observe(canvas);
  show(0);
})();
