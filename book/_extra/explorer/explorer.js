"use strict";
/* The explorer: what people of two groups answered to a question, and what each method says, the reading offset at any
   strength. No library, no server; the data comes from data.js beside this file or from a file of the reader's own.
   Whatever comes from outside is written as text. Numbers are whole thousandths: ';' between groups, ',' between
   options. */
(() => {
  const FORMAT = "opinion-sae-explorer-1";
  const root = document.getElementById("explorer-page");
  if (!root) return;
  const at = (name) => root.querySelector(`[data-at="${name}"]`);
  const READING = "delta-reading-64";
  const SHADES = ["first", "second"]; // of the two groups' bars
  let data = null;
  let cards = {}; // addresses by latent, of the book's own data alone
  let labels; // of the cards, likewise

  const rows = (text) =>
    text.split(";").map((row) => (row === "" ? null : row.split(",").map((number) => Number(number) / 1000)));
  const question = () => data.questions[Number(at("question").value)];
  const chosen = () => [Number(at("first").value), Number(at("second").value)];

  function node(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  /* log p of each group at a strength: between two computed strengths along a straight line in log p */
  function logsAt(one, strength, without) {
    const known = data.strengths;
    const right = Math.max(1, known.findIndex((s) => s >= strength));
    const part = (strength - known[right - 1]) / (known[right] - known[right - 1]);
    const [low, high] = [rows(one.logs[right - 1]), rows(one.logs[right])];
    const change = without === null ? null : rows(one.without[without]);
    return data.groups.map((_, g) =>
      one.options.map((_, o) => {
        const [a, b] = [low[Math.min(g, low.length - 1)][o], high[Math.min(g, high.length - 1)][o]];
        return a + part * (b - a) + (change ? strength * change[g][o] : 0);
      })
    );
  }

  function normalised(logs) {
    const most = Math.max(...logs);
    const shares = logs.map((x) => Math.exp(x - most));
    const total = shares.reduce((sum, x) => sum + x, 0);
    return shares.map((x) => x / total);
  }

  /* p_g, or from toplines h_all p_g / p-bar with log p-bar the groups' weighted mean of log p */
  function answers(one, logs, toplines) {
    if (!toplines) return logs.map(normalised);
    const everyone = rows(one.everyone)[0];
    const mean = one.options.map((_, o) => logs.reduce((sum, row, g) => sum + data.weights[g] * row[o], 0));
    return logs.map((row) => normalised(row.map((x, o) => x + everyone[o] - mean[o])));
  }

  const label = (method) => (data.names || {})[method] || method;
  const place = (one, shares) => shares.reduce((sum, share, o) => sum + share * one.places[o], 0);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const cell = (shares, o) => (shares ? percent(shares[o]) : "not asked");
  const signed = (x) => (Math.round(100 * x) >= 0 ? "+" : "−") + Math.abs(x).toFixed(2);

  /* what there is of a question, in order: the name of each row of bars, and the two groups' shares */
  function compared(one) {
    const strength = Number(at("strength").value);
    const taken = root.querySelector('input[name="without"]:checked');
    const without = taken && taken.value !== "" ? Number(taken.value) : null;
    const toplines = at("toplines").checked && !at("toplines").disabled;
    const found = [];
    const add = (name, shares) => found.push({ name, shares: chosen().map((g) => shares[g]) });
    const said = (method) => {
      if (one.methods && one.methods[method]) add(label(method), answers(one, rows(one.methods[method]), toplines));
    };
    if (one.people !== undefined) add("people", rows(one.people));
    add(label(toplines ? "toplines" : "unsteered"), answers(one, logsAt(one, 0, null), toplines));
    said("delta");
    add(label(READING), answers(one, logsAt(one, strength, without), toplines));
    said("words");
    return found;
  }

  function drawBars(one, found) {
    const key = node("p", undefined, { class: "key" });
    chosen().forEach((g, n) => {
      const swatch = node("span", undefined, { class: "swatch" });
      swatch.append(node("span", undefined, { class: SHADES[n] }));
      key.append(swatch, node("span", data.groups[g]));
    });
    const boxes = one.options.map((option, o) => {
      const box = node("div");
      box.append(node("p", option, { class: "option" }));
      for (const { name, shares } of found) {
        const line = node("div", undefined, { class: "bar" });
        line.append(node("span", name, { class: "name" }));
        shares.forEach((each, n) => {
          const track = node("div", undefined, { class: "track" });
          const bar = node("div", undefined, { class: SHADES[n] });
          bar.style.width = each ? percent(each[o]) : "0";
          if (each) track.append(bar);
          line.append(track, node("span", cell(each, o)));
        });
        box.append(line);
      }
      return box;
    });
    at("bars").replaceChildren(key, ...boxes);
  }

  /* a row per option; a group's columns stand together, under its name */
  function drawTable(one, found) {
    const [above, head] = [node("tr"), node("tr")];
    above.append(node("th", "Option", { scope: "col", rowspan: 2 }));
    for (const g of chosen()) {
      above.append(node("th", data.groups[g], { scope: "colgroup", colspan: found.length }));
      for (const { name } of found) head.append(node("th", name, { scope: "col" }));
    }
    const body = one.options.map((option, o) => {
      const row = node("tr");
      row.append(node("th", option, { scope: "row" }));
      for (const n of chosen().keys()) row.append(...found.map(({ shares }) => node("td", cell(shares[n], o))));
      return row;
    });
    for (const old of at("table").querySelectorAll("colgroup")) old.remove();
    at("head").before(...[1, found.length, found.length].map((span) => node("colgroup", undefined, { span })));
    at("head").replaceChildren(above, head);
    at("body").replaceChildren(...body);
  }

  function draw() {
    const one = question();
    const found = compared(one);
    drawBars(one, found);
    drawTable(one, found);
    at("strength-now").textContent = Number(at("strength").value).toFixed(2);
    return found;
  }

  /* read out once a choice is made, not at every step of the slider */
  function say() {
    const one = question();
    const found = draw();
    const [g, k] = chosen();
    const between = ([first, second]) =>
      first && second ? signed(place(one, first) - place(one, second)) : "not known";
    const names = `${data.groups[g]} minus ${data.groups[k]}`;
    at("status").textContent = one.places.length
      ? `${names}, on the scale from "${one.options[0]}" to "${one.options[one.options.length - 1]}" (0 to 1 by the ` +
        `options' places): ${found.map(({ name, shares }) => `${name} ${between(shares)}`).join("; ")}.`
      : `${names}: the options have no order, so there is no place on a scale. The shares are in the table.`;
  }

  // what a latent stands for: the label of its card, or, where no labels are known, the tokens that it promotes
  function called(latent) {
    if (labels && !cards[latent]) return "no page";
    if (labels && labels[latent]) return labels[latent];
    const promoted = data.latents[String(latent)];
    return promoted ? `promotes: ${promoted}` : "";
  }

  function pick() {
    const one = question();
    at("text").textContent = one.text;
    at("toplines").disabled = one.everyone === undefined;
    if (at("toplines").disabled) at("alone").checked = true;
    const choices = ["", ...one.latents.keys()].map((n) => {
      const line = node("div");
      const label = node("label");
      const input = node("input", undefined, { type: "radio", name: "without", value: n });
      input.checked = n === "";
      const latent = n === "" ? "none" : `latent ${one.latents[n]}`;
      const stands = n === "" ? "" : called(one.latents[n]);
      label.append(input, ` ${latent}${stands ? ` (${stands})` : ""}`);
      line.append(label);
      const card = n === "" ? undefined : cards[one.latents[n]];
      if (card) line.append(" ", node("a", `page of ${latent}`, { href: card }));
      return line;
    });
    at("without").replaceChildren(...choices);
    say();
  }

  function options(select, names, sections) {
    const made = new Map();
    select.replaceChildren();
    names.forEach((name, n) => {
      const option = node("option", name, { value: n });
      const section = sections[n];
      if (!section) return select.append(option);
      if (!made.has(section)) {
        made.set(section, node("optgroup", undefined, { label: section }));
        select.append(made.get(section));
      }
      made.get(section).append(option);
    });
  }

  const dictionary = (given) => typeof given === "object" && given !== null && !Array.isArray(given);
  const texts = (given) => dictionary(given) && Object.values(given).every((text) => typeof text === "string");

  /* one sentence on what is wrong with a file, or nothing */
  function fault(found) {
    if (!found || found.format !== FORMAT) return `the file has not the format ${FORMAT}`;
    for (const name of ["groups", "attributes", "weights", "strengths", "questions"])
      if (!Array.isArray(found[name]) || !found[name].length) return `${name} is missing or empty`;
    const groups = found.groups.length;
    if (groups < 2) return "there is only one group";
    if (found.attributes.length !== groups || found.weights.length !== groups || !found.weights.every(Number.isFinite))
      return "groups, their attributes and their weights do not match";
    if (found.strengths.length < 2 || found.strengths.some((s, n) => !(n ? s > found.strengths[n - 1] : s === 0)))
      return "strengths do not rise from 0";
    if (!texts(found.latents)) return "latents are missing";
    if (found.names !== undefined && !texts(found.names)) return "names of methods are not texts";
    return found.questions.map((one) => faultOf(one, groups, found.strengths.length)).find((wrong) => wrong) || "";
  }

  function faultOf(one, groups, strengths) {
    if (!dictionary(one) || !Array.isArray(one.options)) return "a question has no text";
    if ([one.key, one.text, one.topic, ...one.options].some((text) => typeof text !== "string"))
      return "a question has no text";
    const [logs, latents, without] = [one.logs, one.latents, one.without || []];
    if (!Array.isArray(logs) || logs.length !== strengths) return `${one.key}: logs are missing`;
    if (!Array.isArray(latents) || !Array.isArray(without) || latents.length !== without.length)
      return `${one.key}: latents and what changes without them do not match`;
    if (!Array.isArray(one.places) || (one.places.length && one.places.length !== one.options.length))
      return `${one.key}: places are missing`;
    const fits = (row) => row === null || (row.length === one.options.length && row.every(Number.isFinite));
    const sound = (text, size) => typeof text === "string" && rows(text).length === size && rows(text).every(fits);
    const whole = (text, size) => sound(text, size) && !rows(text).includes(null);
    if (!logs.every((text) => whole(text, 1) || whole(text, groups)) || !without.every((text) => whole(text, groups)))
      return `${one.key}: numbers of groups and options do not match`;
    if (one.people !== undefined && !sound(one.people, groups)) return `${one.key}: people's shares do not match`;
    const methods = one.methods === undefined ? {} : one.methods;
    if (!dictionary(methods) || !Object.values(methods).every((text) => whole(text, groups)))
      return `${one.key}: methods' answers do not match`;
    if (one.everyone !== undefined && !whole(one.everyone, 1)) return `${one.key}: everybody's shares do not match`;
    return "";
  }

  function load(found, from, addresses, names) {
    const wrong = fault(found);
    at("alert").textContent = wrong ? `${from}: ${wrong}.` : "";
    if (wrong) return false;
    data = found;
    cards = addresses;
    labels = names;
    at("about").textContent = data.about || "";
    options(at("question"), data.questions.map((one) => `${one.text} [${one.key}]`), data.questions.map((one) => one.topic));
    for (const name of ["first", "second"]) options(at(name), data.groups, data.attributes);
    const wanted = new URLSearchParams(location.hash.slice(1));
    const index = (list, name, otherwise) => Math.max(0, list.indexOf(name) < 0 ? otherwise : list.indexOf(name));
    at("question").value = index(data.questions.map((one) => one.key), wanted.get("question"), 0);
    const [one, other] = ["Democrat", "Republican"].map((name) => data.groups.indexOf(name));
    at("first").value = index(data.groups, wanted.get("first"), other < 0 ? 0 : one);
    at("second").value = index(data.groups, wanted.get("second"), other < 0 ? 1 : other);
    if (wanted.get("task") === "alone") at("alone").checked = true;
    if (wanted.get("strength")) at("strength").value = wanted.get("strength");
    at("page").hidden = false;
    pick();
    return true;
  }

  at("question").addEventListener("change", pick);
  for (const name of ["first", "second", "alone", "toplines", "without"]) at(name).addEventListener("change", say);
  at("strength").addEventListener("input", draw);
  at("strength").addEventListener("change", say);
  at("file").addEventListener("change", async () => {
    const [file] = at("file").files;
    if (!file) return;
    at("file").value = ""; // so that the same file can be opened once more
    let found = null;
    try {
      found = JSON.parse(await file.text());
    } catch (error) {
      at("alert").textContent = `${file.name}: not JSON (${error.message}).`;
      return;
    }
    load(found, file.name, {});
  });
  if (globalThis.explorerData) load(globalThis.explorerData, "data.js", globalThis.explorerData.cards || {}, globalThis.explorerData.labels);
  else at("alert").textContent = "This run of the book kept no answers to explore. A file of your own can be opened.";
})();
