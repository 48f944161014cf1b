// A page that no longer renews itself must not go on saying that all is well.
"use strict";
const live = document.getElementById("live");
const lost = (event) => {
  const status = event.detail.xhr ? event.detail.xhr.status : 0;
  live.hidden = false;
  live.textContent = status === 401 || status === 403
    ? "✕ Not live: the session is over. Load the page to sign in again."
    : "✕ Not live: the node does not answer. What you see is old.";
  document.getElementById("health").classList.add("old");
};
for (const name of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) document.addEventListener(name, lost);
document.addEventListener("htmx:afterOnLoad", (event) => {
  if (event.detail.xhr.status !== 200) return;
  live.hidden = true;
  document.getElementById("health").classList.remove("old");
});
