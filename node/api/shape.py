"""What all JSON that comes in has in common: its strictness, and the limits of texts and tags."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from chain.content import MAX_TAG, MAX_TEXT


class Shape(BaseModel):
    """Base of what comes in: unknown fields are refused, numbers are finite, types are not guessed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


def at_most(limit: int) -> AfterValidator:
    def check(text: str) -> str:
        size = len(text.encode())
        if size > limit:
            raise ValueError(f"{size} bytes of UTF-8, the limit is {limit}")
        return text

    return AfterValidator(check)


Text = Annotated[str, Field(min_length=1), at_most(MAX_TEXT)]
"""Checked before it is embedded: that would take long for megabytes, and answer beside the point."""
Tag = Annotated[str, Field(min_length=1), at_most(MAX_TAG)]
