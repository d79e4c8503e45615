"""The content blocks of Anthropic's messages and what each says as text. Knows formats only.

`anthropic_input` makes chat messages of them.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from configs.errors import RequestError
from serve.openai.body import Part
from serve.openai.no_effect import Ignored

APART = "\n\n"
"""Between two texts of one message: chat sets separate messages of one kind apart in the same way."""


class Cacheable(Part):
    """What may be marked for a cache."""

    cache_control: Ignored = None
    """No effect."""


class TextBlock(Cacheable):
    type: Literal["text"]
    text: str
    citations: Ignored = None
    """No effect."""


class PlainText(Part):
    type: Literal["text"]
    media_type: Literal["text/plain"] = "text/plain"
    data: str


class TextBlocks(Part):
    type: Literal["content"]
    content: str | list[TextBlock]


class FileSource(Part):
    """Refused: the model reads text only."""

    model_config = ConfigDict(extra="allow")

    type: Literal["base64", "url", "file"]


class ImageBlock(Cacheable):
    """Refused: the model reads text only."""

    type: Literal["image"]
    source: Any = None
    transformations: Any = None


class DocumentBlock(Cacheable):
    """A document that is text."""

    type: Literal["document"]
    source: Annotated[PlainText | TextBlocks | FileSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None
    citations: Ignored = None
    """No effect."""

    @property
    def text(self) -> str:
        source = self.source
        body = source.data if isinstance(source, PlainText) else joined(getattr(source, "content", ""))
        return "\n".join(part for part in (self.title, self.context, body) if part)


class SearchResultBlock(Cacheable):
    type: Literal["search_result"]
    title: str
    source: str
    content: list[TextBlock]
    citations: Ignored = None
    """No effect."""

    @property
    def text(self) -> str:
        return "\n".join((self.title, self.source, joined(self.content)))


class ToolReferenceBlock(Cacheable):
    """What a search for tools found; a tool that is to be loaded later is offered from the start."""

    type: Literal["tool_reference"]
    tool_name: str

    @property
    def text(self) -> str:
        return f"The tool {self.tool_name} may be called."


class ThinkingBlock(Part):
    """Earlier reasoning. With an empty `thinking` it is in the `signature`, if that is ours."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Part):
    """Reasoning that only its author can read."""

    type: Literal["redacted_thinking"]
    data: Ignored = None
    """No effect."""


class ToolUseBlock(Cacheable):
    type: Literal["tool_use"]
    id: str
    name: str = Field(json_schema_extra={"pattern": r"^[\w.\-]+$"})
    input: dict[str, Any]
    caller: Ignored = None
    """No effect."""


Readable = TextBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock


class ToolResultBlock(Cacheable):
    """What a call gave. With `is_error` the model reads that it failed."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[Readable | ImageBlock, Field(discriminator="type")]] = ""
    is_error: bool = False

    @property
    def text(self) -> str:
        said = joined(self.content)
        return f"Error: {said}" if self.is_error and not said.lower().startswith("error") else said


Block = Annotated[
    Readable | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
]


def refuse_media(block: Any, where: str) -> None:
    """Raises RequestError for an image or a file.

    By this spelling of its place Claude Code (2.1) finds the block, takes it out and asks again.
    """
    if isinstance(block, ImageBlock) or (isinstance(block, DocumentBlock) and isinstance(block.source, FileSource)):
        message = f"{where}.{block.type}: the model reads text only"
        raise RequestError(message, hint="leave it out, or send what it says as text", param="messages")
    if isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
        for index, part in enumerate(block.content):
            refuse_media(part, f"{where}.tool_result.content[{index}]")


def joined(content: str | Iterable[Readable]) -> str:
    """Text, or the texts of blocks."""
    return content if isinstance(content, str) else APART.join(block.text for block in content if block.text)
