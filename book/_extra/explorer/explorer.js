"use strict";
/* The explorer: what a model answers for two groups as an offset's strength changes. No library, no server; the data
   comes from data.js beside this file or from a file of the reader's own. Whatever comes from outside is written as
   text. Numbers are whole thousandths: ';' between groups, ',' between options. */
(() => {
  const FORMAT = "opinion-sae-explorer-1";
  const root = document.getElementById("explorer");
  if (!root) return;
  const at = (name) => root.querySelector(`[data-at="${name}"]`);
  let data = null;

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
  function predicted(one, strength, without, toplines) {
    const logs = logsAt(one, strength, without);
    if (!toplines) return logs.map(normalised);
    const everyone = rows(one.everyone)[0];
    const mean = one.options.map((_, o) => logs.reduce((sum, row, g) => sum + data.weights[g] * row[o], 0));
    return logs.map((row) => normalised(row.map((x, o) => x + everyone[o] - mean[o])));
  }

  const place = (one, shares) => shares.reduce((sum, share, o) => sum + share * one.places[o], 0);
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const signed = (x) => (Math.round(100 * x) >= 0 ? "+" : "−") + Math.abs(x).toFixed(2);

  function columns(one) {
    const strength = Number(at("strength").value);
    const taken = root.querySelector('input[name="without"]:checked');
    const without = taken && taken.value !== "" ? Number(taken.value) : null;
    const toplines = at("toplines").checked && !at("toplines").disabled;
    const said = predicted(one, strength, without, toplines);
    const people = one.people === undefined ? null : rows(one.people);
    return chosen().flatMap((g, n) => [
      { kind: `people ${n ? "second" : "first"}`, head: `${data.groups[g]}, people`, shares: people && people[g] },
      { kind: `predicted ${n ? "second" : "first"}`, head: `${data.groups[g]}, predicted`, shares: said[g] },
    ]);
  }

  function draw() {
    const one = question();
    const found = columns(one);
    const bars = one.options.map((option, o) => {
      const box = node("div");
      box.append(node("p", option, { class: "option" }));
      for (const column of found.filter((each) => each.shares)) {
        const line = node("div", undefined, { class: "bar" });
        const track = node("div", undefined, { class: "track" });
        const bar = node("div", undefined, { class: column.kind });
        bar.style.width = percent(column.shares[o]);
        track.append(bar);
        line.append(node("span", column.head), track, node("span", percent(column.shares[o])));
        box.append(line);
      }
      return box;
    });
    at("bars").replaceChildren(...bars);
    const head = node("tr");
    head.append(node("th", "Option", { scope: "col" }));
    for (const column of found) head.append(node("th", column.head, { scope: "col" }));
    const body = one.options.map((option, o) => {
      const row = node("tr");
      row.append(node("th", option, { scope: "row" }));
      for (const column of found) row.append(node("td", column.shares ? percent(column.shares[o]) : "not asked"));
      return row;
    });
    at("head").replaceChildren(head);
    at("body").replaceChildren(...body);
    at("strength-now").textContent = Number(at("strength").value).toFixed(2);
    return found;
  }

  /* read out once a choice is made, not at every step of the slider */
  function say() {
    const one = question();
    const found = draw();
    const [g, k] = chosen();
    const between = (first, second) =>
      first.shares && second.shares ? signed(place(one, first.shares) - place(one, second.shares)) : "not known";
    const names = `${data.groups[g]} minus ${data.groups[k]}`;
    at("status").textContent = one.places.length
      ? `${names}, on the scale from "${one.options[0]}" to "${one.options[one.options.length - 1]}" (0 to 1 by the ` +
        `options' places): people ${between(found[0], found[2])}, predicted ${between(found[1], found[3])}.`
      : `${names}: the options have no order, so there is no place on a scale. The shares are in the table.`;
  }

  function pick() {
    const one = question();
    at("text").textContent = one.text;
    at("toplines").disabled = one.everyone === undefined;
    if (at("toplines").disabled) at("alone").checked = true;
    const choices = ["", ...one.latents.keys()].map((n) => {
      const label = node("label");
      const input = node("input", undefined, { type: "radio", name: "without", value: n });
      input.checked = n === "";
      const latent = n === "" ? "none" : `latent ${one.latents[n]}`;
      const stands = n === "" ? "" : data.latents[String(one.latents[n])];
      label.append(input, ` ${latent}${stands ? ` (promotes: ${stands})` : ""}`);
      return label;
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

  /* one sentence on what is wrong with a file, or nothing */
  function fault(found) {
    if (!found || found.format !== FORMAT) return `the file has not the format ${FORMAT}`;
    for (const name of ["groups", "attributes", "weights", "strengths", "questions"])
      if (!Array.isArray(found[name]) || !found[name].length) return `${name} is missing or empty`;
    if (found.groups.length < 2) return "there is only one group";
    if (typeof found.latents !== "object" || found.latents === null) return "latents are missing";
    for (const one of found.questions) {
      const texts = [one.key, one.text, one.topic, ...(one.options || [])];
      if (!Array.isArray(one.options) || texts.some((text) => typeof text !== "string")) return "a question has no text";
      const tables = [...(one.logs || []), ...(one.without || [])];
      if (!Array.isArray(one.logs) || one.logs.length !== found.strengths.length) return `${one.key}: logs are missing`;
      if (!Array.isArray(one.latents) || one.latents.length !== (one.without || []).length)
        return `${one.key}: latents and what changes without them do not match`;
      if (!Array.isArray(one.places)) return `${one.key}: places are missing`;
      const sound = (text, size) =>
        typeof text === "string" && (size.includes(rows(text).length)) &&
        rows(text).every((row) => row === null || (row.length === one.options.length && row.every(Number.isFinite)));
      const groups = found.groups.length;
      if (!tables.every((text) => sound(text, [1, groups]) && !rows(text).includes(null)))
        return `${one.key}: numbers of groups and options do not match`;
      if (one.people !== undefined && !sound(one.people, [groups])) return `${one.key}: people's shares do not match`;
      if (one.everyone !== undefined && !sound(one.everyone, [1])) return `${one.key}: everybody's shares do not match`;
    }
    return "";
  }

  function load(found, from) {
    const wrong = fault(found);
    at("alert").textContent = wrong ? `${from}: ${wrong}.` : "";
    if (wrong) return false;
    data = found;
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
    let found = null;
    try {
      found = JSON.parse(await file.text());
    } catch (error) {
      at("alert").textContent = `${file.name}: not JSON (${error.message}).`;
      return;
    }
    load(found, file.name);
  });
  if (globalThis.explorerData) load(globalThis.explorerData, "data.js");
  else at("alert").textContent = "This run of the book kept no answers to explore. A file of your own can be opened.";
})();
