"""Chat: the conversation, what streams, the prefix that is kept, and the terminal program in a real terminal."""

import html
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest
from browser import free_port

import fastdllm
from fastdllm import Decoding
from fastdllm.ui import chat_page
from fastdllm.ui.chat_page import ChatPage
from fastdllm.ui.conversation import Conversation, Streamed, ability

QUESTION = "Tom has 3 apples. He buys 4 more and gives 2 away. How many apples does Tom have?"
ROOT = Path(__file__).parent.parent


def ask(chat, text=QUESTION):
    return list(chat.ask(text))


def test_first_answer_is_generate_s(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=64))
    steps = ask(chat)
    out = fastdllm.generate(tiny, [QUESTION], decoding=Decoding(max_new_tokens=64))
    assert steps[-1].text == out.texts[0]
    assert steps[-1].nfe == out.nfe[0]
    assert out.tokens[0][-1] in tiny.stop_ids and steps[-1].tokens == len(out.tokens[0]) - 1      # a stop is not shown
    assert chat.ending() == ""
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_blocks_stream_as_they_commit(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=96, stop_ids=()))
    before = ""
    for progress in chat.ask(QUESTION):
        if progress.text != before:
            assert progress.step.kind == "commit" or chat.result is not None
            before = progress.text
    assert chat.result.finish == "length" and before == chat.result.text


def test_second_turn_uses_the_prefix_and_gives_the_same_tokens(tiny):
    """The kept prefix changes what is computed, not what is answered."""
    decoding = Decoding(max_new_tokens=48)
    chat = Conversation(tiny, decoding)
    ask(chat)
    before = [*chat.ids, *chat.result.tokens]
    steps = ask(chat, "And how many if he eats one?")
    assert steps[-1].kept >= 32 and steps[-1].kept % 32 == 0
    assert chat.ids[:steps[-1].kept] == before[:steps[-1].kept]
    out = fastdllm.generate(tiny, [chat.ids], decoding=decoding)
    assert out.tokens[0] == chat.result.tokens
    assert tiny.decode(chat.ids).count("And how many if he eats one?") == 1


def test_any_stop_token_ends_an_answer_and_the_template_s_own_is_what_it_writes(tiny):
    """A checkpoint with several: their order is no matter, and one that ended an answer is not followed by another."""
    questions, decoding = (QUESTION, "And how many if he eats one?"), Decoding(max_new_tokens=48)

    def ids_of_both_turns(stop_ids):
        chat = Conversation(replace(tiny, stop_ids=stop_ids), decoding)
        answers = [(list(chat.ask(text)), chat.ids, chat.result.tokens)[1:] for text in questions]
        assert answers[1][0][:len(answers[0][0])] == answers[0][0], "the first turn stands in the second as it was"
        return answers

    [stop], other = tiny.stop_ids, tiny.mask_id
    assert ids_of_both_turns((other, stop)) == ids_of_both_turns((stop, other)) == ids_of_both_turns((stop,))
    (first, written), _ = ids_of_both_turns((stop,))
    early = written[5]
    (_, cut), (second, _) = ids_of_both_turns((early, stop))
    assert cut[-1] == early and second[len(first) + len(cut)] != stop


def test_tokens_are_those_of_the_text(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=96, stop_ids=()))       # padding stands behind the answer
    last = ask(chat)[-1]
    assert last.tokens == len(tiny.tokenizer.encode(last.text, add_special_tokens=False)) < len(chat.result.tokens)
    assert last.special == len(chat.result.tokens) - last.tokens > 1
    assert last.speed().startswith(f"{last.tokens} tokens and {last.special} special (no text), ")
    assert chat.ending() == "cut off: max_new_tokens=96 is reached"
    stopped = list(chat.ask(QUESTION, lambda: len(chat.steps) >= 3))
    assert stopped[-1].text == "" and stopped[-1].tokens == 0 and chat.ending() == "stopped"


def test_stopping_an_answer_keeps_the_conversation_usable(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=96, stop_ids=()))
    seen = list(chat.ask(QUESTION, lambda: len(chat.steps) >= 4))
    assert len(seen) == 4 and chat.result is None
    assert chat.messages[-1]["role"] == "assistant"
    chat.decoding = Decoding(max_new_tokens=32)
    assert ask(chat)[-1].tokens > 0
    chat.clear()
    assert ask(chat)[-1].text == fastdllm.generate(tiny, [QUESTION], decoding=Decoding(max_new_tokens=32)).texts[0]


