"use strict";

// The map of components: points on a canvas that can be moved, zoomed and clicked.
const canvas = document.getElementById("map");
const NEAR = 9; // pixels

async function drawMap() {
  const answer = await fetch(canvas.dataset.points);
  if (answer.status !== 200) return canvas.replaceWith("The map cannot be shown; load the page again.");
  const { keys, x, y, group, groups, tokens } = await answer.json();
  const order = [...keys.keys()].sort((a, b) => group[a] - group[b]);
  const label = document.getElementById("tip");
  let scale = 1, left = 0, top = 0, near = -1, drag = null;

  const width = () => canvas.clientWidth;
  const height = () => canvas.clientHeight;
  const px = (i) => 12 + (x[i] * scale + left) * (width() - 24);
  const py = (i) => 12 + (y[i] * scale + top) * (height() - 24);

  function paint() {
    const ratio = devicePixelRatio || 1;
    canvas.width = width() * ratio;
    canvas.height = height() * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const size = Math.max(1.3, Math.min(4, 110 / Math.sqrt(keys.length))) * Math.min(2, Math.sqrt(scale));
    context.globalAlpha = 0.85;
    for (const i of order) {
      context.fillStyle = groups[group[i]].colour;
      context.beginPath();
      context.arc(px(i), py(i), size, 0, 7);
      context.fill();
    }
    if (near < 0) return;
    context.globalAlpha = 1;
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(px(near), py(near), size + 3, 0, 7);
    context.stroke();
  }

  function zoom(factor, atX = width() / 2, atY = height() / 2) {
    const next = factor ? Math.min(60, Math.max(1, scale * factor)) : 1;
    const shareX = (atX - 12) / (width() - 24);
    const shareY = (atY - 12) / (height() - 24);
    left = next === 1 ? 0 : shareX - ((shareX - left) * next) / scale;
    top = next === 1 ? 0 : shareY - ((shareY - top) * next) / scale;
    scale = next;
    paint();
  }

  function find(event) {
    let best = NEAR ** 2, found = -1;
    for (let i = 0; i < keys.length; i++) {
      const apart = (px(i) - event.offsetX) ** 2 + (py(i) - event.offsetY) ** 2;
      if (apart < best) [best, found] = [apart, i];
    }
    return found;
  }

  function show(found) {
    if (found === near) return;
    near = found;
    paint();
    canvas.style.cursor = near < 0 ? "grab" : "pointer";
    label.hidden = near < 0;
    if (near < 0) return;
    label.textContent = tokens[near] ? `${keys[near]}\n${tokens[near]}` : keys[near];
    const box = canvas.getBoundingClientRect();
    label.style.left = `${Math.min(box.left + px(near) + 12, innerWidth - label.offsetWidth - 4)}px`;
    label.style.top = `${Math.max(4, box.top + py(near) - label.offsetHeight - 8)}px`;
  }

  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left, top, moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag || !event.buttons) return show(find(event));
    const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(right, down) > 4;
    if (!drag.moved || scale === 1) return;
    left = drag.left + right / (width() - 24);
    top = drag.top + down / (height() - 24);
    paint();
  });
  canvas.addEventListener("pointerleave", () => show(-1));
  canvas.addEventListener("click", (event) => {
    const found = drag?.moved ? -1 : find(event);
    drag = null;
    if (found >= 0) location.assign(canvas.dataset.component + encodeURIComponent(keys[found]).replaceAll("%3A", ":"));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX, event.offsetY);
  }, { passive: false });
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  new ResizeObserver(paint).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  canvas.dataset.ready = keys.length;
}

if (canvas) drawMap();
