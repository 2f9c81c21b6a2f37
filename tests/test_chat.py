"""Chat: the conversation, what streams, the prefix that is kept, and the terminal program in a real terminal."""

import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

import fastdllm
from fastdllm import Decoding
from fastdllm.report.chat import Conversation, Streamed
from fastdllm.report.chatroom import Chatroom

QUESTION = "Tom has 3 apples. He buys 4 more and gives 2 away. How many apples does Tom have?"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def lm():
    return fastdllm.load("tiny", device="cpu")


def ask(chat, text=QUESTION):
    return list(chat.ask(text))


def test_first_answer_is_generate_s(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=64))
    steps = ask(chat)
    out = fastdllm.generate(lm, [QUESTION], decoding=Decoding(max_new_tokens=64))
    assert steps[-1].text == out.texts[0]
    assert steps[-1].nfe == out.nfe[0]
    assert out.tokens[0][-1] in lm.stop_ids and steps[-1].tokens == len(out.tokens[0]) - 1      # a stop is not shown
    assert chat.ending() == ""
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_blocks_stream_as_they_commit(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=96, stop_ids=()))
    before = ""
    for progress in chat.ask(QUESTION):
        if progress.text != before:
            assert progress.step.kind == "commit" or chat.result is not None
            before = progress.text
    assert chat.result.finish == "length" and before == chat.result.text


def test_second_turn_uses_the_prefix_and_gives_the_same_tokens(lm):
    """The kept prefix changes what is computed, not what is answered."""
    decoding = Decoding(max_new_tokens=48)
    chat = Conversation(lm, decoding)
    ask(chat)
    steps = ask(chat, "And how many if he eats one?")
    assert steps[-1].kept >= 32 and steps[-1].kept % 32 == 0
    assert chat.ids[:steps[-1].kept] == chat._said[:steps[-1].kept]
    out = fastdllm.generate(lm, [chat.ids], decoding=decoding)
    assert out.tokens[0] == chat.result.tokens
    assert lm.decode(chat.ids).count("And how many if he eats one?") == 1


def test_tokens_are_those_of_the_text(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=96, stop_ids=()))       # padding stands behind the answer
    last = ask(chat)[-1]
    assert last.tokens == len(lm.tokenizer.encode(last.text, add_special_tokens=False)) < len(chat.result.tokens)
    assert chat.ending() == "cut off: max_new_tokens=96 is reached"
    stopped = list(chat.ask(QUESTION, lambda: len(chat.steps) >= 3))
    assert stopped[-1].text == "" and stopped[-1].tokens == 0 and chat.ending() == "stopped"


def test_stopping_an_answer_keeps_the_conversation_usable(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=96, stop_ids=()))
    seen = list(chat.ask(QUESTION, lambda: len(chat.steps) >= 4))
    assert len(seen) == 4 and chat.result is None
    assert chat.messages[-1]["role"] == "assistant"
    chat.decoding = Decoding(max_new_tokens=32)
    assert ask(chat)[-1].tokens > 0
    chat.clear()
    assert ask(chat)[-1].text == fastdllm.generate(lm, [QUESTION], decoding=Decoding(max_new_tokens=32)).texts[0]


def test_dropped_generator_frees_the_slot(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=64))
    answer = chat.ask(QUESTION)
    next(answer)
    answer.close()
    assert ask(chat)[-1].tokens > 0


def test_bad_messages_are_refused_and_forgotten(lm):
    chat = Conversation(lm, Decoding(max_new_tokens=32))
    with pytest.raises(ValueError, match="message: empty"):
        ask(chat, "  ")
    with pytest.raises(ValueError, match="max_position_embeddings=2048"):
        ask(chat, "apples " * 3000)
    assert chat.messages == []
    with pytest.raises(ValueError, match="no tokenizer files"):
        Conversation(fastdllm.load(ROOT / "tests" / "golden"), Decoding(mask_id=511))


def test_half_a_character_waits():
    stream = Streamed()
    assert stream.new("caf\ufffd") == "caf"
    assert stream.new("caf\u00e9 au") == "\u00e9 au"
    assert stream.new("caf\u00e9 au\ufffd", last=True) == "\ufffd"


def test_notebook_room_answers_and_shows(lm):
    room = Chatroom(lm, max_new_tokens=48, k=2)
    room.message.submit(QUESTION)
    room.wait(120)
    said = room.conversation.messages[-1]["content"]
    assert "####" in said and said.split()[-1] in room.talk.value and QUESTION in room.talk.value
    assert "tokens/s, NFE" in room.status.node.value and "tokens per forward" in room.status.node.value
    run = room.player.shown[0]
    assert run.result["text"] == said
    assert (run.trace["decision"] == "reuse").sum() == run.result["decisions"]["reuse"]
    room.clear()
    assert "Nothing said yet" in room.talk.value
    room.message.submit(" ")
    room.wait(10)
    assert "message: empty" in room.status.node.value


def terminal(*options):
    return pexpect.spawn(sys.executable, ["-m", "fastdllm", "chat", *options], cwd=str(ROOT), encoding="utf-8",
                         timeout=90, dimensions=(40, 200))


def test_terminal_session():
    """Answer, Ctrl-C in an answer, Ctrl-C at the prompt, clear, exit; one process, as a person would use it."""
    chat = terminal("--max-new-tokens", "512", "--remember")
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


def test_a_piped_question_is_shown_and_no_prompt():
    """What a pipe says is nowhere else on the page."""
    done = subprocess.run([sys.executable, "-m", "fastdllm", "chat", "--max-new-tokens", "4"], cwd=ROOT, text=True,
                          input="What is 2+3?\n", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "> What is 2+3?" in lines and "> " not in lines and "cut off: max_new_tokens=4" in done.stdout


def test_terminal_says_where_an_answer_was_cut():
    chat = terminal("--max-new-tokens", "12")
    chat.expect("earlier ones are not seen")
    chat.expect("> ")
    chat.sendline(QUESTION)
    chat.expect(r"\(cut off: max_new_tokens=12 is reached\)")
    chat.expect(r"\[12 tokens, ")
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
def test_terminal_says_what_is_wrong_before_anything_else(options, says):
    done = subprocess.run([sys.executable, "-m", "fastdllm", "chat", *options], cwd=ROOT, input="", text=True,
                          capture_output=True, check=False)
    assert done.returncode == 1 and done.stdout == "" and re.search(f"^fastdllm: .*{says}", done.stderr), done.stderr
