// What tests/book/test_pages.py asks of a page that a browser has drawn.
(() => {
  const named = (element) => {
    const id = element.id ? `#${element.id}` : "";
    const kind = typeof element.className === "string" && element.className ? `.${element.className.trim().split(/\s+/).join(".")}` : "";
    const home = element.closest("section[id]");
    const text = (element.innerText || "").trim().replace(/\s+/g, " ").slice(0, 50);
    return `<${element.localName}${id}${kind}> in #${home ? home.id : "page"} '${text}'`;
  };
  const drawn = () => [...document.querySelectorAll("#main-content *")].filter((element) => element.checkVisibility());
  const outermost = (elements) => elements.filter((element) => !elements.some((other) => other !== element && other.contains(element)));
  const held = (element) => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== "visible") return true;
    return false;
  };

  const facts = () => ({
    title: document.title,
    lang: document.documentElement.lang,
    metas: Object.fromEntries([...document.querySelectorAll("meta[name]")].map((meta) => [meta.name, meta.content])),
    ids: [...document.querySelectorAll("[id]")].map((element) => element.id),
    links: [...document.querySelectorAll("a[href]")].map((link) => link.href),
    own: [...document.querySelectorAll("#main-content a[href]")].map((link) => link.href), // not of the sidebar
    sidebar: [...document.querySelectorAll("#pst-primary-sidebar nav a.internal")].map((link) => link.href.split("#")[0]),
    paths: [...document.querySelectorAll("#three-ways-to-read-it li")].map((item) => [...item.querySelectorAll("a")].map((link) => link.href)),
    turns: ["prev", "next"].map((way) => document.querySelector(`.prev-next-footer a.${way === "prev" ? "left" : "right"}-${way}`)?.href),
    tables: [...document.querySelectorAll("#main-content table")].flatMap((table) => [
      ...(table.caption?.textContent.trim() ? [] : [`no caption: ${named(table)}`]),
      ...(table.rows[0]?.cells.length > 12 ? [`more than 12 columns: ${named(table)}`] : []),
    ]),
    images: [...document.images].filter((image) => !image.alt.trim()).map((image) => image.outerHTML.slice(0, 120)),
  });

  // Wider than the screen, so that the whole page moves sideways. A box that scrolls by itself may hold more than it shows.
  const wide = () => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const out = drawn().filter((element) => element.getBoundingClientRect().right > width + 1 && !held(element));
    return [...outermost(out).map(named), `the page is ${document.documentElement.scrollWidth} of ${width} pixels wide`];
  };

  // Words of tables that are broken over two lines. Long ones may be, and any where it has a hyphen or a slash.
  const broken = () => {
    const found = [], range = document.createRange();
    for (const cell of document.querySelectorAll("td, th")) {
      if (!cell.checkVisibility() || cell.closest("mjx-container")) continue;
      const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode())
        for (const word of node.data.matchAll(/[^\s\-\u2010-\u2015/]{2,17}/g)) {
          range.setStart(node, word.index);
          range.setEnd(node, word.index + word[0].length);
          const tops = new Set([...range.getClientRects()].filter((one) => one.width).map((one) => Math.round(one.top)));
          if (tops.size > 1) found.push(`'${word[0]}' is broken: ${named(cell)}`);
        }
    }
    return found;
  };

  // What the first page shows, by how far down it ends; and the sidebar, by its entries and whether it has to scroll.
  const ends = () => {
    const bottom = (query) => document.querySelector(query)?.getBoundingClientRect().bottom;
    return { sentences: bottom("#main-content section > p"), picture: bottom(".front img"), table: bottom(".front table") };
  };
  const sidebar = () => {
    const box = document.querySelector("#pst-primary-sidebar"); // a page of a latent has none
    return box && { entries: box.querySelectorAll("li.toctree-l1").length, over: box.scrollHeight - box.clientHeight };
  };
  const figures = () => [...document.querySelectorAll("#main-content img")].map((image) => [image.src, image.getBoundingClientRect().width]);

  // On paper, beyond the edge or within a box that shows less than it holds.
  const cut = () => {
    const width = document.documentElement.clientWidth;
    const elements = drawn().filter((element) => !element.closest("mjx-container, .headerlink"));
    const off = elements.filter((element) => element.getBoundingClientRect().right > width + 1);
    const short = elements.filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth &&
      getComputedStyle(element).overflowX !== "visible");
    return outermost([...new Set([...off, ...short])]).map(named);
  };

  // The words of code are spans by the thousand, each of whose colours is told by its classes: one of each kind is enough.
  const thin = () => {
    const seen = new Set();
    for (const span of document.querySelectorAll("pre span, dt.sig span")) {
      const kind = [span, span.parentElement, span.parentElement.parentElement].map((element) => element.className).join("|");
      if (seen.has(kind) && !span.id) span.replaceWith(...span.childNodes);
      seen.add(kind);
    }
  };

  // One element of each kind of text: of a colour, size and weight, on a background.
  const texts = () => {
    const kinds = new Map();
    for (const element of document.querySelectorAll("body *")) {
      if (![...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
      if (!element.checkVisibility()) continue;
      const { color, fontSize, fontWeight } = getComputedStyle(element);
      const under = [];
      for (let box = element; box; box = box.parentElement) {
        const { backgroundColor, opacity } = getComputedStyle(box);
        if (backgroundColor !== "rgba(0, 0, 0, 0)") under.push(backgroundColor);
        if (opacity !== "1") under.push(opacity);
      }
      const kind = [color, fontSize, fontWeight, ...under].join("|");
      if (!kinds.has(kind)) kinds.set(kind, element);
    }
    return { include: [...kinds.values()] };
  };

  const run = async (where, rules) => {
    const { violations } = await axe.run(where, { resultTypes: ["violations"], preload: false, elementRef: true, ...rules });
    return violations.filter((one) => ["serious", "critical"].includes(one.impact)).flatMap((one) =>
      one.nodes.map((node) => {
        const why = [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
        return `${one.id} (${one.impact}): ${named(node.element)}: ${why}`;
      }));
  };
  const contrast = () => run(texts(), { runOnly: ["color-contrast"] });
  const rest = () => run(document, { rules: { "color-contrast": { enabled: false } } });
  const scrollable = () => run(document, { runOnly: ["scrollable-region-focusable"] });

  // The theme makes what scrolls focusable 0.3 seconds after the window changed.
  const settled = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 500))));

  window.pageOf = { settled, facts, ends, sidebar, figures, wide, broken, cut, thin, contrast, rest, scrollable };
})();
