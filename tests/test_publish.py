"""Publishing: what is copied, what is left out, and what is refused."""

from __future__ import annotations

import base64
import getpass
import gzip
import io
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from lab_support import command
from PIL import Image
from share_support import REPO

from fastdllm.lab import records
from fastdllm.report import shipped
from fastdllm.share import bundle as lab
from fastdllm.share import publish as report
from fastdllm.share import redact


@pytest.fixture
def project(finished, monkeypatch):
    monkeypatch.chdir(finished)
    yield finished
    shutil.rmtree(finished / "executed" / "published", ignore_errors=True)


@pytest.fixture
def complete(project):
    """The grid without the cell that fails, as an experiment of its own."""
    target = project / "executed" / "whole"
    shutil.copytree(project / "executed" / "small", target)
    shutil.rmtree(target / "arithmetic_limit_2" / "k2_last_fails")
    yield target
    shutil.rmtree(target)


def test_a_failed_cell_is_not_published(project):
    with pytest.raises(ValueError, match=r"small is not published:\n  arithmetic_limit_2/k2_last_fails: failed"):
        report.run("small")
    assert "small is not published" in command("publish", "small", code=1)
    assert not (project / "executed" / "published").exists()
    assert "published anyway: arithmetic_limit_2/k2_last_fails: failed" in report.run("small", anyway=True)


def test_summaries_and_notebooks_and_nothing_else(complete, project):
    text = report.run("whole")
    target = project / "executed" / "published" / "whole"
    names = sorted(str(path.relative_to(target / "arithmetic_limit_2")) for path in target.rglob("*") if path.is_file())
    assert names == ["k1_first/10_cell.ipynb", "k1_first/summary.json", "k1_middle/summary.json",
                     "k2_middle/10_cell.ipynb", "k2_middle/summary.json"]
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert f"5 files, {total / 1e6:.2f} MB (git would take" in text


