const found = [];
const name = e => (e.textContent || e.tagName).trim().slice(0, 40);
const box = e => e.getBoundingClientRect();
if (document.documentElement.scrollWidth > innerWidth) {
  found.push("the page is too wide: " + document.documentElement.scrollWidth);
}
const letters = [...document.querySelectorAll("svg text, .rows span, figcaption span, .tile b")]
  .filter(e => e.textContent.trim() && box(e).width > 0);
for (const e of letters) {
  const outer = box(e.closest("figure, .tile"));
  if (box(e).left < outer.left - 1 || box(e).right > outer.right + 1) found.push("cut: " + name(e));
}
for (const [i, a] of letters.entries()) for (const b of letters.slice(i + 1)) {
  const [p, q] = [box(a), box(b)];
  if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2) {
    found.push("covered: " + name(a) + " by " + name(b));
  }
}
found.push("all, at " + innerWidth);
parent.document.body.append("\n" + found.map(line => "MEASURED: " + line + "\n").join(""));
