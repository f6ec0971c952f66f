// The browser of examples, behind report_text.js in one script. All text of the data is put into
// text nodes, never into markup.

const at = id => document.getElementById(id);

function browse(data) {
  let shown = [];          // examples that pass the filters, in the chosen order
  let current = null;      // the one that is open
  let locked = null;       // the summary sentence whose sources stay lit
  let cut = null;          // the spans that the document is shown in
  let isLinked = false;    // whether the address names the open example: not before one is chosen
  const used = new Set(data.examples.flatMap(example => example.outputs.flatMap(
    made => Object.keys(made.support?.methods ?? {}))));
  const methods = Object.keys(data.methods).filter(name => used.has(name));
  let method = methods[0];

  // ---- which examples ----

  const output = example => example.outputs[Number(at("system").value)];
  const changeOf = example => Math.max(0, ...example.changes.map(x => Math.abs(x ?? 0)));
  const orders = {
    input: () => 0,
    worst: (a, b) => (output(a).quality ?? Infinity) - (output(b).quality ?? Infinity),
    best: (a, b) => (output(b).quality ?? -Infinity) - (output(a).quality ?? -Infinity),
    changed: (a, b) => changeOf(b) - changeOf(a),
    unsure: (a, b) => (output(a).sure?.mean ?? Infinity) - (output(b).sure?.mean ?? Infinity),
  };

  function passes(example) {
    const wanted = at("only").value;
    const id = at("search").value.trim().toLowerCase();
    if (id && !example.id.toLowerCase().includes(id)) return false;
    if (wanted === "changed") return changeOf(example) > 0;
    return wanted === "all" || output(example).flags.includes(wanted);
  }

  function fill(id, options) {
    const before = at(id).value;
    at(id).replaceChildren(...options.map(([value, textContent]) => make("option", { value, textContent })));
    if (options.some(([value]) => value === before)) at(id).value = before;
  }

  /** The filters that leave something, with how much. */
  function fillFilters() {
    const count = test => data.examples.filter(test).length;
    const options = Object.entries(data.flags).map(([name, text]) =>
      [name, text, count(example => output(example).flags.includes(name))]);
    options.push(["changed", "changed between runs", count(example => changeOf(example) > 0)]);
    fill("only", [["all", `all (${data.examples.length})`],
      ...options.filter(([, , many]) => many).map(([name, text, many]) => [name, `${text} (${many})`])]);
  }

  function refresh() {
    // Array.prototype.sort is stable: equals stay in input order.
    shown = data.examples.filter(passes).sort(orders[at("order").value]);
    at("count").textContent = `${shown.length} of ${data.examples.length} · ${data.quality}`;
    at("list").replaceChildren(...shown.map(option));
    if (shown.includes(current)) mark();
    else open(shown[0] ?? null);
  }

  function option(example) {
    const { quality, flags } = output(example);
    const row = make("li", { id: `option-${example.row}` },
      make("span", { className: "id", textContent: example.id }),
      make("span", { className: "number", textContent: quality === null ? "–" : quality.toFixed(1) }));
    row.setAttribute("role", "option");
    if (flags.length) {
      const marks = flags.map(name => data.flags[name]).join(", ");
      row.append(make("small", { textContent: marks }));
    }
    row.addEventListener("click", () => open(example));
    return row;
  }

  // ---- the open example ----

  function open(example) {
    current = example;
    locked = null;
    at("example").hidden = !example;
    at("none").hidden = Boolean(example);
    if (!example) return at("list").removeAttribute("aria-activedescendant");
    at("example-id").textContent = example.id;
    at("facts").textContent = [example.task, example.language, `${example.words} words`]
      .filter(Boolean).join(" · ");
    at("asked").textContent = example.asked ?? "";
    at("asked").hidden = !example.asked;
    cut = null;
    cutDocument(output(example).support);
    at("document").scrollTop = 0;
    at("left-out").textContent = example.left_out
      ? `The last ${example.left_out.toLocaleString("en")} characters are not shown.` : "";
    const title = example.references.length > 1 ? "References" : "Reference";
    const wanted = make("section", { id: "references" }, make("h4", { textContent: title }),
      ...example.references.map(text => make("p", { textContent: text })));
    const first = Number(at("system").value);
    const cards = example.outputs.map(card);
    at("outputs").replaceChildren(cards[first], wanted, ...cards.filter((_, index) => index !== first));
    mark();
    if (isLinked) history.replaceState(null, "", `#example=${encodeURIComponent(example.id)}`);
  }

  function mark() {
    for (const row of at("list").children) row.setAttribute("aria-selected", "false");
    const row = current && at(`option-${current.row}`);
    if (!row) return;
    row.setAttribute("aria-selected", "true");
    at("list").setAttribute("aria-activedescendant", row.id);
    const list = at("list");  // not scrollIntoView, which would move the page too
    if (row.offsetTop < list.scrollTop) list.scrollTop = row.offsetTop;
    const below = row.offsetTop + row.offsetHeight - list.clientHeight;
    if (below > list.scrollTop) list.scrollTop = below;
  }

  /** Shows the document in the sentences that `support` speaks of; most often they stay the same. */
  function cutDocument(support) {
    const first = current.outputs.find(made => made.support?.document)?.support.document ?? [];
    const wanted = support?.document ?? first;
    if (wanted === cut) return;
    cut = wanted;
    at("document").replaceChildren(...sentences(current.document, wanted, "source"));
  }

  function card(made, index) {
    const support = made.support;
    const text = make("p", { className: "text" },
      ...sentences(made.text, support?.summary ?? [], "sentence", made.sure?.tokens));
    if (!made.text) text.append(make("em", { textContent: made.error ?? "empty" }));
    const about = [`${made.words} words`, ...made.flags.map(name => data.flags[name])];
    if (made.sure) about.push(`mean probability of a token ${shownPercent(made.sure.mean)}`);
    const scores = make("ul", { className: "scores" }, ...data.metrics.flatMap((title, place) =>
      made.scores[place] === null || made.scores[place] === undefined ? []
        : [make("li", { textContent: `${title} ` }, make("b", { textContent: made.scores[place] }))]));
    const sources = make("ol", { className: "sources" });
    sources.setAttribute("aria-live", "polite");
    if (support) {
      for (const sentence of text.querySelectorAll(".sentence")) connect(sentence, support, sources);
    }
    const box = make("article", { className: `output k${index % 6}` },
      make("h4", { textContent: data.systems[index] }), text,
      make("p", { className: "about", textContent: about.join(" · ") }), scores, sources);
    return box;
  }

  // ---- a summary sentence and its sources ----

  function connect(sentence, support, list) {
    sentence.tabIndex = 0;
    sentence.setAttribute("role", "button");
    sentence.setAttribute("aria-pressed", "false");
    const show = () => { if (!locked) light(sentence, support, list); };
    const hide = () => { if (!locked) unlight(); };
    sentence.addEventListener("mouseenter", show);
    sentence.addEventListener("mouseleave", hide);
    sentence.addEventListener("focus", show);
    sentence.addEventListener("blur", hide);
    const toggle = () => {
      const was = locked;
      unlight();
      if (was !== sentence) {
        light(sentence, support, list);
        sentence.setAttribute("aria-pressed", "true");
        locked = sentence;
      }
    };
    sentence.addEventListener("click", toggle);
    sentence.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }

  function light(sentence, support, list) {
    unlight();
    cutDocument(support);
    sentence.classList.add("lit");
    const used = support.methods[method] ? method : Object.keys(support.methods)[0];
    const found = support.methods[used][Number(sentence.dataset.index)] ?? [];
    const by = make("li", { className: "by", textContent: `Sources by ${data.methods[used]}` });
    list.replaceChildren(by, ...found.map(([index, weight]) => {
      const source = at("document").querySelector(`[data-index="${index}"]`);
      if (source) {
        source.classList.add("lit");
        source.dataset.weight = weight;
        source.style.setProperty("--share", (weight / found[0][1]).toFixed(3));
      }
      const quoted = source ? source.textContent : "in the part that is not shown";
      return make("li", {}, make("b", { textContent: weight }), ` sentence ${index + 1}: `,
        make("q", { textContent: quoted }));
    }));
    if (!found.length) list.append(make("li", { textContent: "no sentence of the document supports it" }));
    const least = doubts(sentence);
    if (least) list.append(make("li", { className: "doubts", textContent: `The model was least sure of ${least}` }));
    const strongest = found.length && at("document").querySelector(`[data-index="${found[0][0]}"]`);
    if (strongest) reveal(strongest);
  }

  /** Scrolls the document, not the page, where the sentence is out of sight. */
  function reveal(sentence) {
    const pane = at("document");
    const [top, bottom] = [sentence.offsetTop, sentence.offsetTop + sentence.offsetHeight];
    const isSeen = top >= pane.scrollTop && bottom <= pane.scrollTop + pane.clientHeight;
    if (!isSeen) pane.scrollTop = top - pane.clientHeight / 3;
  }

  function unlight() {
    for (const lit of at("browser").querySelectorAll(".lit")) {
      lit.classList.remove("lit");
      delete lit.dataset.weight;
      lit.style.removeProperty("--share");
    }
    for (const list of at("browser").querySelectorAll(".sources")) list.replaceChildren();
    if (locked) locked.setAttribute("aria-pressed", "false");
    locked = null;
  }

  // ---- controls and keys ----

  function step(by) {
    if (!shown.length) return;
    const place = shown.indexOf(current) + by;
    open(shown[Math.min(Math.max(place, 0), shown.length - 1)]);
  }

  const keys = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  at("list").addEventListener("keydown", event => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    step(keys[event.key]);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") return unlight();
    const typing = event.target.closest?.("input, select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  fill("system", data.systems.map((name, index) => [index, name]));
  const isChanged = data.examples.some(example => example.changes.length);
  const isSure = data.examples.some(example => example.outputs.some(made => made.sure));
  fill("order", [["input", "as in the input"], ["worst", "worst first"], ["best", "best first"],
    ...(isChanged ? [["changed", "most changed first"]] : []),
    ...(isSure ? [["unsure", "least sure first"]] : [])]);
  fill("method", methods.map(name => [name, data.methods[name]]));
  fillFilters();
  at("method-label").hidden = methods.length < 2;
  at("sure-label").hidden = at("sure-legend").hidden = !isSure;
  at("system").addEventListener("change", () => { fillFilters(); refresh(); });
  for (const id of ["only", "order"]) at(id).addEventListener("change", refresh);
  at("controls").addEventListener("submit", event => event.preventDefault());
  at("search").addEventListener("input", refresh);
  at("method").addEventListener("change", event => {
    method = event.target.value;
    unlight();
  });

  at("sure").addEventListener("change", event =>
    at("browser").classList.toggle("unmarked", !event.target.checked));

  const link = location.hash.match(/^#example=(.*)$/)?.[1];
  const linked = data.examples.find(example => encodeURIComponent(example.id) === link);
  refresh();
  isLinked = true;
  if (linked) {
    open(linked);
    at("examples").scrollIntoView();
  }
}

if (at("browser-data")) browse(JSON.parse(at("browser-data").textContent));
