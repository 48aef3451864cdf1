() => {
  const rgb = (text) => { const c = text.match(/[\d.]+/g).map(Number); return [...c, 1].slice(0, 4); };
  const over = (top, low) => low.map((v, i) => (i < 3 ? top[i] * top[3] + v * (1 - top[3]) : 1));
  const light = (c) => {
    const [r, g, b] = c.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    const chain = [];
    for (let e = element; e; e = e.parentElement) chain.unshift(rgb(getComputedStyle(e).backgroundColor));
    return chain.reduce((low, top) => over(top, low), [255, 255, 255, 1]);
  };
  const bad = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(e);
    if (!own || e.closest("svg, .unseen, option, [disabled]") || style.visibility === "hidden") continue;
    const low = paper(e), ink = over(rgb(style.color), low);
    const [a, b] = [light(ink), light(low)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5 && Number(style.opacity) === 1) bad.push(`${e.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(bad)];
}
