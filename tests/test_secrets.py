"""Secrets are planted in the environment of everything that runs; then every file is searched for them."""

from __future__ import annotations

import getpass
import shutil
import socket
import zipfile

import pytest
from lab_support import command
from share_support import SECRETS, leaking

from fastdllm.share import gallery, publish, redact


def holding(folder) -> list[str]:
    """The files below a folder that hold a secret; zips are opened."""
    leaking_files, searched = [], 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        contents = [path.read_bytes()]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                contents = [archive.read(name) for name in archive.namelist()]
        searched += len(contents)
        if any(secret.encode() in content for secret in SECRETS.values() for content in contents):
            leaking_files.append(str(path.relative_to(folder)))
    assert searched
    return leaking_files


@pytest.fixture
def project(finished, monkeypatch):
    monkeypatch.chdir(finished)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    yield finished
    for name in ("published", "gallery", "leaks"):
        shutil.rmtree(finished / "executed" / name, ignore_errors=True)


def test_runs_leave_no_secret(project):
    suffixes = {path.suffix for path in (project / "executed").rglob("*") if path.is_file()}
    assert {".json", ".jsonl", ".ipynb", ".log", ".parquet"} <= suffixes
    assert holding(project / "executed") == []


def test_a_script_holds_no_secret(project):
    text = command("grid", "submit", "small", "--dry-run", "--dependency", "--force")
    assert "#SBATCH --array=0-2%" in text
    assert "--export" not in text
    assert not [name for name, secret in SECRETS.items() if name in text or secret in text]


def test_what_is_shared_holds_no_secret_even_if_a_notebook_printed_it(project):
    leak = leaking(project)
    assert holding(leak.parent) == ["leak.ipynb"]
    publish.run("leaks", anyway=True)
    publish.run("small", anyway=True)
    gallery.pack(gallery.build())
    assert holding(project / "executed" / "published") == []
    assert holding(project / "executed" / "gallery") == []
    (project / "executed" / "gallery.zip").rename(project / "executed" / "gallery" / "gallery.zip")
    assert holding(project / "executed" / "gallery") == []
    text = next((project / "executed" / "published" / "leaks").rglob("leak.ipynb")).read_text()
    assert redact.SECRET in text
    for name in {socket.gethostname(), getpass.getuser()} - redact.NOBODY:
        assert f"'{name}'" not in text


def test_a_token_of_no_known_name_is_known_by_its_form(project):
    redactor = redact.build(b"key")
    for token in ("hf_AbCdEfGhIjKlMnOpQrStUvWxYz", "ghp_0123456789abcdefghijABCDEFGHIJ012345", "AKIAABCDEFGHIJKLMNOP"):
        assert redactor.output(f"token: {token}.") == f"token: {redact.SECRET}."


def test_the_doctor_keeps_the_token_to_itself(project):
    text = command("doctor", "--model", project / "model", "--task", "arithmetic")
    assert "a token is set (HF_TOKEN)" in text
    assert not [secret for secret in SECRETS.values() if secret in text]
