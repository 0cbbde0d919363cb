"use strict";
// Everything shown is inserted by textContent: rollouts are hostile text.
for (const root of document.querySelectorAll(".tokens")) {
  const { channels, views } = JSON.parse(root.querySelector("script").textContent);
  const part = (name) => root.querySelector("." + name);
  const pane = part("text"), card = part("card"), facts = part("facts"), buttons = part("channels");
  const CHUNK = 1000;
  let shown = views.map((_, i) => i), at = 0, channel = channels[0], run = 0, here = -1;

  const node = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const number = (value, sign) => value === null || value === undefined ? "—"
    : (value < 0 ? "−" : sign && value > 0 ? "+" : "") + Math.abs(value).toFixed(Math.abs(value) >= 100 ? 1 : 3);

  // a token as nodes: whitespace with a glyph over it, other invisible characters by their code point
  function pieces(text) {
    const out = document.createDocumentFragment();
    let plain = "";
    const flush = () => { if (plain) out.append(plain); plain = ""; };
    for (const char of text) {
      const kind = { " ": "sp", "\t": "tab", "\n": "nl" }[char];
      if (kind) { flush(); out.append(node("i", char, kind)); continue; }
      if (!/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(char)) { plain += char; continue; }
      flush();
      const odd = node("i", undefined, "odd");
      odd.dataset.glyph = "⟨U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩";
      out.append(odd);
    }
    flush();
    if (!text) { const odd = node("i", undefined, "odd"); odd.dataset.glyph = "∅"; out.append(odd); }
    return out;
  }

  const valueOf = (view, key, i) => view[key] ? view[key][i] : null;
  function colour(view, i) {
    const value = valueOf(view, channel.key, i);
    if (value === null || channel.kind === "switch") return "";
    const { low, centre, high } = channel;
    const reach = value < centre ? (centre - value) / (centre - low || 1) : (value - centre) / (high - centre || 1);
    return shade(value < centre ? -reach : reach);
  }
  const shade = (reach) => reach === 0 ? "" :
    `rgba(var(--${reach < 0 ? "cool" : "warm"}), ${(0.75 * Math.min(1, Math.abs(reach))).toFixed(3)})`;
  function paint(span, view, i) {
    span.style.background = colour(view, i);
    span.classList.toggle("skipped", channel.kind === "switch" && valueOf(view, channel.key, i) === 0);
  }

  function fill() {
    const view = views[shown[at]], mine = ++run;
    pane.replaceChildren();
    pane.scrollTop = 0;
    hide();
    delete pane.dataset.ready;
    let done = 0;
    (function chunk() {
      if (mine !== run) return;
      const part = document.createDocumentFragment();
      for (const end = Math.min(done + CHUNK, view.tokens.length); done < end; done++) {
        const span = node("span");
        span.index = done;
        span.append(pieces(view.tokens[done]));
        paint(span, view, done);
        part.append(span);
      }
      pane.append(part);
      if (done < view.tokens.length) setTimeout(chunk); else pane.dataset.ready = "yes";
    })();
  }

  function describe() {
    part("count").textContent = shown.length ? `${at + 1} / ${shown.length}` : "none";
    facts.replaceChildren();
    root.classList.toggle("empty", !shown.length);
    if (!shown.length) { run++; pane.replaceChildren(); part("prompt").textContent = ""; return; }
    const view = views[shown[at]];
    for (const text of [view.arm, `seed ${view.seed}`, `step ${view.step}`, view.domain]) {
      if (text) facts.append(node("span", text));
    }
    facts.append(node("span", view.kept ? "kept" : "dropped by the filter", view.kept ? "good" : "bad"));
    if (view.correct !== null) facts.append(node("span", view.correct ? "correct" : "wrong", view.correct ? "good" : "bad"));
    facts.append(node("span", view.answer === null ? "no gold answer" : "gold answer " + view.answer));
    facts.append(node("span", "mean teacher log-prob " + number(view.score)));
    facts.append(node("span", `${view.tokens.length} tokens` + (view.cut ? ` of ${view.cut}` : "")));
    part("prompt").textContent = view.prompt;
    fill();
  }

  function legend() {
    for (const button of buttons.children) button.setAttribute("aria-pressed", button.channel === channel);
    const { low, centre, high, kind, hint } = channel, box = part("legend");
    box.replaceChildren();
    if (kind !== "switch") {
      const ramp = node("i", undefined, "ramp"), stops = [];
      for (let step = 0; step <= 10; step++) {
        const value = low + (high - low) * step / 10;
        const reach = value < centre ? (value - centre) / (centre - low || 1) : (value - centre) / (high - centre || 1);
        stops.push(shade(reach) || "transparent");
      }
      ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      box.append(node("span", (channel.below ? "≤ " : "") + number(low)), ramp, node("span", "≥ " + number(high)));
      if (low < centre) box.append(node("span", `no colour at ${number(centre)}`));
    }
    box.append(node("span", hint));
  }

  function hide() {
    card.hidden = true;
    if (pane.children[here]) pane.children[here].classList.remove("here");
    here = -1;
  }
  function show(index) {
    const span = pane.children[index], view = views[shown[at]];
    if (!span) return;
    hide();
    here = index;
    span.classList.add("here");
    const head = node("b"), list = node("dl");
    head.append(pieces(view.tokens[index]));
    const logprob = (value) => value === null ? "—" : `${number(value)} (${(100 * Math.exp(value)).toPrecision(3)} %)`;
    const rows = [
      ["token id", valueOf(view, "ids", index) ?? "—"], ["position", `${index + 1} of ${view.tokens.length}`],
      ["student log-prob", logprob(valueOf(view, "student_logprob", index))],
      ["teacher log-prob", logprob(valueOf(view, "teacher_logprob", index))],
      ["log teacher − log student", number(valueOf(view, "ratio", index), true)],
      ["student entropy, nats", number(valueOf(view, "student_entropy", index))],
      ["teacher entropy, nats", number(valueOf(view, "teacher_entropy", index))],
      ["weight", number(valueOf(view, "weight", index))],
    ];
    for (const [name, value] of rows) list.append(node("dt", name), node("dd", String(value)));
    card.replaceChildren(head, list);
    card.hidden = false;
    const box = span.getClientRects()[0] || span.getBoundingClientRect(), size = card.getBoundingClientRect();
    const below = box.bottom + 8 + size.height < innerHeight;
    card.style.left = Math.max(8, Math.min(box.left, innerWidth - size.width - 8)) + "px";
    card.style.top = Math.max(8, below ? box.bottom + 8 : box.top - size.height - 8) + "px";
  }
  const indexOf = (target) => {
    while (target && target.parentNode !== pane) target = target.parentNode;
    return target ? target.index : -1;
  };

  for (const each of channels) {
    const button = node("button", each.label);
    button.type = "button";
    button.channel = each;
    button.dataset.channel = each.key;
    button.onclick = () => {
      channel = each;
      legend();
      const view = views[shown[at]];
      if (view) Array.from(pane.children).forEach((span, i) => paint(span, view, i));
    };
    buttons.append(button);
  }
  const go = (by) => {
    if (shown.length) { at = (at + by + shown.length) % shown.length; describe(); }
  };
  part("previous").onclick = () => go(-1);
  part("next").onclick = () => go(1);
  const arms = [...new Set(views.map((view) => view.arm))];
  const armFilter = part("arm"), stateFilter = part("state");
  for (const arm of arms) armFilter.append(new Option(arm, arm));
  armFilter.parentNode.hidden = arms.length < 2;
  const tests = {
    all: () => true, kept: (v) => v.kept, dropped: (v) => !v.kept, correct: (v) => v.correct === true, wrong: (v) => v.correct === false,
  };
  armFilter.onchange = stateFilter.onchange = () => {
    const arm = armFilter.selectedIndex > 0 ? arms[armFilter.selectedIndex - 1] : null;
    shown = views.map((_, i) => i).filter((i) => (arm === null || views[i].arm === arm) && tests[stateFilter.value](views[i]));
    at = 0;
    describe();
  };
  pane.onpointerover = pane.onclick = (event) => { const i = indexOf(event.target); if (i >= 0) show(i); };
  pane.onpointerleave = pane.onscroll = hide;
  pane.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!by) return;
    event.preventDefault();
    show(Math.max(0, Math.min(pane.children.length - 1, here + by)));
  };
  legend();
  describe();
}
