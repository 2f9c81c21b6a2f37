// The stage: controls, panes, details, keyboard. Traits: runs, step, layer, playing, driver, rate, anchor.
// Forwards are counted from 1 where they are shown; the trait `step` and the trace count from 0.
const TALL = new Set(["appears", "served from", "draft"]); // values that have two lines

function legend() {
  const node = make("div", "fd-legend");
  for (const code of [1, 2, 3, 4, 5, 0]) {
    const item = make("span"), swatch = make("canvas");
    swatch.width = 14; swatch.height = 12;
    mark(swatch.getContext("2d"), code, 0, 0, 14, 12, { ink: "#777", faint: "#cfcfcf" });
    item.append(swatch, DECISION[code]);
    node.append(item);
  }
  const ramp = make("span");
  ramp.append("confidence 0", make("span", "fd-ramp"), "1");
  node.append(ramp);
  const signs = [["prompt", "text"], ["masked", "\u00b742"], ["carried", "over"], ["stop", "\u25a0end"], ["cut", "cut"], ["new", "new"], ["differs", "tok"]];
  const names = { masked: "masked (looked at: 42 %)", carried: "carried over", stop: "stop", cut: "behind the end", new: "appears now", prompt: "prompt",
    differs: "\u2260 and underlined: the other run has something else here" };
  for (const [role, text] of signs) {
    const item = make("span");
    item.append(make("span", `fd-token fd-${role}`, text), ` ${names[role]}`);
    node.append(item);
  }
  const rejected = make("span");
  rejected.append(make("span", "fd-rejected", "tok"), " what a rejected draft had here (policy verify)");
  node.append(rejected, make("span", "", "map: a column is a forward (P prefill, F full, S small, C commit, R replay; " +
    "+ from an accepted draft), a line a layer"));
  return node;
}