def test_compact_publishes_a_line_a_problem_instead_of_notebooks_and_texts(complete, project):
    report.run("whole", compact=True)
    target = project / "executed" / "published" / "whole" / "arithmetic_limit_2"
    names = sorted(path.name for path in target.rglob("*") if path.is_file())
    assert names == ["problems.csv"] * 3 + ["summary.json"] * 3
    record = records.read(target / "k2_middle")
    lines = (target / "k2_middle" / "problems.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert lines[0] == "id,right,tokens,forwards"
    assert len(rows) == record.n
    for column, total in (("right", record.headline.correct), ("tokens", record.tokens), ("forwards", record.forwards)):
        assert sum(int(row[column]) for row in rows) == total, column
    assert (target / "k1_middle" / "problems.csv").read_text() == (target / "k1_first" / "problems.csv").read_text()


def test_texts_are_published_for_the_configurations_that_are_named(complete, project):
    report.run("whole", compact=True, texts=["*/k2_*", "nothing"])
    target = project / "executed" / "published" / "whole" / "arithmetic_limit_2"
    assert [path.parent.name for path in target.rglob(shipped.TEXTS)] == ["k2_middle"]
    samples = records.samples(complete / "arithmetic_limit_2" / "k2_middle")
    assert shipped.read_texts(target / "k2_middle" / shipped.TEXTS, list(samples["id"])) == list(samples["output"])


def test_texts_without_compact_are_refused(complete):
    assert "--texts '*' without --compact; allowed: with it" in command("publish", "whole", "--texts", "*", code=1)


@pytest.mark.parametrize("damage", [
    lambda data: data[:-9], lambda data: b"plain", lambda data: gzip.compress(b"{}\n"),
    lambda data: gzip.compress(b"[1]\n"),
    lambda data: gzip.compress(gzip.decompress(data).split(b"\n", 1)[1]),
    lambda data: gzip.compress(gzip.decompress(data).replace(b'"text": "', b'"text": 1, "x": "', 1))])
def test_damaged_texts_are_named(complete, project, damage):
    report.run("whole", compact=True, texts=["*/k2_*"])
    path = project / "executed" / "published" / "whole" / "arithmetic_limit_2" / "k2_middle" / shipped.TEXTS
    path.write_bytes(damage(path.read_bytes()))
    ids = list(records.samples(complete / "arithmetic_limit_2" / "k2_middle")["id"])
    with pytest.raises(ValueError, match=r"k2_middle.texts\.jsonl\.gz: .*allowed: "):
        shipped.read_texts(path, ids)


def test_published_records_are_whole_and_name_nobody(complete, project):
    report.run("whole")
    target = project / "executed" / "published" / "whole" / "arithmetic_limit_2" / "k2_middle"
    mine, theirs = records.read(complete / "arithmetic_limit_2" / "k2_middle"), records.read(target)
    assert theirs.redacted
    assert theirs.identity == mine.identity
    assert theirs.accuracy == mine.accuracy
    assert theirs.environment.node.startswith("node-")
    content = json.loads((target / "summary.json").read_text())
    content["seconds"] = 0.001
    (target / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="checksum"):
        records.read(target)


def test_no_host_no_user_no_path(complete, project):
    report.run("whole")
    report.run("notebooks")
    text = "".join(path.read_text() for path in (project / "executed" / "published").rglob("*") if path.is_file())
    assert str(project) not in text
    assert str(Path.home()) not in text
    assert "…/notes.txt" in text, "the name of a file may stay, where it lay may not"
    assert "thesis/" not in text
    for name in {socket.gethostname(), getpass.getuser()} - redact.NOBODY:
        assert f'"{name}"' not in text


def test_a_node_keeps_its_pseudonym(tmp_path):
    first = redact.redactor(tmp_path, ["gpu07.cluster.example"])
    second = redact.redactor(tmp_path, ["gpu08"])
    assert first.node("gpu07") == first.node("gpu07.cluster.example") == second.node("gpu07") != second.node("gpu08")
    assert first.output("ran on gpu07.cluster.example, 12 steps") == f"ran on {first.node('gpu07')}, 12 steps"
    assert (tmp_path / redact.KEY).stat().st_mode & 0o077 == 0
    assert redact.redactor(tmp_path / "other").node("gpu07") != first.node("gpu07"), "another project, another key"


@pytest.mark.parametrize(("before", "after"), [
    ("see /home/jdoe/proj/a/b.py", "see ./a/b.py"), ("/home/jdoe2/x/y", "…/y"),
    ('File "/scratch/a/m.bin", line 3', 'File "…/m.bin", line 3'),
    ("https://huggingface.co/a/b?x=1", "https://huggingface.co/a/b?x=1"), ("50/60 tokens/s", "50/60 tokens/s"),
    ("PATH=/usr/bin:/usr/local/bin", "PATH=…/bin:…/bin"), ("file:///home/other/x.png", "…/x.png"),
    ("by jdoe on gpu07", "by <user> on NODE"), ("text/html </div>", "text/html </div>"),
    ("data:image/jpeg;base64,/9j/4AAQ/abc/d==", "data:image/jpeg;base64,/9j/4AAQ/abc/d=="),
    ("hf_abcdefghijklmnopqrstuvwx", "<secret>"), ("key=hunter2hunter2", "key=<secret>"),
    ("{'SOME_PASSWORD': 'unknown-form', 'B': 1}", "{'SOME_PASSWORD': '<secret>', 'B': 1}"),
    ("export MY_API_KEY=x0123456789", "export MY_API_KEY=<secret>"), ("tokens: 1234567", "tokens: 1234567")])
def test_redaction_of_text(before, after):
    redactor = redact.build(b"key", ["gpu07"], ["jdoe", "root"], Path("/home/jdoe/proj"), ["/home/jdoe"],
                            ["hunter2hunter2"])
    assert redactor.output(before) == after.replace("NODE", redactor.node("gpu07"))


def test_scripts_and_pictures_survive_redaction():
    redactor = redact.build(b"key", [], ["jdoe"], None, ["/home/jdoe"])
    html = '<p>/etc/x/y</p><script>ok = /foo/g.test(y) / 2; a = "/home/jdoe/z"</script>'
    assert redactor.html(html) == '<p>…/y</p><script>ok = /foo/g.test(y) / 2; a = "…/z"</script>'
    shown = {"image/png": "iVBOR/home/jdoe/abc", "text/plain": "/home/jdoe/a"}
    cell = {"cell_type": "code", "source": "1 / 2", "metadata": {}, "outputs": [
        {"output_type": "display_data", "metadata": {}, "data": shown}]}
    shown_data = redactor.notebook({"cells": [cell], "metadata": {}})["cells"][0]["outputs"][0]["data"]
    assert shown_data == {"image/png": "iVBOR/home/jdoe/abc", "text/plain": "…/a"}


PICTURE = base64.b64encode(bytes(range(256)) * 8).decode()


@pytest.mark.parametrize("text", [
    f'<img src="data:image/png;base64,{PICTURE[:150]}+vm/{PICTURE[:150]}">', f"{PICTURE[:150]}/vm+{PICTURE[:150]}==",
    f"{PICTURE[:70]}+/vm/+\n{PICTURE[:70]}+/vm/+\n{PICTURE[:20]}/vm==", f"{PICTURE[:58]}+/vm/+\\n{PICTURE[:60]}/vm/",
    f"data:image/png;base64,{PICTURE[:76]}/vm/\n{PICTURE[:76]}\n", f"base {PICTURE[:120]}+/home/vm/+{PICTURE[:120]}="])
def test_no_word_is_found_inside_base64(text):
    redactor = redact.build(b"key", ["vm"], ["jdoe"], None, ["/home/jdoe"])
    for change in (redactor.plain, redactor.output, redactor.code, redactor.html):
        assert change(text) == text


@pytest.mark.parametrize(("before", "after"), [
    ("ran on vm.", "ran on NODE."), ("vmstat, vm-2, my_vm, xvm, VM", "vmstat, vm-2, my_vm, xvm, VM"),
    (f"{PICTURE[:150]} on vm", f"{PICTURE[:150]} on NODE"),
    ("/home/jdoe/" + "abcdefgh/" * 15 + "x", "…/x"),                  # long, of base64's letters, and a path
    ("AWS_SESSION_TOKEN=" + PICTURE[:200], "AWS_SESSION_TOKEN=<secret>"),
    (f"it is {PICTURE[100:260]}", "it is <secret>")])
def test_what_only_looks_like_base64_or_a_word(before, after):
    redactor = redact.build(b"key", ["vm"], ["jdoe"], None, ["/home/jdoe"], [PICTURE[100:260]])
    assert redactor.output(before) == after.replace("NODE", redactor.node("vm"))


@pytest.mark.parametrize(("before", "after"), [
    ("vm = run(vm)  # on vm", "vm = run(vm)  # on NODE"), ("print('vm', vm)", "print('NODE', vm)"),
    ('"""on vm\nvm"""; vm.x', '"""on NODE\nNODE"""; vm.x'), ("for vm in gpu-07", "for vm in OTHER"),
    ("x = '/home/jdoe/a.py'", "x = '…/a.py'")])
def test_a_variable_is_no_host(before, after):
    redactor = redact.build(b"key", ["vm", "gpu-07"], ["jdoe"], None, ["/home/jdoe"])
    after = after.replace("NODE", redactor.node("vm")).replace("OTHER", redactor.node("gpu-07"))
    assert redactor.code(before) == after
    cell = {"cell_type": "code", "source": before, "metadata": {}, "outputs": []}
    assert redactor.notebook({"cells": [cell], "metadata": {}})["cells"][0]["source"] == after


@pytest.mark.parametrize(("before", "after"), [
    ("<script>vm = run(vm);  // on vm</script>", "<script>vm = run(vm);  // on NODE</script>"),
    ("<script>a.vm = 'vm'; /* on\nvm */ this.#vm(`vm`)</script>",
     "<script>a.vm = 'NODE'; /* on\nNODE */ this.#vm(`NODE`)</script>"),
    ("<style>#vm, .vm { color: #vm } /* vm */</style>", "<style>#vm, .vm { color: #vm } /* NODE */</style>")])
def test_a_variable_a_selector_and_a_colour_of_a_page_are_no_host(before, after):
    redactor = redact.build(b"key", ["vm"], ["jdoe"], None, ["/home/jdoe"])
    assert redactor.html(before) == after.replace("NODE", redactor.node("vm"))


def test_a_buffer_of_a_widget_is_left_alone_however_short():
    buffer = {"data": "AA+/vm/+AA==", "encoding": "base64", "path": ["value"]}
    state = {"widgets": {"application/vnd.jupyter.widget-state+json": {
        "state": {"a": {"buffers": [buffer], "on": "vm"}}}}}
    redactor = redact.build(b"key", ["vm"])
    widget = redactor.notebook({"cells": [], "metadata": state})["metadata"]["widgets"]
    assert widget["application/vnd.jupyter.widget-state+json"]["state"]["a"] == {"buffers": [buffer],
                                                                               "on": redactor.node("vm")}


def test_a_field_of_a_record_is_no_host(complete):
    record = records.read(complete / "arithmetic_limit_2" / "k2_middle")
    redactor = redact.build(b"key", ["parameters", "task", "unknown", "seconds"])
    assert redactor.record(record).seconds == record.seconds
    assert redactor.node("unknown") == "unknown"


def images(value):
    """Every image in a notebook's JSON: (kind, base64), of outputs and of HTML, wherever it stands."""
    if isinstance(value, str):
        yield from re.findall(r"data:image/(png|jpeg|gif|webp);base64,([^\"'\\\s)<>]*)", value)
    elif isinstance(value, list):
        for item in value:
            yield from images(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("image/png", "image/jpeg") and not isinstance(item, dict):      # a dictionary holds its size
                yield name.removeprefix("image/"), "".join(item).replace("\n", "")
            else:
                yield from images(item)


@pytest.mark.parametrize("path", sorted((REPO / "executed" / "published").rglob("*.ipynb")),
                         ids=lambda path: path.stem)
def test_every_published_image_can_be_decoded(path):
    for kind, text in images(json.loads(path.read_text(encoding="utf-8"))):
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            image.load()
            assert image.format == kind.upper()


def test_the_audit_has_a_word(complete):
    directory = complete / "arithmetic_limit_2" / "k1_middle"
    record = records.read(directory)
    score = record.headline.model_copy(update={"correct": 1, "value": 0.5})
    records.write(directory, record.model_copy(update={"accuracy": {record.metric: score}}))
    with pytest.raises(ValueError, match="audit, must_agree"):
        report.run("whole")


def test_a_changed_record_is_not_published(complete):
    path = complete / "arithmetic_limit_2" / "k2_middle" / "summary.json"
    path.write_text(path.read_text().replace('"tokens": ', '"tokens": 9'))
    with pytest.raises(ValueError, match=r"k2_middle: failed .*checksum"):
        report.run("whole")


def test_a_stale_notebook_is_not_published(project):
    source = project / "notebooks" / "widgets.ipynb"
    before = source.read_text()
    source.write_text(before.replace("description='steps'", "description='blocks'"))
    try:
        with pytest.raises(ValueError, match="widgets: stale"):
            report.run("notebooks")
    finally:
        source.write_text(before)
    assert "published notebooks" in report.run("notebooks")


def test_limits_can_not_be_overruled(complete, monkeypatch):
    monkeypatch.setattr(lab, "NOTEBOOK_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"k1_first/10_cell.ipynb: \d+ kB; allowed: 1 kB"):
        report.run("whole", anyway=True)
    monkeypatch.setattr(lab, "NOTEBOOK_LIMIT", 400_000)
    monkeypatch.setattr(lab, "TOTAL_LIMIT", 2000)
    with pytest.raises(ValueError, match="in all"):
        report.run("whole", anyway=True)


def test_an_unknown_experiment_lists_the_known_ones(project):
    with pytest.raises(ValueError, match=r"'nope'; allowed: .*small"):
        report.run("nope")


def test_git_keeps_what_is_published_and_nothing_else():
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=REPO, check=False).returncode == 0
    assert ignored("executed/demo/arithmetic/k1_first/summary.json")
    assert ignored("executed/.redaction-key")
    assert not ignored("executed/published/demo/arithmetic/k1_first/summary.json")
