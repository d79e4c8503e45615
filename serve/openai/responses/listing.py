"""One page of a list of items, as OpenAI pages them. Knows formats only."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from configs.errors import RequestError
from serve.openai.responses.items import Item


class Paging(BaseModel):
    """What a list's query may say."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    limit: int = Field(20, ge=1, le=100)
    """Items of a page."""
    order: Literal["asc", "desc"] = "desc"
    """`desc`: the newest first."""
    after: str | None = None
    """The id of the last item of the page before."""

    def page(self, items: list[Item]) -> dict[str, Any]:
        """A page of `items`, which are in the order in which they came. Raises RequestError for an unknown `after`."""
        ordered = items if self.order == "asc" else items[::-1]
        start = 0
        if self.after is not None:
            ids = [item["id"] for item in ordered]
            if self.after not in ids:
                raise RequestError(f"after is '{self.after}', which is not an item of this list", param="after")
            start = ids.index(self.after) + 1
        data = ordered[start : start + self.limit]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        more = start + self.limit < len(ordered)
        return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


PagingQuery = Annotated[Paging, Query()]
