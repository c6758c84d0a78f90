"""JSON files that may come from anywhere: every field's kind is checked as it is taken."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socialtag_jax import files
from socialtag_jax.errors import UserError, excerpt
from socialtag_jax.storage import Location


@dataclass(frozen=True)
class Fields:
    """An object in a JSON file; each method takes a field, or refuses the file.

    Attributes:
      content: the object.
      path: the file.
      hint: what to do where it is wrong.
      name: of the object in the file, ending in a dot; empty for the whole.
    """

    content: Mapping[str, Any]
    path: Location
    hint: str
    name: str = ""

    def __contains__(self, name: str) -> bool:
        return name in self.content

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def text(self, name: str) -> str:
        """A text."""
        value = self._get(name)
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        return value if isinstance(value, bool) else self._refuse(name, value, "true or false")

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._get(name)
        # Of a whole number that no float can hold, `isfinite` asks in vain.
        if (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value)):
            return value
        return self._refuse(name, value, "a number")

    def count(self, name: str, *, least: int = 0) -> int:
        """A whole number of at least `least`, below 2**63."""
        value = self._get(name)
        if type(value) is int and least <= value < 2**63:
            return value
        return self._refuse(name, value, f"a whole number of at least {least}")

    def counts(self, name: str) -> Sequence[int]:
        """A list of whole numbers of at least 0."""
        value = self._get(name)
        if isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value):
            return value
        return self._refuse(name, value, "a list of whole numbers of at least 0")

    def objects(self, name: str) -> Sequence["Fields"]:
        """A list of objects."""
        value = self._get(name)
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            return [self._inside(f"{name}.{number}", one) for number, one in enumerate(value)]
        return self._refuse(name, value, "a list of objects")

    def fields(self, name: str) -> "Fields":
        """An object."""
        value = self._get(name)
        return self._inside(name, value) if isinstance(value, dict) else self._refuse(name, value, "an object")

    def refuse(self, what: str) -> UserError:
        """The error that the file says something that is not so."""
        return UserError(what, where=self.path, hint=self.hint)

    def _inside(self, name: str, content: Mapping[str, Any]) -> "Fields":
        return Fields(content, self.path, self.hint, f"{self.name}{name}.")

    def _get(self, name: str) -> Any:
        if name not in self.content:
            raise self.refuse(f"field {self.name + name!r} is missing")
        return self.content[name]

    def _refuse(self, name: str, found: Any, expected: str) -> Any:
        raise self.refuse(f"field {self.name + name!r} is {excerpt(repr(found))[1:-1]}, expected {expected}")


def read(path: Location, *, hint: str) -> Fields:
    """Reads a JSON file that holds an object.

    Args:
      path: of the file.
      hint: what to do where it is wrong.

    Raises:
      FileNotFoundError: there is no such file.
      NotADirectoryError: its folder is none.
      UserError: it cannot be read, is not JSON, or holds something else.
    """
    try:
        content = json.loads(files.read_bytes(path).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path, hint=hint) from error
    if not isinstance(content, dict):
        raise UserError(f"holds {excerpt(repr(content))[1:-1]}, expected an object", where=path, hint=hint)
    return Fields(content, path, hint)
