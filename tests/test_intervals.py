"""Intervals have one form on every page, whoever writes it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from interval_forms import in_page, in_source, in_text

from fastdllm import stats
from fastdllm.display.tables import interval_text

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [path for room in ("fastdllm", "tools", "notebooks") for suffix in ("py", "ipynb")
           for path in sorted((ROOT / room).rglob(f"*.{suffix}")) if ".ipynb_checkpoints" not in path.parts]


def test_the_one_form() -> None:
    assert stats.span(76.14, 86.66) == "76.1 to 86.7" and stats.span(-0.04, 0.3) == "0.0 to 0.3"
    assert stats.span(0.761, 0.867, ".0%") == "76% to 87%"
    assert interval_text(0.82, 0.761, 0.867, scale=100) == "82.0 (76.1 to 86.7)"
    assert interval_text(1.03, 1.01, 1.05, 2, unit="x") == "1.03x (1.01 to 1.05)"
    assert in_text(interval_text(-5.5, -8.9, -2.0)) == [] == in_text(stats.say_difference(-5.5, -8.9, -2.0, 200))


@pytest.mark.parametrize("text", ["94.5 [90.4, 96.9]", "-5.5 [-8.9, -2.0] points", "94.5% [90.4%, 96.9%]",
                                  "1.03x (1.01, 1.05)", "94.5 ± 2.1", "90.4–96.9 %", "(95 % interval 90.4, 96.9)"])
def test_another_form_is_seen(text: str) -> None:
    assert in_text(f"accuracy {text}, n = 200")


@pytest.mark.parametrize("code", ["f'{x:.1f} [{low:.1f}, {high:.1f}]'", "'{x:.1%} [{low:.1%}, {high:.1%}]'.format",
                                  "f'{x:.2f}x ({low:.2f}, {high:.2f})'", "f'{x} ± {y:.1f}'",
                                  "f'{low:.1f}–{high:.1f} %'"])
def test_source_of_another_form_is_seen(code: str) -> None:
    assert in_source(code)


def test_a_template_of_another_form_is_seen() -> None:
    assert in_page('{{ x }} % [{{ "%.1f" | format(low) }}, {{ "%.1f" | format(high) }}]')
    assert in_page("`${x} (${low.toFixed(1)}, ${high.toFixed(1)})`") and not in_page("({{ name }}, {{ other }})")


def test_no_template_writes_another_form() -> None:
    files = [path for suffix in ("j2", "js") for path in sorted((ROOT / "fastdllm").rglob(f"*.{suffix}"))]
    found = {path.name: forms for path in files if (forms := in_page(path.read_text(encoding="utf-8")))}
    assert len(files) > 5 and found == {}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose_has_the_one_form(path: Path) -> None:
    assert in_text(path.read_text(encoding="utf-8")) == []


def test_no_source_writes_another_form() -> None:
    found = {}
    for path in SOURCES:
        code = path.read_text(encoding="utf-8") if path.suffix == ".py" else "\n".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        if forms := in_source(code):
            found[path.relative_to(ROOT).as_posix()] = forms
    assert len(SOURCES) > 100 and found == {}