def test_dropped_generator_frees_the_slot(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=64))
    answer = chat.ask(QUESTION)
    next(answer)
    answer.close()
    assert ask(chat)[-1].tokens > 0


def test_bad_messages_are_refused_and_forgotten(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=32))
    with pytest.raises(ValueError, match="message: empty"):
        ask(chat, "  ")
    with pytest.raises(ValueError, match="max_position_embeddings=2048"):
        ask(chat, "apples " * 3000)
    assert chat.messages == []
    ask(chat)
    said = list(chat.messages)
    for text in (" ", "apples " * 3000):
        with pytest.raises(ValueError):
            chat.ask(text, alone=True)
        assert chat.messages == said and chat.earlier == [] and chat.result is not None, "refused: nothing forgotten"
    with pytest.raises(ValueError, match="no tokenizer files"):
        Conversation(fastdllm.load(ROOT / "tests" / "golden"), Decoding(mask_id=511))


def test_a_question_alone_is_the_first_one_for_the_model(tiny):
    chat = Conversation(tiny, Decoding(max_new_tokens=32))
    ask(chat, "Zoe has 75 stamps.")
    answer = list(chat.ask(QUESTION, alone=True))[-1]
    assert answer.text == fastdllm.generate(tiny, [QUESTION], decoding=Decoding(max_new_tokens=32)).texts[0]
    assert chat.earlier[0]["content"] == "Zoe has 75 stamps." and len(chat.messages) == 2
    assert "75 stamps" not in tiny.decode(chat.ids)
    chat.clear()
    assert chat.earlier == chat.messages == chat.steps == []


def test_half_a_character_waits():
    stream = Streamed()
    assert stream.new("caf\ufffd") == "caf"
    assert stream.new("caf\u00e9 au") == "\u00e9 au"
    assert stream.new("caf\u00e9 au\ufffd", last=True) == "\ufffd"


def test_notebook_room_answers_and_shows(tiny):
    room = ChatPage(tiny, max_new_tokens=48, k=2)
    room.message.submit(QUESTION)
    room.wait(120)
    said = room.conversation.messages[-1]["content"]
    assert "####" in said and said.split()[-1] in room.talk.value and QUESTION in room.talk.value
    assert "tokens/s, NFE" in room.status.node.value and "tokens per forward" in room.status.node.value
    run = room.player.shown[0]
    assert run.result["text"] == said
    assert (run.trace["decision"] == "reuse").sum() == run.result["decisions"]["reuse"]
    room.clear()
    assert "Nothing said yet" in room.talk.value and room.player.runs == [] and room.player.shown == ()
    room.message.submit(" ")
    room.wait(10)
    assert "message: empty" in room.status.node.value


def test_notebook_room_keeps_on_the_page_what_the_model_forgets(tiny):
    room = ChatPage(tiny, max_new_tokens=32)
    room.alone.value = True
    for text in ("Zoe has 75 stamps.", QUESTION):
        room.message.submit(text)
        room.wait(120)
    above, divider, below = room.talk.value.partition("not seen by the model")
    assert divider and "75 stamps" in above and QUESTION not in above and QUESTION in below
    seen = list(room.conversation.messages)
    room.message.submit("  ")
    room.wait(10)
    assert room.conversation.messages == seen and room.talk.value == above + divider + below
    room.alone.value = False
    room.message.submit("And one more?")
    room.wait(120)
    assert [message["content"] for message in room.conversation.messages if message["role"] == "user"] \
        == [QUESTION, "And one more?"]


def test_notebook_room_takes_a_message_or_leaves_it(tiny):
    """`taken` is what empties the field: only what is answered does."""
    room = ChatPage(tiny, max_new_tokens=32, k=2)
    room.controls.layers.value = "outer"
    room.message.submit(QUESTION)
    room.wait(10)
    assert room.message.taken == 0 and "layers=&#x27;outer&#x27;" in room.status.node.value
    assert "Nothing said" in room.talk.value
    room.controls.layers.value = "middle"
    room.message.submit("apples " * 3000)
    room.wait(10)
    assert room.message.taken == 0 and "max_position_embeddings" in room.status.node.value
    room.message.submit(QUESTION)
    room.message.submit("too early")
    assert room.empty.disabled and "stop it first" in room.status.node.value
    room.wait(120)
    assert room.message.taken == 3 and "too early" not in room.talk.value and not room.empty.disabled


