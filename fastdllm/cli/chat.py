"""`fastdllm chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from fastdllm.cli import options

if TYPE_CHECKING:
    from fastdllm.ui.conversation import Conversation

EXAMPLES = ("Examples: [bold]fastdllm chat[/bold] · "
            "[bold]fastdllm chat --k 2 --layers middle --policy residual[/bold] · "
            "[bold]fastdllm chat --model Efficient-Large-Model/Fast_dLLM_v2_7B --threshold 0.8[/bold]")
HELP = ("[...]: speed, and NFE, the forwards of the network: prefill (prompt), full (whole block), small (part of it), "
        "commit (finished block)\n"
        "clear: forget the conversation; help: this text; exit: leave; Ctrl-C: stop the answer")
QUIET = 0.5     # seconds without text after which the forwards are counted on the screen


def chat(model: Annotated[str, typer.Option(help=options.MODEL)] = "tiny",
         threshold: Annotated[float, typer.Option(help="Confidence above which a token is unmasked.")] = 0.9,
         max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
         small_block: Annotated[int, typer.Option(help="Positions of a block that are unmasked at a time.")] = 8,
         temperature: Annotated[float, typer.Option(help="0: argmax.")] = 0.0,
         k: Annotated[int, typer.Option(help="Reuse on steps with step % k != 0; 1: no reuse.")] = 1,
         layers: Annotated[str, typer.Option(help="first, middle, last, 8-19, or 1,2,5.")] = "middle",
         policy: Annotated[str, typer.Option(help=options.POLICY)] = "output",
         revision: Annotated[str, typer.Option(help="Of the historical code: fixed, 26d6179 ...")] = "fixed",
         forget: Annotated[bool | None, options.flag("--forget/--remember", help="Each question stands alone (default "
                                                     "for tiny, which was trained on single questions).")] = None,
         device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
         dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto") -> None:
    """Chat: answers appear block by block; clear, exit, and Ctrl-C to stop an answer."""
    from fastdllm.lab.config import geometry
    from fastdllm.lab.config.parameters import Parameters, check_revision
    from fastdllm.lab.config.paths import policy_path
    wanted = geometry.fits(Parameters.of(
        model=model, threshold=threshold, max_new_tokens=max_new_tokens, small_block=small_block, k=k,
        layers=layers if k > 1 else None, temperature=temperature, policy=policy_path(policy), revision=revision,
        device=device, dtype=dtype))
    check_revision(revision)
    geometry.check_model(model)
    from fastdllm import load
    from fastdllm.ui.conversation import EMBEDDED, Conversation, ability
    lm = load(model, device=device, dtype=dtype)
    conversation = Conversation(lm, wanted.decoding, wanted.reuse, revision)
    alone = model == EMBEDDED if forget is None else forget
    earlier = "not seen (--remember keeps them)" if alone else "kept all the same"
    print(ability(lm.name) + (f"; earlier ones are {earlier}." if model == EMBEDDED else "."))
    print(f"{lm.name}, {lm.device}, {str(lm.dtype).removeprefix('torch.')}.\n{HELP}", flush=True)
    talk(conversation, alone)


def talk(conversation: Conversation, forget: bool) -> None:
    """Read lines until `exit` or the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):      # where it exists, arrow keys edit the line and bring back others
            import readline  # noqa: F401
    while True:
        try:
            if not turn(conversation, forget):
                return
        except KeyboardInterrupt:
            print("\n(exit leaves)", flush=True)


def turn(conversation: Conversation, forget: bool) -> bool:
    """Read a line and do what it says; False at the end."""
    typed = sys.stdin.isatty()
    try:
        line = input("> " if typed else "").strip()
    except EOFError:
        print()
        return False
    except UnicodeDecodeError as error:
        print(f"(the line is not {error.encoding.upper()}: {error.reason}; allowed: text in that encoding)", flush=True)
        return True
    if not line.isascii() and any("\ud800" <= sign <= "\udfff" for sign in line):     # how Python escapes such bytes
        print("(the line is not UTF-8; allowed: text in UTF-8)", flush=True)
        return True
    if not typed:
        print(f"> {line}", flush=True)      # a pipe shows nothing of what it says
    command = line.lower()
    if command == "clear":
        conversation.clear()
        print("(cleared)", flush=True)
    elif command == "help":
        print(HELP, flush=True)
    elif not line:
        print("(nothing asked; help: what can be typed here)", flush=True)
    elif command != "exit":
        answer(conversation, line, forget)
    return command != "exit"


def answer(conversation: Conversation, line: str, alone: bool) -> None:
    """Print an answer as its blocks commit; Ctrl-C ends it after the forward that runs."""
    from fastdllm.model.errors import DecodingError
    from fastdllm.ui.conversation import Streamed
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    stream, counter, progress = Streamed(), Counter(), None
    try:
        for progress in conversation.ask(line, lambda: bool(pressed), alone):
            counter.show(stream.new(progress.text), progress.forwards)
    except (ValueError, DecodingError) as error:
        print(f"({error})", flush=True)
        return
    finally:
        counter.erase()
        signal.signal(signal.SIGINT, before)
    if progress is not None:
        ending = conversation.ending()
        print(stream.new(progress.text, last=True) + (f" ({ending})" if ending else ""))
        print(f"[{progress.speed()}]", flush=True)


class Counter:
    """Prints text; where none comes for a while, a dim count of the forwards stands in its place. Only on a terminal:
    a file or a pipe gets the text alone."""

    def __init__(self) -> None:
        self.on = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.line = ""              # what stands on the cursor's line
        self.shown = False
        self.when = time.monotonic()

    def show(self, text: str, forwards: int) -> None:
        """Print the text; without one, count."""
        if text:
            self.erase()
            sys.stdout.write(text)
            self.line = (self.line + text).rpartition("\n")[2]
            self.when = time.monotonic()
        elif self.on and time.monotonic() - self.when > QUIET:
            # Under the text: behind it, the count could run over the edge of the window, and could not be taken back.
            sys.stdout.write("\r" if self.shown or not self.line else "\n")
            sys.stdout.write(f"\x1b[2m… forward {forwards}\x1b[0m")
            self.shown = True
        sys.stdout.flush()

    def erase(self) -> None:
        """Take the count off the screen; the cursor is where the text ended."""
        if self.shown:
            from rich.cells import cell_len
            column, width = 0, os.get_terminal_size(sys.stdout.fileno()).columns
            for sign in self.line:              # a wide one that does not fit stands on the next row
                column = cell_len(sign) if column + cell_len(sign) > width else column + cell_len(sign)
            # A line that fills the window to its edge goes on below it, where the count stood.
            up = f"\x1b[A\x1b[{column}C" if 0 < column < width else ""
            sys.stdout.write("\r\x1b[K" + up)
            self.shown = False