function render({ model, el }) {
  const root = make("div", "fd-player");
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  root.setAttribute("aria-label", "Denoising player. Arrow left and right: step. Up and down: layer. Space: play.");
  root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
  const bar = make("div", "fd-bar"), panes = make("div", "fd-panes"), details = make("div", "fd-details");
  const slider = make("input"), where = make("span", "fd-where"), speed = make("select"), said = make("div", "fd-said");
  slider.type = "range"; slider.min = 1; slider.setAttribute("aria-label", "forward");
  where.setAttribute("aria-live", "polite");
  speed.setAttribute("aria-label", "steps per second");
  for (const rate of [1, 4, 10, 25]) speed.append(new Option(`${rate}/s`, rate, rate === 4, rate === 4));
  const self = Math.random().toString(36).slice(2); // one view of several on a page keeps the time
  let runs = [], texts = [], maps = [], timer = null;

  const last = () => Math.max(0, ...runs.map((run) => run.forwards - 1));
  const select = (step, layer) => {
    model.set("step", Math.max(0, Math.min(last(), step)));
    if (layer !== null && layer !== undefined) model.set("layer", Math.max(0, Math.min(runs[0].layers - 1, layer)));
    model.save_changes();
  };
  const play = (on) => { model.set("driver", on ? self : ""); model.set("playing", on); model.save_changes(); };
  const move = (by) => { play(false); select(model.get("step") + by); };
  const difference = (first) => {
    if (runs.length !== 2) return;
    const [text, layers] = [firstDifference(...runs), firstDecision(...runs)], at = first === "text" ? text : layers;
    if (at >= 0) { play(false); select(at); }
    const found = (forward) => (forward < 0 ? "none" : `forward ${forward + 1}`);
    said.textContent = `First difference: in the text ${found(text)}, in the layers that run ${found(layers)}.`;
  };
  const button = (text, label, act) => {
    const node = make("button", "", text);
    node.title = label; node.setAttribute("aria-label", label); node.addEventListener("click", act);
    bar.append(node);
    return node;
  };
  button("|\u25c4", "first step (Home)", () => move(-1e9));
  button("\u25c4 step", "step back (arrow left)", () => move(-1));
  const toggle = button("\u25ba play", "play or pause (space)", () => play(!model.get("playing")));
  button("step \u25ba", "step on (arrow right)", () => move(1));
  button("\u25ba|", "last step (End)", () => move(1e9));
  bar.append(slider, where, speed);
  const differ = [button("first differing step", "first forward after which the texts differ (d)", () => difference("text")),
    button("first differing decision", "first forward at which other layers run (D)", () => difference("layers"))];
  slider.addEventListener("input", () => { play(false); select(Number(slider.value) - 1); });

  function update() {
    const started = performance.now(), step = model.get("step"), layer = model.get("layer");
    slider.max = last() + 1; slider.value = step + 1;
    where.textContent = `forward ${step + 1} of ${last() + 1}`;
    runs.forEach((run, i) => {
      if (!run.forwards) return;
      texts[i].update(step, runs.length === 2 ? runs[1 - i] : null);
      maps[i].update(step, layer);
      const table = make("table");
      for (const [name, value] of facts(run, step, layer)) {
        const line = make("tr"), cell = make("td"), text = make("div", `fd-value${TALL.has(name) ? " fd-tall" : ""}`, value);
        text.title = value;
        cell.append(text);
        line.append(make("td", "", name), cell);
        table.append(line);
      }
      details.children[i].replaceChildren(table);
    });
    root.dataset.stepMs = (performance.now() - started).toFixed(1);
  }

  function build() {
    const started = performance.now();
    runs = model.get("runs").map(unpack);
    root.hidden = !runs.length;
    texts = runs.map((run) => new TextPane(run));
    maps = runs.map((run) => new MapPane(run, (step, layer) => { root.focus(); play(false); select(step, layer); }));
    const shape = runs.length === 2 ? "fd-two" : "fd-one";
    panes.className = `fd-panes ${shape}`;
    details.className = `fd-details ${runs.length === 2 ? "fd-panes fd-two" : ""}`;
    panes.replaceChildren(...runs.map((run, i) => {
      const pane = make("div", "fd-pane"), head = make("div", "fd-head", `${run.title} `);
      const verdict = run.right === null ? "" : run.right ? "right" : "wrong", aim = run.target ? `, target ${run.target}` : "";
      head.append(make("small", "", `${run.forwards} forwards${run.finish ? `, ended by ${run.finish}` : ""}${aim}`));
      if (verdict) head.append(make("span", `fd-verdict fd-${verdict}`, verdict));
      pane.append(head, texts[i].node, maps[i].node);
      return pane;
    }));
    details.replaceChildren(...runs.map(() => make("div")));
    for (const node of [...differ, said]) node.style.display = runs.length === 2 ? "" : "none";
    said.textContent = "";
    update();
    root.dataset.buildMs = (performance.now() - started).toFixed(1);
  }

  function run() {
    toggle.textContent = model.get("playing") ? "|| pause" : "\u25ba play";
    speed.value = model.get("rate");
    clearInterval(timer);
    if (model.get("playing") && !model.get("driver")) play(true); // it was the kernel that said so
    if (!model.get("playing") || model.get("driver") !== self) return;
    if (model.get("step") >= last()) select(0);
    timer = setInterval(() => (model.get("step") >= last() ? play(false) : select(model.get("step") + 1)), 1000 / model.get("rate"));
  }
  speed.addEventListener("change", () => { model.set("rate", Number(speed.value)); model.save_changes(); });

  root.addEventListener("keydown", (event) => {
    if (event.target !== root && event.key === " ") return; // a focused button has its own space
    if (event.target.tagName === "SELECT") return;
    const block = runs[0]?.block || 32, layer = model.get("layer"), step = model.get("step");
    const act = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => select(step, layer - 1),
      ArrowDown: () => select(step, layer + 1), Home: () => move(-1e9), End: () => move(1e9), " ": () => play(!model.get("playing")),
      PageUp: () => move(-block), PageDown: () => move(block), d: () => difference("text"), D: () => difference("layers") }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();
    act();
  });

  root.append(bar, said, panes, details, legend());
  el.append(root);
  root.append(make("style", "", `#${model.get("anchor")} { display: none }`)); // the static figure, wherever it stands
  model.on("change:runs", build);
  model.on("change:step change:layer", update);
  model.on("change:playing change:rate", run);
  const redraw = () => runs.forEach((item, i) => { if (item.forwards) maps[i].update(model.get("step"), model.get("layer")); });
  const watch = new ResizeObserver(() => {
    runs.forEach((item, i) => { if (item.forwards) texts[i].reveal(); });
    redraw();
  });
  watch.observe(panes);
  // Maps are drawn in the colours of the page: once more when those change.
  const system = matchMedia("(prefers-color-scheme: dark)"), theme = new MutationObserver(redraw);
  system.addEventListener("change", redraw);
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  build();
  run();
  return () => { clearInterval(timer); watch.disconnect(); theme.disconnect(); system.removeEventListener("change", redraw); model.off("change:runs", build); model.off("change:step change:layer", update); model.off("change:playing change:rate", run); };
}
export default { render };
