"""README's two drawn pictures: python -m tools.pictures

`reuse.svg` explains block, small block, step and what a reused layer returns; `denoising.svg` plays a real run of the
embedded checkpoint, token by token, above what each layer did. Plain SVG, no script; where motion is not wanted, the
second one stands still at its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

import fastdllm
from fastdllm import Decoding, Reuse, tasks
from fastdllm.display.figures import BLUE, DECISIONS, GREY, ORANGE, SKY
from fastdllm.lab import atomic
from fastdllm.lab.config.paths import root
from fastdllm.ui import recording
from fastdllm.ui.recording import CODES, ROLES, Recording

EXPLAINED, PLAYED = "docs/images/reuse.svg", "docs/images/denoising.svg"
PROBLEM = 2                  # of the task arithmetic: right without reuse, wrong with it
REUSE = Reuse(k=2, layers="middle")
SECOND = 0.45                # seconds a forward stands
REST = 3.0                   # seconds the end stands
CELL, LINE, ROW = 26, 30, 5   # width of a position, height of a line of 32, height of a layer
KINDS = {"prefill": "prefill: the prompt enters the cache", "full": "full forward: all 32 positions of the block",
         "small": "small forward: 8 positions, the rest from the cache", "commit": "commit: the finished block is kept",
         "replay": "replay"}


def text(x: float, y: float, words: str, size: float = 12, color: str = "#222", **more: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}"{extra}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "#999", more: str = "") -> str:
    return (f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="0.8" {more}/>')


def page(width: float, height: float, title: str, body: str, style: str = "") -> str:
    """An SVG on a white card, for pages of any colour."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'font-family="system-ui, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif" role="img">\n<title>'
            f"{escape(title)}</title>\n<style>{style}</style>\n"
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="white"/>\n{body}\n</svg>\n')


