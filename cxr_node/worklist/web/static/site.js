// What every page does: a form or button with data-confirm asks first, and what a part of a page asks for by itself,
// without a person's hand, says so: a session that nobody uses must end all the same.
"use strict";
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
document.addEventListener("htmx:configRequest", (event) => {
  const cause = event.detail.triggeringEvent;
  if (!cause || !cause.isTrusted) event.detail.headers["X-Live"] = "1";
});
