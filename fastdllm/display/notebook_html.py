"""An executed notebook as a page that loads nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from bs4 import BeautifulSoup

from fastdllm.lab import atomic

TEMPLATES = Path(__file__).parent / "templates"     # `report` there extends nbconvert's `lab`
SIGNS = TEMPLATES / "report" / "signs.css"         # the font of the signs that pages use (tools/signs.py)
ELSEWHERE = ("http:", "https:", "//")                 # how the address of another host begins
ASIDE = {"aside"}      # tag of cells for who runs the notebook: a page for readers leaves them out


def export(notebook: Path, hide_code: bool = False) -> Path:
    """An executed notebook as one HTML file beside it."""
    target = notebook.with_suffix(".html")
    atomic.write(target, to_html(notebook, hide_code))
    return target


def to_html(notebook: Path, hide_code: bool = False) -> str:
    """A notebook as a page that loads nothing from elsewhere; without code it is a page for readers (`ASIDE`)."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import TagRemovePreprocessor
    exporter = HTMLExporter(template_name="report", extra_template_basedirs=[str(TEMPLATES)], exclude_input=hide_code,
                            exclude_input_prompt=hide_code, exclude_output_prompt=hide_code)
    if hide_code:
        exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags=ASIDE), enabled=True)
    body, _ = exporter.from_filename(str(notebook))
    return without_foreign(body)[0]


def without_foreign(body: str) -> tuple[str, int]:
    """A page without the scripts and style sheets of other hosts, where there may be no network; and how many."""
    soup = BeautifulSoup(body, "html.parser")
    foreign = [element for element in soup.select("script[src], link[href]")
               if str(element.get("src") or element.get("href")).strip().lower().startswith(ELSEWHERE)]
    for element in foreign:
        element.decompose()
    return (str(soup) if foreign else body), len(foreign)
