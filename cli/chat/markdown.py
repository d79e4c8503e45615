"""An answer's Markdown while it grows: what is finished can be printed for good, only the rest may still change.

Knows no terminal. The screen renders `Formatted`, which hides nothing: HTML and link targets are shown as text.
"""

from itertools import pairwise

from markdown_it import MarkdownIt
from rich.markdown import Heading, Markdown

from cli.printable import printable


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


def split_finished(text: str) -> tuple[list[str], str]:
    """The top-level blocks of `text` that no further text can change, and the rest. `text` is printable.

    Only whole lines count: `2` at the end may become the list item `2. ...`. The last block is never finished.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in _parser().parse(whole) if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) < 2:
        return [], text
    lines = [f"{line}\n" for line in text.split("\n")]
    blocks = ["".join(lines[start:end]) for start, end in pairwise([0, *starts[1:]])]
    return blocks, text[sum(map(len, blocks)) :]


class _PlainHeading(Heading):
    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class Formatted(Markdown):
    """Rich's Markdown, in which HTML is text, links show where they lead and headings stay left."""

    elements = Markdown.elements | {"heading_open": _PlainHeading}

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False, code_theme="ansi_dark")
        self.parsed = _parser().parse(printable(text))
        for token in self.parsed:
            for each in (token, *(token.children or ())):
                each.content = printable(each.content)  # an entity such as &#x202e; is a character only now
