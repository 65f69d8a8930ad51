"""What the codec raises."""


class FieldError(ValueError):
    """A value of a request that its field does not take.

    `path` leads to the field from the request's top ("requests[3].quantity"); empty: the request itself.
    `description` completes "quantity …" and repeats nothing of the value.
    """

    def __init__(self, path: str, description: str) -> None:
        super().__init__(f"{path}: {description}" if path else description)
        self.path = path
        self.description = description

    def under(self, parent: str) -> "FieldError":
        """The same fault, seen from the message that holds `parent`."""
        if not self.path:
            return FieldError(parent, self.description)
        separator = "" if self.path.startswith("[") else "."
        return FieldError(f"{parent}{separator}{self.path}", self.description)


class Unprintable(ValueError):
    """A response holds a value that has no JSON: a fault of the server that built it."""


class UnsupportedType(TypeError):
    """A contract uses a type that the dialect does not have; known when the codec is compiled."""
