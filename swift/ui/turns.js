// What stands below each message beside Gradio's own buttons: the facts of an answer, and what can be done with a turn.
const ICONS = {
  delete: "M4 7h16M10 4h4M6 7l1 12a1 1 0 0 0 1 1h8a1 1 0 0 0 1-1l1-12M10 11v5M14 11v5",
  retry: "M4 12a8 8 0 1 1 2.500 5.800M4 12V6m0 6h6",
};

const button = (action, number, label) => {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: "own", title: label });
  made.setAttribute("aria-label", label);
  made.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[action]}"/></svg>`;
  made.addEventListener("click", () => trigger("click", { action, number }));
  return made;
};

const fill = (place, key, make) => {
  let own = place.querySelector(":scope > .turn");
  if (own?.dataset.key === key) return;
  own?.remove();
  own = document.createElement("span");
  own.className = "turn";
  own.dataset.key = key;
  own.append(...make());
  place.append(own);
};

const decorate = () => {
  const { labels, busy, facts } = props.value;
  document.querySelectorAll(".talk").forEach((talk, column) => {
    let number = -1;
    for (const row of talk.querySelectorAll(".message-row")) {
      const asked = row.classList.contains("user-row");
      if (asked) number += 1;
      const place = row.nextElementSibling;
      if (!place?.classList.contains("message-buttons")) continue;
      const fact = facts[column]?.[number] ?? "";
      const key = JSON.stringify([asked, number, fact, busy, labels]);
      fill(place, key, () => {
        const made = busy ? [] : [button(asked ? "delete" : "retry", number, asked ? labels.delete : labels.retry)];
        if (asked || !fact) return made;
        const text = document.createElement("span");
        text.className = "facts";
        text.textContent = fact;
        return [...made, text];
      });
    }
    for (const inner of talk.querySelectorAll(".thought-group .title > .arrow button")) inner.inert = true; // its parent is one
  });
  document.querySelectorAll(".talk .examples[role=list]").forEach((list) => list.setAttribute("role", "group")); // of buttons
  for (const [name, label] of [["submit", labels.send], ["stop", labels.stop]]) {
    const made = document.querySelector(`#box .${name}-button`);
    if (made && made.getAttribute("aria-label") !== label) made.setAttribute("aria-label", label);
  }
};

let planned = false;
const plan = () => {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; decorate(); });
};
watch("value", plan);
new MutationObserver(plan).observe(document.body, { childList: true, subtree: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.querySelector("#box .stop-button")?.click();
});
plan();
