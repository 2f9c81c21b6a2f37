"""The history of the published code as data: a few switches, and the row of each revision.

Nothing else in the package knows a revision by name. The bisection runs over these switches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

CHOICES: dict[str, tuple[object, ...]] = {
    "run_skipped": (False, True),
    "full_block_every_k": (False, True),
    "first_subset": ("1-12", "1-11"),
    "trim_caches": (True, False),
    "on_full_block": ("refresh", "bypass", "by_step"),
    "cache_source": ("latest", "full"),
    "termination": ("exact", "upstream"),
}


@dataclass(frozen=True)
class Revision:
    """Switches of the decoding loop and its reuse wrappers (docs/decoding.md). The defaults are `fixed`."""

    name: str = "custom"
    run_skipped: bool = False          # bug 1: a reused layer also runs, its result discarded (block cache written)
    full_block_every_k: bool = False   # bug 2: k <= 1 or step % k == 0 forces a full forward
    first_subset: str = "1-12"         # bug 3: "1-11"
    trim_caches: bool = True           # bug 4: False; visible in lockstep batches only, so not in this loop
    on_full_block: str = "refresh"     # bug 5: "bypass"; "by_step": wrappers may reuse in a full forward
    cache_source: str = "latest"       # "full": only full-block outputs are stored
    termination: str = "exact"         # "upstream": see decode/row.py

    def __post_init__(self) -> None:
        for switch, allowed in CHOICES.items():
            if self.__dict__[switch] not in allowed:
                raise ValueError(f"revision.{switch}={self.__dict__[switch]!r}; "
                                 f"allowed: {', '.join(map(repr, allowed))}")

    def switches(self) -> dict[str, object]:
        """The switches without the name: what enters an identity."""
        return {field.name: self.__dict__[field.name] for field in fields(self) if field.name != "name"}


_OLD = Revision("8e18baac", run_skipped=True, full_block_every_k=True, first_subset="1-11", trim_caches=False,
                on_full_block="by_step", termination="upstream")
_TABLE = (
    Revision("upstream", termination="upstream"),
    _OLD,
    replace(_OLD, name="6f96d95"),
    # What the log's Run 1 really ran for `first`: a changed working tree on 6f96d95, bugs 1 and 3 fixed.
    replace(_OLD, name="6f96d95-dirty", run_skipped=False, first_subset="1-12"),
    Revision("6d2a9a8", on_full_block="by_step", termination="upstream"),
    Revision("6c8822f", on_full_block="bypass", termination="upstream"),
    Revision("26d6179", on_full_block="refresh", termination="upstream"),
    Revision("fixed"),
)
REVISIONS: dict[str, Revision] = {revision.name: revision for revision in _TABLE}


def get(revision: str | Revision) -> Revision:
    """A revision by name, optionally with switches changed: '26d6179', 'fixed+on_full_block=bypass'.

    Raises ValueError naming the revisions, switches or values that are allowed.
    """
    if isinstance(revision, Revision):
        return revision
    if not isinstance(revision, str):
        raise ValueError(f"revision={revision!r}; allowed: {', '.join(REVISIONS)}, or a Revision")
    name, *changes = revision.split("+")
    if name not in REVISIONS:
        raise ValueError(f"revision={name!r}; allowed: {', '.join(REVISIONS)}")
    values: dict[str, object] = {}
    for change in changes:
        switch, _, text = change.partition("=")
        if switch not in CHOICES:
            raise ValueError(f"revision={revision!r}: switch {switch!r}; allowed: {', '.join(CHOICES)}")
        spelled = {str(value).lower(): value for value in CHOICES[switch]}
        if text.lower() not in spelled:
            raise ValueError(f"revision.{switch}={text!r}; allowed: {', '.join(spelled)}")
        values[switch] = spelled[text.lower()]
    return replace(REVISIONS[name], name=revision, **values) if values else REVISIONS[name]
