// What of a page a person cannot read or name: controls without a name, text too close to its background, and the like.
// A short list of sentences; `axe-core` knows many more rules and is asked beside it where it is installed.
() => {
  const faults = [];
  const shown = (node) => {
    const box = node.getBoundingClientRect();
    if (!box.width || !box.height || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
    return box.right > 0 && box.left < innerWidth;
  };
  const tell = (node) => {
    const place = node.closest("[id]");
    return `<${node.tagName.toLowerCase()} class="${node.className}"> in #${place ? place.id : ""}`;
  };

  if (!document.documentElement.lang) faults.push("the page does not say its language");
  if (!document.title) faults.push("the page has no title");
  if (document.documentElement.scrollWidth > innerWidth + 1) faults.push(`wider than the screen: ${document.documentElement.scrollWidth} > ${innerWidth}`);

  const labelled = (node) => [...(node.labels ?? [])].some((label) => label.innerText.trim());
  const referred = (node) => (node.getAttribute("aria-labelledby") ?? "").split(/\s+/).some((id) => document.getElementById(id)?.textContent.trim());
  for (const node of document.querySelectorAll("button, a[href], input:not([type=hidden]), textarea, select, [role=button]")) {
    if (!shown(node)) continue;
    const field = node.matches("input, textarea, select");
    const name = node.getAttribute("aria-label") || node.title || labelled(node) || referred(node) || (!field && (node.innerText.trim() || node.querySelector("img[alt], title")));
    if (!name) faults.push(`no name: ${tell(node)}`);
  }
  for (const node of document.querySelectorAll("img:not([alt])")) if (shown(node)) faults.push(`no alt text: ${tell(node)}`);

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
  const background = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") return null; // cannot be told
      layers.unshift(rgba(style.backgroundColor));
    }
    const page = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    return layers.reduce((below, top) => over(top, below), page);
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(node) || !shown(node) || node.closest("script, style, noscript, :disabled, [aria-disabled=true], [aria-hidden=true]")) continue;
    seen.add(node);
    const below = background(node);
    if (!below) continue;
    const style = getComputedStyle(node);
    const [one, two] = [light(over(rgba(style.color), below)), light(below)].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < least - 0.01) faults.push(`contrast ${ratio.toFixed(2)} < ${least}: "${walker.currentNode.data.trim().slice(0, 30)}", ${tell(node)}`);
  }
  return [...new Set(faults)];
}
