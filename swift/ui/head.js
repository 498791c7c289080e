// The head's buttons, and what a browser remembers of a visitor: the colours and the language.
const LONGEST = 8_000_000; // bytes of a file that are read; the server says what is too long
const recall = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a private window */ } };
const say = () => { document.documentElement.lang = props.value.lang; };
const paint = (dark) => document.body.classList.toggle("dark", dark);

const open = () => {
  const field = document.createElement("input");
  Object.assign(field, { type: "file", accept: "application/json,.json,.jsonl" });
  field.addEventListener("change", async () => {
    if (field.files.length) trigger("upload", { text: await field.files[0].slice(0, LONGEST).text() });
  });
  field.click();
};
const actions = {
  open,
  save: () => trigger("select"),
  language: () => { remember("swift-language", props.value.lang === "en" ? "zh" : "en"); trigger("click"); },
  dark: () => remember("swift-colours", paint(!document.body.classList.contains("dark")) ? "dark" : "light"),
};
element.addEventListener("click", (event) => actions[event.target.closest("[data-do]")?.dataset.do]?.());

const colours = recall("swift-colours");
if (colours) paint(colours === "dark");
const language = recall("swift-language");
if (language && language !== props.value.lang) trigger("click");
watch("value", say);
say();

const banner = document.createElement("div");
banner.id = "gone";
banner.setAttribute("role", "alert");
banner.hidden = true;
element.closest(".gradio-container").append(banner);
const tell = (gone) => {
  if (banner.hidden === !gone) return;
  banner.hidden = !gone;
  banner.textContent = gone ? props.value.gone : "";
};
const ask = window.fetch;
window.fetch = async (...given) => {
  try {
    const answer = await ask(...given);
    tell(false);
    return answer;
  } catch (error) {
    if (error.name === "TypeError") tell(true); // nothing listens there
    throw error;
  }
};

const name = () => { // a field with a copy button: its label is that button's
  for (const field of document.querySelectorAll("label:has(.icon-button) textarea")) {
    const label = field.closest("label").querySelector("[data-testid=block-info]")?.textContent.trim();
    if (label && field.getAttribute("aria-label") !== label) field.setAttribute("aria-label", label);
  }
};
new MutationObserver(name).observe(document.body, { childList: true, subtree: true, characterData: true });
name();
