"""What the exchange refuses, by the field of the request that is wrong."""

from __future__ import annotations

from node.errors import Forbidden, InvalidInput


class FieldRefused(InvalidInput):
    """A field of a request is not what it has to be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class FieldForbidden(Forbidden):
    """A field of a request names what this client may not use."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
