"use strict";

const byShortcut = (key) => document.querySelector(`[aria-keyshortcuts="${CSS.escape(key)}"]`);
const tip = document.getElementById("tip");
let latest = 0;

// Replace the content of the page with that of another address; the scroll position stays.
async function swap(address, { push }) {
  const turn = ++latest;
  const answer = await fetch(address);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (turn !== latest) return;
  const focused = document.activeElement?.getAttribute?.("href");
  hideTip();
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.querySelector("header.top").replaceWith(page.querySelector("header.top"));
  document.title = page.title;
  if (push) history.pushState(null, "", address);
  if (focused) {
    const again = [...document.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === focused);
    again?.focus({ preventScroll: true });
  }
  updateButtons();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.soft");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    swap(link.href, { push: true }).catch(() => location.assign(link.href));
  }
  if (event.target.closest?.("[data-help]")) help();
  const compare = event.target.closest?.("[data-compare]");
  if (compare) {
    event.preventDefault();
    const [a, b] = selected().map((box) => encodeURIComponent(box.value));
    location.assign(`${compare.dataset.compare}&a=${a}&b=${b}`);
  }
});
addEventListener("popstate", () => swap(location.href, { push: false }).catch(() => location.reload()));

// Each shortcut is an attribute of the element that it activates.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const example = event.target.closest?.("[data-example]");
  if (example && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    event.preventDefault();
    return walk(example, event.key === "ArrowRight" ? 1 : -1);
  }
  if (event.key === "Escape") return hideTip();
  const target = byShortcut(event.key);
  if (!target || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  target.closest("details")?.setAttribute("open", "");
  if (target.matches("input, select, textarea")) {
    target.focus();
    target.select?.();
  } else target.click();
});

function help() {
  const list = document.querySelector("#help dl");
  const rows = [...document.querySelectorAll("[aria-keyshortcuts]")].map((e) => [
    e.getAttribute("aria-keyshortcuts"),
    e.title || e.textContent.trim(),
  ]);
  rows.push(["← →", "in an example: move between tokens"]);
  list.replaceChildren(
    ...rows.flatMap(([key, what]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
      description.textContent = what;
      return [term, description];
    }),
  );
  document.getElementById("help").showModal();
}

// The values of a token, under the mouse or reached with the arrow keys.
function showTip(token) {
  const [ci, act, id] = token.dataset.v.split(" ");
  if (id === "-1") return hideTip();
  const both = document.getElementById("main").hasAttribute("data-two-values");
  tip.textContent = `${both ? `CI ${ci}   ` : ""}activation ${act}   token ${id}`;
  tip.hidden = false;
  const box = token.getBoundingClientRect();
  const left = Math.min(Math.max(4, box.left), innerWidth - tip.offsetWidth - 4);
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
}
function hideTip() {
  tip.hidden = true;
  document.querySelector(".lit")?.classList.remove("lit");
}
function walk(example, step) {
  const tokens = [...example.querySelectorAll("[data-v]")];
  const lit = tokens.findIndex((t) => t.classList.contains("lit"));
  const from = lit < 0 ? tokens.findIndex((t) => t.classList.contains("fires")) - step : lit;
  const token = tokens[Math.min(tokens.length - 1, Math.max(0, from + step))];
  hideTip();
  token.classList.add("lit");
  token.scrollIntoView({ block: "nearest", inline: "nearest" });
  showTip(token);
  document.getElementById("announcement").textContent = `${token.textContent}: ${tip.textContent}`;
}
document.addEventListener("mouseover", (event) => {
  const token = event.target.closest?.("[data-v]");
  token ? showTip(token) : hideTip();
});
document.addEventListener("focusout", hideTip);
addEventListener("scroll", hideTip, { passive: true });

const selected = () => [...document.querySelectorAll('input[name="key"]:checked')];
function updateButtons() {
  const n = selected().length;
  for (const button of document.querySelectorAll("[data-needs]")) {
    const needs = Number(button.dataset.needs);
    button.disabled = needs === 2 ? n !== 2 : n < needs;
  }
}
document.addEventListener("change", updateButtons);
updateButtons();

const unsaved = () =>
  [...document.querySelectorAll(".writes :is(input, textarea)")].some(
    (field) => field.value !== field.defaultValue || field.checked !== field.defaultChecked,
  );

// A harvest in progress: poll whether more of it has been saved. What is being computed: poll it.
async function watch() {
  const typing = document.activeElement?.matches("input, select, textarea");
  if (document.querySelector("main [data-again]") && !document.hidden && !typing)
    return location.reload(); // the page may then need other scripts
  const main = document.querySelector("main[data-watch]");
  if (main && !document.hidden) {
    const version = await (await fetch(main.dataset.watch)).text();
    const busy = selected().length || document.activeElement?.matches("input, select, textarea") || unsaved();
    if (version !== main.dataset.version && !busy) await swap(location.href, { push: false });
  }
}
setInterval(() => watch().catch(() => {}), 2000);
