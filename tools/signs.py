"""The font of the signs that the suite's pages use, as a style sheet of its own: python -m tools.signs

A page must look alike on a machine without fonts. Letters are drawn by whatever font there is; arrows, marks and the
like may be missing in it. So the pages bring a small font: these glyphs of DejaVu Sans, which comes with matplotlib and
whose licence allows it (under another name; fastdllm/display/LICENSE.dejavu). A test compares it with what pages use.
"""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import matplotlib

from fastdllm.display.notebook_html import SIGNS
from fastdllm.lab import atomic

FAMILY = "fd signs"
CHARACTERS = "·–—…“”″−×≤¶■◄►▲▼▶←→≠✓✗\ufffd"
HEAD = "/* made by tools/signs.py from DejaVu Sans (LICENSE.dejavu): the signs that pages use, wherever they open */"


def style_sheet() -> str:
    """The `@font-face` rule with the font in it, for the named characters alone."""
    from fontTools import subset
    from fontTools.ttLib import TTFont
    font = TTFont(fonts() / "DejaVuSans.ttf", recalcTimestamp=False)
    options = subset.Options(flavor="woff", hinting=False, layout_features=[], name_IDs=[], notdef_outline=True)
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB", "MATH"]
    chosen = subset.Subsetter(options)
    chosen.populate(text=CHARACTERS)
    chosen.subset(font)
    font.flavor = "woff"
    buffer = io.BytesIO()
    font.save(buffer)
    coded = base64.b64encode(buffer.getvalue()).decode()
    ranges = ", ".join(f"U+{ord(sign):04X}" for sign in sorted(CHARACTERS))
    return (f'{HEAD}\n@font-face {{ font-family: "{FAMILY}"; unicode-range: {ranges};\n'
            f"  src: url(data:font/woff;base64,{coded}) format(\"woff\"); }}\n")


def fonts() -> Path:
    """Where matplotlib keeps the fonts that come with it."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


if __name__ == "__main__":
    atomic.write(SIGNS, style_sheet())
    shutil.copyfile(fonts() / "LICENSE_DEJAVU", Path(__file__).parent.parent / "fastdllm/display/LICENSE.dejavu")
    print(f"{SIGNS}: {SIGNS.stat().st_size} bytes")
