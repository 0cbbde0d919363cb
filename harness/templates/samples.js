"use strict";
// Everything shown is inserted by textContent: problems and responses are hostile text.
{
  const { benches, kinds } = JSON.parse(document.getElementById("meta").textContent);
  const part = (name) => document.querySelector(".browse ." + name), main = document.querySelector("main");
  const RIGHT = 1, PAPER_RIGHT = 2, NO_PAPER = 4, TRUNCATED = 8, NO_ANSWER = 16, FIRST = 5;
  const KEPT = 6;  // problems that stay unpacked

  const node = (tag, kind, ...inside) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    for (const each of inside) made.append(typeof each === "string" ? pieces(each) : each);
    return made;
  };
  const count = (number) => number.toLocaleString("en-US");
  const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

  // a text as nodes: characters that do not show, or turn the text around, by their code points
  function pieces(text) {
    const out = document.createDocumentFragment();
    let at = 0;
    for (const run of text.matchAll(/((?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}])\1*/gu)) {
      if (run.index > at) out.append(text.slice(at, run.index));
      const code = run[1].codePointAt(0).toString(16).toUpperCase().padStart(4, "0"), times = run[0].length / run[1].length;
      const odd = document.createElement("i");
      odd.className = "odd";
      odd.textContent = `⟨U+${code}${times > 1 ? " ×" + times : ""}⟩`;
      out.append(odd);
      at = run.index + run[0].length;
    }
    if (at < text.length) out.append(text.slice(at));
    return out;
  }

  // --- filters and order

  const disagree = (bits) => !(bits & NO_PAPER) && !(bits & RIGHT) !== !(bits & PAPER_RIGHT);
  const suspicious = (bits) => kind < 0 ? bits >> FIRST !== 0 : (bits >> (FIRST + kind)) & 1;
  const STATES = [
    ["all", () => true], ["right", (bits) => bits & RIGHT], ["wrong", (bits) => !(bits & RIGHT)],
    ["checkers disagree", disagree], ["truncated", (bits) => bits & TRUNCATED],
    ["no answer", (bits) => bits & NO_ANSWER], ["suspicious", suspicious],
  ];
  const tally = (problem, test) => problem.bits.reduce((sum, bits) => sum + (test(bits) ? 1 : 0), 0);
  const share = (problem) => problem.bits.length ? tally(problem, (bits) => bits & RIGHT) / problem.bits.length : 2;
  const ORDERS = [  // smallest first; equals stay in file order
    ["as in the file", () => 0], ["hardest first", share], ["easiest first", (p) => p.bits.length ? -share(p) : 2],
    ["most divided samples", (p) => Math.abs(share(p) - 0.5)],
    ["checkers disagree most", (p) => -tally(p, disagree)],
    ["most suspicious", (p) => -tally(p, (bits) => bits >> FIRST !== 0)],
  ];

  let bench = 0, problem = -1, sample = -1;  // chosen; a sample by its place in the block
  let state = 0, kind = -1, order = 0, words = [];
  let shown = [];  // problems of the list, in its order
  let block = null, unfolded = false, run = 0;
  const items = benches.map(() => []);  // buttons of the list, made once
  const number = (problem, place) => problem.numbers ? problem.numbers[place] : place;
  const passes = (bits) => STATES[state][1](bits);
  const here = () => benches[bench].problems[problem];

  function matching(problem) {
    if (words.length) {
      problem.all ??= [problem.id, problem.text, problem.gold, problem.family, problem.slice].join("\n").toLowerCase();
      if (!words.every((word) => problem.all.includes(word))) return false;
    }
    return state === 0 || problem.bits.some(passes);
  }

  function item(index) {
    const problem = benches[bench].problems[index], right = tally(problem, (bits) => bits & RIGHT), all = problem.bits.length;
    const button = node("button", "entry"), bar = node("span", "bar");
    button.type = "button";
    button.index = index;
    for (const [name, size] of [["yes", right], ["no", all - right]].filter(([, size]) => size)) {
      bar.append(node("span", name));
      bar.lastChild.style.flexGrow = size;
    }
    const first = problem.text.trim().split("\n", 1)[0].slice(0, 160);
    button.append(node("span", "name", problem.id), node("span", "hits"), node("span", "rate", all ? `${right} of ${all}` : "no samples"),
      node("span", "preview", first), bar);
    const line = node("li");
    line.append(button);
    return line;
  }

  function list() {
    const { problems } = benches[bench], score = ORDERS[order][1];
    const scored = problems.map((problem, i) => [i, score(problem)]).filter(([i]) => matching(problems[i]));
    shown = scored.sort((a, b) => a[1] - b[1] || a[0] - b[0]).map(([i]) => i);
    const lines = shown.map((i) => {
      const line = items[bench][i] ??= item(i);
      const hits = state === 0 ? 0 : tally(problems[i], passes);
      line.querySelector(".hits").textContent = hits ? `${hits} ${state === 6 && kind >= 0 ? "such" : STATES[state][0]}` : "";
      return line;
    });
    part("problems").replaceChildren(...lines);
    part("found").textContent = shown.length === problems.length ? plural(shown.length, "problem")
      : `${count(shown.length)} of ${plural(problems.length, "problem")}`;
    mark();
  }

  // scrolls the box, and never the page
  function reveal(box, inside) {
    const outer = box.getBoundingClientRect(), inner = inside.getBoundingClientRect();
    if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top + 4;
    else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom + 4;
  }

  // which entry of the list is chosen; only that one is reached by the tabulator, arrow keys move on from it
  function mark(scroll) {
    const chosen = shown.includes(problem) ? problem : shown[0];
    for (const line of part("problems").children) {
      const button = line.firstChild, on = button.index === problem;
      button.tabIndex = button.index === chosen ? 0 : -1;
      if (on) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
      if (!on || !scroll) continue;
      if (part("problems").contains(document.activeElement)) button.focus({ preventScroll: true });
      reveal(part("problems"), line);
    }
  }

  function counts() {
    const bits = benches[bench].problems.flatMap((problem) => problem.bits);
    const chosen = kind;
    kind = -1;
    for (const [i, button] of [...part("states").children].entries()) {
      button.querySelector("b").textContent = count(bits.filter(STATES[i][1]).length);
      button.setAttribute("aria-pressed", i === state);
    }
    kind = chosen;
    for (const [i, option] of [...part("kind").options].entries()) {
      const sum = bits.filter((each) => i === 0 ? each >> FIRST !== 0 : (each >> (FIRST + i - 1)) & 1).length;
      option.textContent = `${i === 0 ? "of any reason" : kinds[i - 1][1]} (${count(sum)})`;
    }
    part("reason").hidden = state !== 6;
  }

  // --- one benchmark

  function head() {
    const { scores, size, facts, remarks } = benches[bench];
    for (const [i, button] of [...part("benches").children].entries()) button.setAttribute("aria-pressed", i === bench);
    const score = part("score");
    score.replaceChildren(node("span", "what", size));
    for (const [name, value, interval] of scores) {
      const line = node("span", "", `${name} `);
      line.append(node("b", "", value), ` ${interval}`);
      score.append(line);
    }
    part("remarks").replaceChildren(...remarks.map((text) => node("p", "warning", text)));
    part("facts").replaceChildren(...facts.flatMap(([name, value]) => [node("dt", "", name), node("dd", "", value)]));
  }

  function open(index) {
    if (index === bench && problem >= 0) return;
    bench = index;
    problem = sample = -1;
    head();
    counts();
    list();
  }

  // --- one problem

  const unpacked = new Map();
  function unpack(bench, problem) {
    const id = `block-${bench}-${problem}`;
    let found = unpacked.get(id);
    unpacked.delete(id);
    found ??= (async () => {
      if (!window.DecompressionStream) throw new Error("this browser cannot unpack gzip: use one of 2023 or later");
      const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })();
    unpacked.set(id, found);
    for (const old of unpacked.keys()) { if (unpacked.size > KEPT) unpacked.delete(old); }
    return found;
  }

  async function choose(next, place) {
    const mine = ++run, changed = next !== problem || block === null;
    problem = next;
    delete part("response").dataset.ready;
    if (changed) {
      block = null;
      mark(true);
      let found;
      try {
        found = await unpack(bench, problem);
      } catch (error) {
        if (mine === run) wait(`The answers to this problem cannot be unpacked: ${error.message}`);
        return;
      }
      if (mine !== run) return;
      block = found;
      asked();
      main.scrollTop = 0;
    }
    const { bits } = here();
    sample = place ?? Math.max(0, bits.findIndex(passes));
    chips();
    answer();
    const name = [benches[bench].name, here().id, ...(bits.length ? [number(here(), sample)] : [])];
    history.replaceState(null, "", "#" + name.map((each) => encodeURIComponent(sound(String(each)))).join("/"));
  }
  const sound = (text) => text.replace(/\p{Cs}/gu, "\ufffd");  // half a character cannot stand in an address

  function wait(text) {
    part("wait").hidden = !text;
    part("wait").textContent = text;
    part("problem").hidden = part("sample").hidden = Boolean(text);
  }

  function asked() {
    const { id, gold, family, slice, note, accepted } = here();
    wait("");
    document.getElementById("asked").replaceChildren(pieces(id));
    const question = node("div", "text"), box = part("question");
    draw(question, block.text);
    box.replaceChildren(question);
    box.classList.remove("long");
    if (question.scrollHeight > question.clientHeight + 24) {
      const more = node("button", "more", "whole problem");
      more.type = "button";
      more.setAttribute("aria-expanded", "false");
      more.onclick = () => {
        const whole = !box.classList.toggle("long");
        more.setAttribute("aria-expanded", whole);
        more.textContent = whole ? "fold problem" : "whole problem";
      };
      box.classList.add("long");
      box.append(more);
    }
    const line = part("truth");
    line.replaceChildren("gold ", node("code", "", gold));
    for (const [name, value] of [["family", family], ["slice", slice]]) {
      if (value) line.append(node("span", "aside", ` · ${name} ${value}`));
    }
    if (note) {
      line.append(node("span", "note", accepted.length ? `gold read as ` : "gold read with care"));
      accepted.forEach((text, i) => line.lastChild.append(i ? " or " : "", node("code", "", text)));
      line.lastChild.append(pieces(`: ${note}`));
    }
  }

  function chips() {
    const problem = here(), list = part("chips"), focused = list.contains(document.activeElement);
    list.replaceChildren(...problem.bits.map((bits, place) => {
      const chip = node("button", bits & RIGHT ? "chip good" : "chip bad"), signs = [bits & RIGHT ? "right" : "wrong"];
      chip.type = "button";
      chip.place = place;
      chip.append(node("span", "sign", bits & RIGHT ? "✓" : "✗"), String(number(problem, place)));
      if (disagree(bits)) signs.push("checkers disagree");
      if (bits & TRUNCATED) signs.push("truncated");
      if (bits & NO_ANSWER) signs.push("no answer");
      kinds.forEach(([name, label], i) => {
        if ((bits >> (FIRST + i)) & 1 && name !== "disagree" && name !== "limit") signs.push(label);
      });
      if (bits >> FIRST) chip.append(node("span", "flag", "⚑"));
      if (!passes(bits)) chip.classList.add("off");
      chip.title = signs.join(", ");
      chip.setAttribute("aria-label", `sample ${number(problem, place)}: ${signs.join(", ")}`);
      chip.tabIndex = place === sample ? 0 : -1;
      if (place === sample) chip.setAttribute("aria-current", "true");
      return chip;
    }));
    const chosen = list.children[sample];
    if (chosen && focused) chosen.focus({ preventScroll: true });
    if (chosen) reveal(list, chosen);
  }

  // --- one sample

  function draw(target, parts) {
    for (const [name, ...rest] of parts) {
      if (name === "think") {
        const [inner, chars, closed] = rest, trace = node("details", "think"), text = node("div", "trace");
        trace.append(node("summary", "", `thinking, ${plural(chars, "character")}${closed ? "" : ", never closed"}`), text);
        trace.open = unfolded;
        draw(text, inner);
        target.append(trace);
      } else if (name === "cut") {
        target.append(node("span", "cut", `… ${plural(rest[0], "character")} left out …`));
      } else if (name === "") {
        target.append(pieces(rest[0]));
      } else {
        const span = node("mark", name, rest[0]);
        span.title = { answer: "the extracted answer", box: "another box", gold: "the gold" }[name];
        target.append(span);
      }
    }
  }

  function answer() {
    const one = block.samples[sample], pane = part("response"), bits = here().bits[sample];
    part("sample").hidden = !one;
    pane.replaceChildren();
    pane.scrollTop = 0;
    pane.dataset.ready = "yes";
    if (!one) return;
    const facts = [
      one.finish === "length" ? "cut at the token limit" : one.finish === "stop" ? "finished by itself" : `finish ${one.finish}`,
      one.tokens === null ? "" : plural(one.tokens, "token"), one.chars === null ? "" : plural(one.chars, "character"),
    ];
    const title = document.getElementById("which");
    title.replaceChildren(`Sample ${one.n} `, node("span", "aside", facts.filter(Boolean).join(" · ")));
    if (title.getBoundingClientRect().top < Math.max(0, main.getBoundingClientRect().top)) title.scrollIntoView();
    const flags = kinds.filter((_, i) => (bits >> (FIRST + i)) & 1);
    part("why").replaceChildren(...flags.map(([, label, rule]) => { const flag = node("li", "", `⚑ ${label}`); flag.title = rule; return flag; }));
    const rows = [[benches[bench].judge, bits & RIGHT, one.strict], ["paper", bits & PAPER_RIGHT, one.paper]];
    part("verdicts").tBodies[0].replaceChildren(...rows.filter(([, , row]) => row).map(([name, right, [text, read, reason]]) => {
      const row = node("tr"), head = node("th", "", name);
      head.scope = "row";
      const code = (value, none) => value === null ? node("td", "none", none) : node("td", "", node("code", "", value));
      row.append(head, node("td", right ? "good" : "bad", right ? "✓ right" : "✗ wrong"), code(text, "none"), code(read, "—"),
        node("td", "", reason ?? "—"));
      return row;
    }));
    if (one.parts === null) pane.append(node("p", "none", "The text of this sample was not kept."));
    else if (!one.parts.length) pane.append(node("p", "none", "The response is empty."));
    else draw(pane, one.parts);
    for (const name of ["answer", "gold"]) {
      part("jumps").querySelector("." + name).hidden = !pane.querySelector("mark." + name);
    }
  }
  function jump(name) {
    const marks = part("response").querySelectorAll("mark." + name), target = marks[marks.length - 1];
    if (!target) return;
    const trace = target.closest("details");
    if (trace) trace.open = true;
    target.scrollIntoView({ block: "center" });
  }

  // --- moving about

  function step(by) {
    if (problem < 0 || !block) return;
    const { bits } = here();
    for (let place = sample + by; place >= 0 && place < bits.length; place += by) {
      if (passes(bits[place])) { choose(problem, place); return; }
    }
    go(by, true);
  }
  function go(by, edge) {
    if (!shown.length) return;
    const at = shown.indexOf(problem), next = shown[at < 0 ? 0 : at + by];
    if (next === undefined) return;
    const { bits } = benches[bench].problems[next];
    choose(next, edge && by < 0 ? Math.max(0, bits.findLastIndex(passes)) : undefined);
  }
  // after a change of filter: what is shown stays, if it still fits
  function settle() {
    counts();
    list();
    if (problem >= 0 && shown.includes(problem) && passes(here().bits[sample] ?? 0)) { if (block) chips(); return; }
    if (problem >= 0 && shown.includes(problem)) choose(problem);
    else if (shown.length) choose(shown[0]);
    else { run++; problem = sample = -1; block = null; wait("No sample is like that."); mark(); }
  }
  function follow() {
    let names;
    try { names = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { names = []; }
    const at = Math.max(0, benches.findIndex((each) => sound(each.name) === names[0]));
    open(at);
    const index = benches[at].problems.findIndex((each) => sound(each.id) === names[1]);
    if (index < 0) { choose(shown[0] ?? 0); return; }
    const found = benches[at].problems[index];
    const place = found.bits.findIndex((_, i) => String(number(found, i)) === names[2]);
    choose(index, place < 0 ? undefined : place);
  }

  benches.forEach((each, i) => {
    const button = node("button", "", each.label);
    button.type = "button";
    button.onclick = () => { open(i); settle(); };
    part("benches").append(button);
  });
  part("benches").hidden = benches.length < 2;
  STATES.forEach(([name], i) => {
    const button = node("button");
    button.type = "button";
    button.dataset.state = name;
    button.append(`${name} `, node("b"));
    button.onclick = () => { state = i; settle(); };
    part("states").append(button);
  });
  for (let i = -1; i < kinds.length; i++) part("kind").append(new Option("", String(i)));
  for (const [name] of ORDERS) part("order").append(new Option(name));
  part("kinds").replaceChildren(...kinds.flatMap(([, label, rule]) => [node("dt", "", `⚑ ${label}`), node("dd", "", rule)]));
  part("kind").onchange = (event) => { kind = event.target.selectedIndex - 1; settle(); };
  part("order").onchange = (event) => { order = event.target.selectedIndex; list(); mark(true); };
  part("query").oninput = (event) => { words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean); list(); };
  part("problems").onclick = (event) => {
    const button = event.target.closest(".entry");
    if (button) choose(button.index);
  };
  part("chips").onclick = (event) => {
    const chip = event.target.closest(".chip");
    if (chip) choose(problem, chip.place);
  };
  for (const name of ["answer", "gold"]) part("jumps").querySelector("." + name).onclick = () => jump(name);
  window.onhashchange = follow;
  document.onkeydown = (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) {
      if (event.key === "Escape") event.target.blur();
      if (event.key === "Enter" && event.target === part("query") && shown.length) choose(shown[0]);
      return;
    }
    const moves = { a: [jump, "answer"], g: [jump, "gold"], j: [step, 1], ArrowRight: [step, 1], k: [step, -1], ArrowLeft: [step, -1], n: [go, 1], p: [go, -1] };
    if (event.target.closest(".problems")) Object.assign(moves, { ArrowDown: [go, 1], ArrowUp: [go, -1] });
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      move[0](move[1]);
    } else if (event.key === "/") {
      event.preventDefault();
      part("query").focus();
      part("query").select();
    } else if (event.key === "t") {
      unfolded = !unfolded;
      for (const trace of document.querySelectorAll(".think")) trace.open = unfolded;
    }
  };
  follow();
}
