// The tester of acceptance rules: sends one file and shows the page that tells what came of it.
"use strict";
(() => {
  const input = document.getElementById("file"), problem = document.getElementById("problem");
  const target = document.getElementById("target"), choose = document.getElementById("choose");
  const csrf = document.querySelector("meta[name=csrf-token]").content;

  async function post(path, headers, body) {
    const answer = await fetch(path, { method: "POST", credentials: "same-origin", headers: { "X-CSRF-Token": csrf, ...headers }, body });
    const told = await answer.json();
    if (!answer.ok) throw new Error(typeof told.detail === "string" ? told.detail : "the node does not take it");
    return told;
  }

  async function test(file) {
    choose.disabled = true;
    problem.textContent = "";
    try {
      const drop = await post("/api/drops", { "Content-Type": "application/json" }, JSON.stringify({ purpose: "rules" }));
      const name = encodeURIComponent(file.name.toWellFormed?.() ?? file.name).slice(-4000);
      await post(`/api/drops/${drop.key}/files`, { "Content-Type": "application/octet-stream", "X-File-Name": name }, file);
      window.location.assign(`/admin/rules?key=${drop.key}`);
    } catch (error) {
      problem.textContent = `✕ ${error.message || "the node does not answer"}`;
      choose.disabled = false;
    }
  }

  choose.addEventListener("click", () => input.click());
  input.addEventListener("change", () => input.files.length && test(input.files[0]));
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
    if (event.dataTransfer.files.length) test(event.dataTransfer.files[0]);
  });
})();
