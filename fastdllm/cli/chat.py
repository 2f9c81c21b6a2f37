"""`fastdllm chat`: a conversation in the terminal."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fastdllm.report.chat import Conversation

EXAMPLES = ("Examples: [bold]fastdllm chat[/bold] · "
            "[bold]fastdllm chat --k 2 --layers middle --policy residual[/bold] · "
            "[bold]fastdllm chat --model Efficient-Large-Model/Fast_dLLM_v2_7B --threshold 0.8[/bold]")
HELP = "clear: forget the conversation; exit: leave; Ctrl-C: stop the answer"


def chat(model: Annotated[str, typer.Option(help="tiny, a directory, or a hub id.")] = "tiny",
         threshold: Annotated[float, typer.Option(help="Confidence above which a token is unmasked.")] = 0.9,
         max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
         small_block: Annotated[int, typer.Option(help="Positions that are denoised together.")] = 8,
         temperature: Annotated[float, typer.Option(help="0: argmax.")] = 0.0,
         k: Annotated[int, typer.Option(help="Reuse on steps with step % k != 0; 1: no reuse.")] = 1,
         layers: Annotated[str, typer.Option(help="first, middle, last, 8-19, or 1,2,5.")] = "middle",
         policy: Annotated[str, typer.Option(help="output, residual, token, adaptive, replay, or a .py.")] = "output",
         revision: Annotated[str, typer.Option(help="Of the historical code: fixed, 26d6179 ...")] = "fixed",
         forget: Annotated[bool | None, typer.Option("--forget/--remember", help="Each question stands alone (default "
                                                     "for tiny, which was trained on single questions).")] = None,
         device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
         dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto") -> None:
    """Chat: answers appear block by block; clear, exit, and Ctrl-C to stop an answer."""
    from fastdllm.decode.revisions import get
    from fastdllm.lab import geometry
    from fastdllm.lab.parameters import Parameters, policy_path
    wanted = geometry.fits(Parameters.of(
        model=model, threshold=threshold, max_new_tokens=max_new_tokens, small_block=small_block, k=k,
        layers=layers if k > 1 else None, temperature=temperature, policy=policy_path(policy), revision=revision,
        device=device, dtype=dtype))
    get(revision)
    from fastdllm import load
    from fastdllm.report.chat import ABOUT, EMBEDDED, Conversation
    lm = load(model, device=device, dtype=dtype)
    conversation = Conversation(lm, wanted.decoding, wanted.reuse, revision)
    alone = model == EMBEDDED if forget is None else forget
    print(f"{lm.name}, {lm.device}, {str(lm.dtype).removeprefix('torch.')}. {HELP}", flush=True)
    if model == EMBEDDED:
        earlier = "not seen (--remember keeps them)" if alone else "kept all the same"
        print(f"{ABOUT}; earlier ones are {earlier}.", flush=True)
    talk(conversation, alone)


def talk(conversation: Conversation, forget: bool) -> None:
    """Read lines until `exit` or the end of the input."""
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
    if not typed:
        print(f"> {line}", flush=True)      # a pipe shows nothing of what it says
    if line == "clear":
        conversation.clear()
        print("(cleared)", flush=True)
    elif line == "help":
        print(HELP, flush=True)
    elif not line:
        print("(nothing asked; help: what can be typed here)", flush=True)
    elif line != "exit":
        if forget:
            conversation.clear()
        answer(conversation, line)
    return line != "exit"


def answer(conversation: Conversation, line: str) -> None:
    """Print an answer as its blocks commit; Ctrl-C ends it after the forward that runs."""
    from fastdllm.report.chat import Streamed
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    stream, progress = Streamed(), None
    try:
        for progress in conversation.ask(line, lambda: bool(pressed)):
            sys.stdout.write(stream.new(progress.text))
            sys.stdout.flush()
    except ValueError as error:
        print(f"({error})", flush=True)
        return
    finally:
        signal.signal(signal.SIGINT, before)
    if progress is not None:
        ending = conversation.ending()
        print(stream.new(progress.text, last=True) + (f" ({ending})" if ending else ""))
        print(f"[{progress.speed()}]", flush=True)