def explained() -> str:
    """A block with its small blocks over three steps, and the layers of a computed and of a reused step."""
    parts = [text(24, 30, "A block: 32 positions, denoised in 4 small blocks of 8", 14, font_weight="bold")]
    steps = (("step 0, full forward", range(32), {2: "9"}),
             ("step 1, small forward", range(8), {3: "*", 4: "7", 5: "4"}),
             ("step 2, small forward", range(8), {0: "Sun", 1: "day:"}))
    known: dict[int, str] = {}
    for number, (name, computed, fresh) in enumerate(steps):
        y = 48 + 44 * number
        parts.append(text(24, y + 15, name))
        for position in range(32):
            x = 170 + 22 * position + 6 * (position // 8)
            word = fresh.get(position) or known.get(position, "")
            idle = "#e3eff8" if position in computed else "white"
            fill = ORANGE if position in fresh else "#d9d9d9" if word else idle
            small = 8.5 if len(word) > 1 else 11
            parts += [box(x, y, 21, 21, fill), text(x + 10.5, y + 14.5, word, small, text_anchor="middle")]
        known |= fresh
    parts.append(text(170, 188, "Orange: unmasked in this step, where the confidence is above the threshold. Pale "
                                "blue: computed. White: masked, not computed.", 11, GREY))
    parts.append(text(24, 228, "Layer reuse with k = 2: on every second step, 12 of the 28 layers do not run",
                      14, font_weight="bold"))
    columns = ((170, "step 0: computed", False), (400, "step 1: reused", True))
    for x, name, reused in columns:
        parts.append(text(x, 252, name))
        for low, high, label in ((20, 27, "layers 20 to 27"), (8, 19, "layers 8 to 19"), (0, 7, "layers 0 to 7")):
            y, height = 264 + 5 * (27 - high), 5 * (high - low + 1)
            stored = reused and low == 8
            parts += [box(x, y, 150, height, ORANGE if stored else BLUE),
                      text(x + 75, y + height / 2 + 4, "return what they returned" if stored else label, 11,
                           "#222" if stored else "white", text_anchor="middle")]
        parts.append(text(x + 75, 418, "the block as it is now", 11, GREY, text_anchor="middle"))
    parts += [f'<path d="M320 334 H 392" stroke="{ORANGE}" stroke-width="2"/>',
              f'<path d="M390 329 L400 334 L390 339 z" fill="{ORANGE}"/>']
    parts.append(text(360, 326, "stored", 10, GREY, text_anchor="middle"))
    for i, words in enumerate((
            "The reused layers do not look at their input:", "what layers 0 to 7 made of the new tokens",
            "is lost, and layers 20 to 27 see what they", "saw before. The step samples the old",
            "predictions once more, whichever 12 layers", "in a row are reused. So the whole forward can",
            "be left out: the policy replay, same tokens.")):
        parts.append(text(585, 282 + 19 * i, words, 12.5))
    return page(930, 440, "Block, small block, step, and what a reused layer returns", "\n".join(parts))


def run() -> tuple[Recording, bool]:
    """The run that is played, and whether its answer is right."""
    lm, task = fastdllm.load("tiny"), tasks.get("arithmetic")
    problem = task.problems(limit=PROBLEM + 1)[PROBLEM]
    made = recording.judged(recording.record(lm, problem.prompt, decoding=Decoding(threshold=0.9, max_new_tokens=96),
                                             reuse=REUSE, distance=False), task, problem)
    return made, bool(made.meta["right"])


def played(made: Recording, right: bool) -> str:
    """The answer's positions in lines of a block, each with its token from its forward on, above the decision map."""
    steps, size, left, top = made.steps, made.meta["block"], 30, 66
    first = len(made.prompt) // size * size
    ended = len(made.prompt) + len(made.result["tokens"])
    lines = -(-(ended - first) // size)
    width, under = 2 * left + CELL * size, top + LINE * lines + 50
    height = under + ROW * made.meta["layers"] + 46
    total = SECOND * len(steps) + REST
    column = min(24.0, (width - 2 * left - 50) / len(steps))
    parts = [text(left, 28, f"A real run: k = {REUSE.k}, {REUSE.layers} layers reused, target {made.meta['target']}, "
                            f"the answer comes out {'right' if right else 'wrong'}", 14, font_weight="bold"),
             *positions(made, first, ended, left, top), *layers(made, left + 50, under, column)]
    for forward, kind in enumerate(steps["kind"]):
        parts.append(text(left, 50, f"forward {forward + 1} of {len(steps)}: {KINDS[kind]}", 12, GREY, **{
            "class": f"w w{forward}"}))
    parts.append(box(left + 50, under - 4, column, ROW * made.meta["layers"] + 8, "none", "#D55E00",
                     'class="cursor" style="stroke-width:2"'))
    return page(width, height, "Tokens of an answer appear step by step; below, what each layer did",
                "\n".join(parts), motion(len(steps), total, column))


def motion(forwards: int, total: float, column: float) -> str:
    """CSS: class tN shows from forward N on, wN during forward N, the cursor walks; one clock, over and over."""
    share = [100 * SECOND * forward / total for forward in range(forwards + 1)]
    css = [f".t,.w,.cursor{{animation:{total:g}s infinite step-end}}"]
    for forward in range(forwards):
        begin, end = share[forward], share[forward + 1] if forward < forwards - 1 else 100
        css.append(f"@keyframes t{forward}{{0%{{opacity:0}}{begin:.2f}%,100%{{opacity:1}}}}"
                   f".t{forward}{{animation-name:t{forward}}}")
        css.append(f"@keyframes w{forward}{{0%{{opacity:0}}{begin:.2f}%{{opacity:1}}"
                   f"{end:.2f}%{{opacity:{int(end == 100)}}}}}"
                   f".w{forward}{{animation-name:w{forward};opacity:{int(forward == forwards - 1)}}}")
    css.append("@keyframes cursor{" + "".join(f"{share[forward]:.2f}%{{transform:translateX({column * forward:.1f}px)}}"
                                              for forward in range(forwards))
               + f"100%{{transform:translateX({column * (forwards - 1):.1f}px)}}}}.cursor{{animation-name:cursor}}")
    css.append(f"@media (prefers-reduced-motion:reduce){{.t,.w,.cursor{{animation:none}}"
               f".cursor{{transform:translateX({column * (forwards - 1):.1f}px)}}}}")
    return "".join(css)


def positions(made: Recording, first: int, ended: int, left: float, top: float) -> Iterator[str]:
    """Masked cells, and over each its token: grey the prompt, orange sure, blue carried over."""
    size, place = made.meta["block"], made.positions
    for position in range(first, first + -(-(ended - first) // size) * size):
        line, column = divmod(position - first, size)
        x, y = left + CELL * column, top + LINE * line
        yield box(x, y, CELL - 2, LINE - 6, "white", "#bbb", 'stroke-dasharray="2 2"')
        if position >= min(ended, len(place.token)):
            continue
        word = made.meta["pieces"].get(str(place.token[position]), "").replace("\n", "¶").replace(" ", "·")
        word = "end" if word.startswith("<|") else word[:5]
        role, sure = ROLES[place.role[position]], place.confidence[position]
        fill = "#e2e2e2" if role == "prompt" else SKY if np.isnan(sure) else "#fbd58a" if sure > 0.9 else "#f7efe0"
        shown = "" if role == "prompt" else f' class="t t{max(0, int(place.when[position]))}"'
        yield (f"<g{shown}>{box(x, y, CELL - 2, LINE - 6, fill)}"
               f'{text(x + CELL / 2 - 1, y + 16, word, 11 if len(word) < 4 else 8, text_anchor="middle")}</g>')


def layers(made: Recording, left: float, top: float, column: float) -> Iterator[str]:
    """The decision map: a column a forward, a line a layer, with its key below."""
    count = made.meta["layers"]
    yield text(left - 8, top + 10, "layer 0", 10, GREY, text_anchor="end")
    yield text(left - 8, top + ROW * count, f"{count - 1}", 10, GREY, text_anchor="end")
    for forward, codes in enumerate(made.decisions):
        start = 0
        for layer in range(1, count + 1):
            if layer == count or codes[layer] != codes[start]:
                yield (f'<rect x="{left + column * forward:.1f}" y="{top + ROW * start}" width="{column - 1:.1f}" '
                       f'height="{ROW * (layer - start)}" fill="{DECISIONS[CODES[codes[start]]]}"/>')
                start = layer
    at = left
    for name, said in (("", "runs"), ("recompute", "runs, output stored"), ("reuse", "does not run: stored output"),
                       ("bypass", "runs, nothing stored")):
        yield box(at, top + ROW * count + 16, 12, 12, DECISIONS[name])
        yield text(at + 17, top + ROW * count + 26, said, 11, GREY)
        at += 34 + 6.4 * len(said)


def main() -> None:
    """Write both pictures."""
    atomic.write(root() / EXPLAINED, explained())
    atomic.write(root() / PLAYED, played(*run()))


if __name__ == "__main__":
    main()