def test_live_pictures_leave_the_reader_where_they_are(tiny, monkeypatch):
    """A new answer opens at its last forward; who then goes back is not pulled on."""
    monkeypatch.setattr(chat_page, "REFRESH", 0.02)      # the small model is quick
    room = ChatPage(tiny, max_new_tokens=96, threshold=1.0)
    steps = []

    def read(_):
        steps.append(room.player.step)
        if len(steps) == 2:
            room.player.step = 0
    room.player.observe(read, "step")
    room.message.submit(QUESTION)
    room.wait(120)
    assert 0 < steps[0] < steps[1] < len(room.player.shown[0].steps) - 1 and steps[2:] == [0]


def terminal(*words, python=(sys.executable,), size=(40, 200)):
    """What `python WORDS` does in a terminal of this size."""
    return pexpect.spawn(python[0], [*python[1:], *words], cwd=str(ROOT), encoding="utf-8", timeout=90,
                         dimensions=size)


def chat_in_terminal(programs, *options):
    return terminal("-m", "fastdllm", "chat", *options, python=programs.python)


def test_terminal_session():
    """Answer, Ctrl-C in an answer, Ctrl-C at the prompt, clear, exit; one process, as a person would use it."""
    chat = terminal("-m", "fastdllm", "chat", "--max-new-tokens", "512", "--remember")
    chat.expect("generated arithmetic word problems.*nothing else.*single questions; earlier ones are kept")
    chat.expect("> ")
    chat.sendline("")
    chat.expect("nothing asked")
    chat.expect("> ")
    chat.sendline(QUESTION)
    chat.expect("#### 5")
    chat.expect(r"\[\d+ tokens, [\d.]+ tokens/s, NFE \d+ \(.*\), [\d.]+ tokens per forward\]")
    chat.expect("> ")
    chat.sendline("Tell me everything about stones, apples, coins, boxes and bags.")
    chat.expect("\r\n")
    chat.sendintr()
    chat.expect(r"\(stopped\)|tokens per forward|\(exit leaves\)")      # the last: before the answer had begun
    chat.expect("> ")
    chat.sendintr()
    chat.expect(r"\(exit leaves\)")
    chat.expect("> ")
    chat.sendline("clear")
    chat.expect(r"\(cleared\)")
    chat.sendline("exit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_terminal_edits_the_line_and_takes_commands_in_any_case(programs):
    chat = chat_in_terminal(programs, "--max-new-tokens", "4")
    chat.expect(r"NFE, the forwards of the network: prefill \(.*full \(.*small \(.*commit \(")
    chat.expect("> ")
    chat.send("hep\x1b[Dl\r")                   # arrow left, then the letter that was missing
    chat.expect(r"NFE, the forwards.*clear: forget the conversation")
    for line, reply in (("CLEAR", r"\(cleared\)"), (" \t ", "nothing asked; help"), ("Exit", pexpect.EOF)):
        chat.sendline(line)
        chat.expect(reply)
    chat.close()
    assert chat.exitstatus == 0


COUNTS = """
import sys
from fastdllm.cli import chat, main
chat.QUIET = 0
sys.argv[1:] = ["chat", "--threshold", "1", "--max-new-tokens", "96"]
main()
"""
TEXTS = """
import sys
from fastdllm.cli import chat
chat.QUIET = -1
for text in ("one", " two\\n", "x" * 40, "y" * 37, "\u732b\u732b!", ""):
    counter.show(text, 7) if text else None
    counter.show("", 8)
    counter.show("", 123)
counter.erase()
print("END")
""".replace("for text", "counter = chat.Counter()\nfor text")


def screen(output, width):
    """What a terminal shows: the few signs that are used here, and lines that go on below at the edge."""
    rows, at, column = [[]], 0, 0
    for sign, number, letter in re.findall(r"(\x1b\[(\d*)([A-Za-z])|[^\x1b])", output):
        if letter == "K":
            del rows[at][column:]
        elif letter in ("A", "C"):
            at, column = (at - 1, column) if letter == "A" else (at, column + int(number))
        elif sign == "\r":
            column = 0
        elif sign == "\n":
            at += 1
        elif not letter:
            cells = [sign, ""] if sign > "\u2fff" else [sign]       # a wide sign takes two cells
            if column + len(cells) > width:
                at, column = at + 1, 0
            rows.extend([] for _ in range(at + 1 - len(rows)))
            rows[at][column:column + len(cells)] = cells
            column += len(cells)
        rows.extend([] for _ in range(at + 1 - len(rows)))
    return ["".join(row) for row in rows]


def test_terminal_counts_the_forwards_where_no_text_comes(programs):
    chat = terminal("-c", COUNTS, python=programs.python)
    chat.expect("> ")
    chat.sendline(QUESTION)
    chat.expect(r"\r\x1b\[2m… forward [1-9]\d*")
    chat.expect(r"tokens per forward\]")
    shown = "\n".join(screen(chat.before, 200))
    assert "… " not in shown and "####" in shown, shown
    chat.sendline("exit")
    chat.expect(pexpect.EOF)
    chat.close()


def test_the_count_is_taken_back_without_a_trace(programs):
    """At the beginning, in mid-line, under a line that fills the window, behind wide letters."""
    chat = terminal("-c", TEXTS, python=programs.python, size=(20, 40))
    chat.expect(pexpect.EOF)
    chat.close()
    assert "… forward 123" in chat.before
    assert [row.rstrip() for row in screen(chat.before, 40) if row] == [
        "one two", "x" * 40, "y" * 37 + "\u732b", "\u732b!END"]
    piped = programs.script(TEXTS, ROOT)
    assert piped.stdout == "one two\n" + "x" * 40 + "y" * 37 + "\u732b\u732b!END\n"


def test_a_piped_question_is_shown_and_no_prompt(programs):
    """What a pipe says is nowhere else on the page."""
    done = programs.fastdllm("chat", "--max-new-tokens", "4", cwd=ROOT, typed=b"What is 2+3?\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "> What is 2+3?" in lines and "> " not in lines and "cut off: max_new_tokens=4" in done.stdout
    assert "\x1b" not in done.stdout


def test_terminal_says_where_an_answer_was_cut(programs):
    chat = chat_in_terminal(programs, "--max-new-tokens", "12")
    chat.expect("earlier ones are not seen")
    chat.expect("> ")
    chat.sendline(QUESTION)
    chat.expect(r"\(cut off: max_new_tokens=12 is reached\)")
    chat.expect(r"\[12 tokens, ")
    chat.expect("> ")       # who reads no line yet gets no end of it
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()


@pytest.mark.parametrize(("options", "says"), [
    (["--layers", "outer", "--k", "2"], "layers='outer'; allowed: first, middle"),
    (["--layers", "3-40", "--k", "2"], "layers='3-40'; allowed: layer indices from 0 to 27"),
    (["--small-block", "5"], "small_block=5; allowed: a divisor of the block size 32"),
    (["--policy", "nowhere.py", "--k", "2"], "policy='nowhere.py': no such file; allowed: output, .*Python file"),
    (["--revision", "8e1"], "revision='8e1'; allowed: upstream"),
    (["--threshold", "2"], r"threshold=2.0; allowed: at most 1 \(a probability")])
def test_terminal_says_what_is_wrong_before_anything_else(programs, options, says):
    done = programs.fastdllm("chat", *options, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == "" and re.search(f"^fastdllm: .*{says}", done.stderr), done.stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(("model", "says"), [
    ("nowhere", "model: 'nowhere' is no directory; allowed: .*tiny"),
    ("tests/golden", "model=tests/golden: .* lacks .* tokenizer; allowed: "),
    ("tests/data", "no weights; allowed: model.safetensors")])
def test_app_refuses_a_checkpoint_before_anything_starts(programs, model, says, dry):
    done = programs.fastdllm("app", "--model", model, f"--port={free_port()}", *dry, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == "" and re.search(f"^fastdllm: .*{says}", done.stderr), done.stderr


def test_app_does_not_print_an_address_that_leads_elsewhere(programs):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = programs.fastdllm("app", f"--port={port}", cwd=ROOT)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"fastdllm: port={port} is taken; allowed: a free port, --port N\n"


def test_app_ends_where_the_port_is_taken_while_it_starts(programs, tmp_path):
    """Voila would go on to another port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        start = (f"from pathlib import Path; from fastdllm.ui import chat_app; "
                 f"chat_app.serve(chat_app.prepare(Path('notebooks/18_chat.ipynb'), 'tiny', Path({str(tmp_path)!r})), "
                 f"{other.getsockname()[1]})")
        done = programs.script(start, ROOT)
    assert done.returncode == 1 and done.stdout == "" and "token=" not in done.stderr


@pytest.mark.parametrize(("name", "says"), [("tiny", "arithmetic word problems"), ("smol", "GSM8K"),
                                            ("someone/else", "nothing is known here")])
def test_what_a_checkpoint_can_do_is_said_for_each(name, says):
    assert ability(name).startswith(name) and says in ability(name)


def test_a_chat_page_begins_with_what_the_checkpoint_can_do(tiny):
    room = ChatPage(tiny)
    assert ability(tiny.name) in html.unescape(room.children[0].value)
