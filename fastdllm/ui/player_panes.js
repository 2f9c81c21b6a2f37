// One run on the stage: its text, its decision map, its numbers. No state of its own but what is drawn.
const KIND = { prefill: "P", full: "F", small: "S", commit: "C", replay: "R" };
const DECISION = ["runs (not wrapped)", "recompute", "reuse", "fallback", "bypass", "replay"];
const INK = ["", "#0072B2", "#E69F00", "#CC79A7", "", "#009E73"]; // Okabe-Ito; every one has a mark besides
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const NONE = "\u2013";
const ROLE = ["prompt", "unmasked", "carried", "stop", "cut"];

function array(view, Type) { // DataView -> typed array (the view may start anywhere in its buffer)
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function unpack(raw) {
  const run = { ...raw };
  for (const name of ["start", "small_block", "block_step", "nfe", "token", "when", "detail", "draft", "rejected"])
    run[name] = array(raw[name], Int32Array);
  for (const name of ["confidence", "distance"]) run[name] = array(raw[name], Float32Array);
  for (const name of ["role", "looked", "decisions"]) run[name] = array(raw[name], Uint8Array);
  run.drafted = run.draft.some((depth) => depth > 0) || run.rejected.length > 0; // policy verify
  run.wrong = new Map(); // forward -> position -> token that a rejected draft had there
  for (let n = 0; n < run.rejected.length; n += 3) {
    const [forward, position, token] = run.rejected.subarray(n, n + 3);
    if (!run.wrong.has(forward)) run.wrong.set(forward, new Map());
    run.wrong.get(forward).set(position, token);
  }
  return run;
}

function drafted(run, id) { // what a draft had at a position: a token, or still none
  return id === run.mask ? "(masked)" : piece(run, id);
}

function piece(run, id) { // a checkpoint without a tokenizer has numbers
  return (run.pieces[id] ?? `${id} `) || "(empty)"; // what is unprintable was made visible where the payload was
}

function paint(node, confidence) { // cividis, text black or white by luminance
  const at = Math.max(0, Math.min(1, confidence)) * (CIVIDIS.length - 1), low = Math.min(Math.floor(at), 4);
  const rgb = CIVIDIS[low].map((v, i) => Math.round(v + (CIVIDIS[low + 1][i] - v) * (at - low)));
  node.style.background = `rgb(${rgb})`;
  node.style.color = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 120 ? "#000" : "#fff";
}

// The first forward after which the texts of two runs differ, or -1 (as player.first_difference).
function firstDifference(a, b) {
  const last = Math.max(a.forwards, b.forwards), n = Math.max(a.when.length, b.when.length);
  const seen = (run, i) => (i < run.when.length && run.when[i] < run.forwards ? run.when[i] : last);
  let found = last;
  for (let i = 0; i < n; i++) {
    const wa = seen(a, i), wb = seen(b, i), differs = wa !== wb || (wa < last && a.token[i] !== b.token[i]);
    if (differs && Math.min(wa, wb) >= 0) found = Math.min(found, wa, wb);
  }
  return found < last ? found : -1;
}

// The first forward at which other layers ran, or another kind of forward, or -1. Layers that ran count alike.
function firstDecision(a, b) {
  const reused = (run, cell) => run.decisions[cell] === 2 || run.decisions[cell] === 5;
  for (let f = 0; f < Math.max(a.forwards, b.forwards); f++) {
    if (a.kinds[f] !== b.kinds[f]) return f;
    for (let l = 0; l < a.layers; l++) if (reused(a, f * a.layers + l) !== reused(b, f * b.layers + l)) return f;
  }
  return -1;
}

const BLOCKS = 24; // that stand on the stage at once: a step then costs the same at any length

class TextPane {
  constructor(run) {
    this.run = run;
    this.node = make("div", "fd-text");
    this.size = run.block || run.token.length || 1;
    this.count = Math.ceil(run.token.length / this.size);
    this.first = -1; // of the blocks that stand here
    if (!this.count) this.node.append(make("em", "", "No steps were kept: the map alone."));
  }

  stand(first) { // put blocks `first` .. on the stage
    const end = Math.min(this.count, first + BLOCKS), { size, run } = this;
    this.first = first;
    this.spans = [];
    this.state = [];
    this.blocks = [];
    for (let b = first; b < end; b++) {
      const block = make("div", "fd-block");
      block.title = `block ${b}`;
      for (let i = b * size; i < Math.min(run.token.length, (b + 1) * size); i++) {
        const span = make("span", "fd-token");
        this.spans.push(span);
        this.state.push("");
        block.append(span);
      }
      this.blocks.push(block);
    }
    const more = (count, where) => (count > 0 ? [make("div", "fd-more", `${count} ${where} blocks`)] : []);
    this.node.replaceChildren(...more(first, "earlier"), ...this.blocks, ...more(this.count - end, "later"));
    this.now = null;
  }

  update(step, other) {
    const { run } = this, at = Math.min(step, run.forwards - 1), base = run.start[at];
    if (!this.count) return;
    const block = run.block ? Math.floor(base / run.block) : 0, edge = BLOCKS / 4, most = Math.max(0, this.count - BLOCKS);
    const early = block < this.first + edge && this.first > 0, late = block >= this.first + BLOCKS - edge && this.first < most;
    if (this.first < 0 || early || late) this.stand(Math.max(0, Math.min(most, block - BLOCKS / 2)));
    for (let n = 0; n < this.spans.length; n++) {
      const i = this.first * this.size + n;
      const shown = run.when[i] <= at, role = shown ? ROLE[run.role[i]] : "masked", fresh = shown && run.when[i] === at;
      const off = i - base, code = off >= 0 && off < run.block ? run.looked[at * run.block + off] : 255;
      const seen = !shown && code !== 255 ? Math.round(code / 2) : -1;
      const differs = other && this.differs(i, at, other, step);
      const wrong = run.wrong.get(at)?.get(i);
      const state = `${role}${fresh ? " fd-new" : ""}${differs ? " fd-differs" : ""}|${seen}|${wrong ?? ""}`;
      if (state !== this.state[n]) this.draw(i, n, state, role, seen, wrong);
    }
    const now = this.blocks[block - this.first];
    if (now !== this.now) {
      this.now?.classList.remove("fd-now");
      now?.classList.add("fd-now");
      this.now = now;
    }
    this.reveal();
  }

  reveal() { // the open block is in view, also after the pane or its tokens changed their size
    const { node, now } = this;
    if (!now || !node.clientHeight) return;
    const above = now.offsetTop < node.scrollTop, below = now.offsetTop + now.offsetHeight > node.scrollTop + node.clientHeight;
    if (above || below) node.scrollTop = now.offsetTop - (node.clientHeight - now.offsetHeight) / 2;
  }

  differs(i, at, other, step) {
    const end = Math.min(step, other.forwards - 1), mine = this.run.when[i] <= at;
    const theirs = i < other.when.length && other.when[i] <= end;
    return this.run.when[i] >= 0 && (mine !== theirs || (mine && this.run.token[i] !== other.token[i]));
  }

  draw(i, n, state, role, seen, wrong) { // position i, in the n-th span, with what a rejected draft had there
    this.fill(i, n, state, role, seen);
    if (wrong === undefined) return;
    const draft = drafted(this.run, wrong);
    this.spans[n].append(make("span", "fd-rejected", draft));
    this.spans[n].title += `; a rejected draft had ${draft} here`;
  }

  fill(i, n, state, role, seen) {
    const { run } = this, span = this.spans[n];
    this.state[n] = state;
    span.className = `fd-token fd-${state.split("|")[0]}`;
    span.style.background = span.style.color = "";
    const sure = run.confidence[i], where = `position ${i}`;
    if (role === "masked") {
      span.textContent = seen >= 0 ? `\u00b7${seen}` : "\u00b7";
      span.title = `${where}: masked` + (seen >= 0 ? `, looked at with confidence ${(seen / 100).toFixed(2)}` : "");
      return;
    }
    span.textContent = role === "stop" ? `\u25a0${piece(run, run.token[i])}` : piece(run, run.token[i]);
    const how = Number.isNaN(sure) ? "" : `, confidence ${sure.toFixed(4)}`;
    span.title = `${where}: ${role}, token ${run.token[i]}${how}` + (run.when[i] < 0 ? "" : `, forward ${run.when[i] + 1}`);
    if (!Number.isNaN(sure)) paint(span, sure);
  }
}

function mark(context, code, x, y, w, h, colours) { // colour and sign of one decision
  if (code === 0 || code === 4) {
    context.globalAlpha = 0.13;
    context.fillStyle = colours.ink;
    context.fillRect(x, y, w, h);
    context.globalAlpha = 1;
  } else {
    context.fillStyle = INK[code];
    context.fillRect(x, y, w, h);
  }
  context.strokeStyle = code === 4 ? colours.ink : "#000";
  context.lineWidth = 1;
  if (w < 4 || code < 2) return;
  context.beginPath();
  if (code !== 4) { context.moveTo(x + 1, y + h - 1); context.lineTo(x + w - 1, y + 1); }
  if (code === 3) { context.moveTo(x + 1, y + 1); context.lineTo(x + w - 1, y + h - 1); }
  if (code === 4 || code === 5) { context.moveTo(x + 1, y + h / 2); context.lineTo(x + w - 1, y + h / 2); }
  context.stroke();
}

class MapPane {
  constructor(run, select) {
    this.run = run;
    this.node = make("canvas", "fd-map");
    this.node.setAttribute("role", "img");
    this.node.setAttribute("aria-label", `decisions of ${run.layers} layers in ${run.forwards} forwards`);
    this.row = 10;
    this.left = 42;
    this.top = run.drafted ? 28 : 18; // room for a + under the letter of an accepted draft
    this.bottom = this.top + run.layers * this.row;
    this.height = this.bottom + 30; // numbers and name of the axis below
    this.node.style.height = `${this.height}px`;
    this.node.addEventListener("click", (event) => {
      const box = this.node.getBoundingClientRect();
      const step = this.first + Math.floor((event.clientX - box.left - this.left) / this.column);
      const layer = Math.floor((event.clientY - box.top - this.top) / this.row);
      if (step < this.first || step >= run.forwards) return;
      select(step, layer >= 0 && layer < run.layers ? layer : null);
    });
  }

  update(step, layer) {
    const { run, row, left, top } = this, width = this.node.clientWidth || 420, ratio = window.devicePixelRatio || 1;
    const style = getComputedStyle(this.node), pick = (name) => style.getPropertyValue(name).trim() || "#888";
    const colours = { ink: pick("--fd-ink"), faint: pick("--fd-faint"), line: pick("--fd-line"), focus: pick("--fd-focus") };
    const at = Math.min(step, run.forwards - 1);
    this.column = Math.max(9, Math.min(16, Math.floor((width - left) / Math.max(1, run.forwards))));
    const fits = Math.max(1, Math.floor((width - left) / this.column));
    this.first = Math.max(0, Math.min(at - Math.floor(fits / 2), run.forwards - fits));
    this.node.width = width * ratio;
    this.node.height = this.height * ratio;
    const context = this.node.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "10px sans-serif";
    context.textAlign = "center";
    const w = this.column - 1, last = Math.min(run.forwards, this.first + fits);
    for (let f = this.first; f < last; f++) {
      const x = left + (f - this.first) * this.column;
      context.font = f === at ? "bold 11px sans-serif" : "10px sans-serif";
      context.fillStyle = colours.ink;
      context.fillText(KIND[run.kinds[f]] ?? "?", x + w / 2, 12);
      if (run.draft[f] > 0) context.fillText("+", x + w / 2, 23);
      for (let l = 0; l < run.layers; l++)
        mark(context, run.decisions[f * run.layers + l], x, top + l * row, w, row - 1, colours);
      if (run.block_step[f] === 0) { context.fillStyle = colours.ink; context.fillRect(x - 1, 2, 1, this.bottom); }
      if ((f + 1) % 5 === 0 || f === 0) { context.fillStyle = colours.ink; context.font = "10px sans-serif"; context.fillText(String(f + 1), x + w / 2, this.bottom + 11); }
    }
    context.textAlign = "right";
    context.font = "10px sans-serif";
    context.fillStyle = colours.ink;
    for (let l = 0; l < run.layers; l += 4) context.fillText(String(l), left - 5, top + l * row + 8);
    context.textAlign = "left";
    context.fillText("forward, counted from 1", left, this.bottom + 25);
    context.save();
    context.translate(10, top + (run.layers * row) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("layer", 0, 0);
    context.restore();
    context.strokeStyle = colours.focus;
    context.lineWidth = 2;
    const x = left + (at - this.first) * this.column;
    context.strokeRect(x - 1.5, 1, w + 3, this.bottom + 1);
    context.lineWidth = 3;
    context.strokeRect(x - 1.5, top + layer * row - 1.5, w + 3, row + 2);
  }
}

function facts(run, step, layer) { // what there is to say of the selected forward and cell
  const at = Math.min(step, run.forwards - 1), rows = [], cell = at * run.layers + layer;
  const n = run.nfe_kinds.length, nfe = run.nfe_kinds.map((kind, i) => `${kind} ${run.nfe[at * n + i]}`).join(", ");
  const place = run.small_block[at] < 0 ? "" : `, small block ${run.small_block[at]}, step ${run.block_step[at]}`;
  const block = run.block ? `, block ${run.start[at] / run.block}` : "";
  rows.push(["forward", `${at + 1} of ${run.forwards}: ${run.kinds[at]}${block}${place}` + (step > at ? " (ended)" : "")]);
  rows.push(["NFE so far", nfe]);
  const fresh = [];
  for (let i = 0; i < run.when.length; i++) if (run.when[i] === at && run.role[i] > 0) fresh.push(i);
  rows.push(["appears", fresh.map((i) => `\u201c${piece(run, run.token[i])}\u201d` + (Number.isNaN(run.confidence[i])
    ? " (carried over)" : ` ${run.confidence[i].toFixed(3)}`)).join(", ") || "nothing"]);
  if (run.drafted) {
    const wrong = [...(run.wrong.get(at) ?? [])].map(([i, token]) => `\u201c${drafted(run, token)}\u201d at ${i}`).join(", ");
    const own = run.draft[at] > 0 ? `draft ${run.draft[at]} accepted` : "not drafted";
    rows.push(["draft", own + (wrong ? `; the next one rejected: ${wrong}` : "")]);
  }
  const known = run.detail[cell] < 0 ? {} : Object.fromEntries(run.detail_columns.map((name, i) => [name, run.detail_rows[run.detail[cell]][i]]));
  const said = known.reason ? `: ${known.reason}` : "", sliced = known.slice_start != null, far = run.distance[cell];
  rows.push([`layer ${layer}`, DECISION[run.decisions[cell]] + said]);
  // Every line stands there for every cell, so that nothing moves while it plays.
  rows.push(["input, cache shape", known.input_shape ? `${known.input_shape}, ${known.cache_shape ?? "none served"}` : NONE]);
  rows.push(["served from", known.served_kind ? `${known.served_kind} forward ${known.served_forward + 1}, block ` +
    `${known.served_block}, small block ${known.served_small_block}, step ${known.served_step}` : NONE]);
  rows.push(["replace_position", known.replace_position != null ? String(known.replace_position) : NONE]);
  rows.push(["slice", sliced ? `${known.slice_start}:${known.slice_stop}` : NONE]);
  rows.push(["changed positions", sliced ? `${known.changed} of ${known.slice_stop - known.slice_start}` : NONE]);
  rows.push(["distance to fresh", !sliced ? NONE : Number.isNaN(far) ? "not measured" : far.toPrecision(3)]);
  return rows;
}
