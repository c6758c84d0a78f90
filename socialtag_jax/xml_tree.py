"""XML as a tree that knows where in the file each part lies, so that a change leaves every other byte as it is.

Neither lxml nor ElementTree says where a part lies, and both write a file anew; expat, which is Python's own, says it.
XML from strangers is refused where it could cost more than it weighs: a document type, and with it every entity of its
own, a great many elements, or deep ones. Nothing outside of the file is ever looked at.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from socialtag_jax.errors import UserError

MOST_BYTES = 16 << 20
_MOST_ELEMENTS = 200_000
_DEEPEST = 100

Edit = tuple[int, int, bytes]
"""From where to where, and what comes there instead."""

_START_TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")
_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_SPACE = b" \t\r\n"
_BETWEEN_NAMES = "\x1f"
"""Between the parts of a name, as expat hands it out: a character that XML cannot have."""


@dataclass(slots=True, eq=False)
class Element:
    """An element.

    Attributes:
      name: namespace and local name in one, as RDF has it.
      prefix: of its name, as written, with the colon; "" for none.
      attributes: name -> value; names as above.
      written: name -> the attribute's name as written.
      start: offset of its `<`, in bytes, as the next three.
      inside: where its start tag ends.
      close: where its end tag begins; as `end` where it has none.
      end: behind it.
      children: the elements in it.
      texts: pieces of text directly in it.
    """

    name: str
    prefix: str
    attributes: dict[str, str]
    written: dict[str, str]
    start: int
    inside: int
    close: int = 0
    end: int = 0
    children: list["Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What stands directly in it, but for white space around it."""
        return "".join(self.texts).strip()

    @property
    def is_empty_tag(self) -> bool:
        """Whether it is written `<so/>`."""
        return self.close == self.end

    def walk(self) -> Iterator["Element"]:
        """It, and all elements in it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Document:
    """An XML file.

    Attributes:
      data: as UTF-8, without a byte order mark; what offsets count.
      codec: of the file.
      mark: its byte order mark.
      root: the outermost element.
      remarks: offsets of comments and processing instructions, other than the `xpacket` that frames XMP.
      declarations: (offset of the element's start, prefix, namespace) of each `xmlns:prefix`.
    """

    data: bytes
    codec: str
    mark: bytes
    root: Element
    remarks: list[int]
    declarations: list[tuple[int, str, str]]

    def edited(self, edits: Iterable[Edit]) -> bytes:
        """The file with these changes; one that lies in another counts for nothing."""
        parts, last = [], 0
        for start, stop, new in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
            if start >= last:
                parts += [self.data[last:start], new]
                last = stop
        text = b"".join([*parts, self.data[last:]])
        return self.mark + (text if self.codec == "utf-8" else text.decode().encode(self.codec))

    def space_before(self, offset: int) -> int:
        """Where the white space before an offset begins."""
        while offset and self.data[offset - 1] in _SPACE:
            offset -= 1
        return offset

    def whole(self, element: Element) -> Edit:
        """Takes an element out, with the white space before it: what `appended` put in."""
        return self.space_before(element.start), element.end, b""

    def appended(self, element: Element, local_name: str, children: Sequence[bytes]) -> list[Edit]:
        """Puts children behind the last one in an element, each with the white space that stands before that.

        Args:
          element: to put them in; written `<so/>`, it is opened.
          local_name: of the element.
          children: as XML.
        """
        if element.is_empty_tag:
            end_tag = f"</{element.prefix}{local_name}>".encode()
            return [(element.inside - 2, element.inside, b"".join([b">", *children, end_tag]))]
        if not element.children:
            return [(element.inside, element.inside, b"".join(children))]
        last = element.children[-1]
        space = self.data[self.space_before(last.start) : last.start]
        return [(last.end, last.end, b"".join(space + child for child in children))]

    def closed(self, element: Element, edits: Sequence[Edit]) -> list[Edit]:
        """Writes an element `<so/>` again, as before `appended`; only where the edits take out all that it holds."""
        taken = sum(stop - start for start, stop, _ in edits if element.inside <= start and stop <= element.close)
        return [(element.inside - 1, element.end, b"/>")] if taken == element.close - element.inside else []

    def without_attribute(self, element_start: int, written: str) -> Edit:
        """Takes an attribute off, with the white space before it."""
        tag = _START_TAG.match(self.data, element_start)
        assert tag is not None  # expat has read it
        for found in _ATTRIBUTE.finditer(self.data, element_start, tag.end()):
            if found[1] == written.encode():
                return found.start(), found.end(), b""
        raise AssertionError(f"no attribute {written}")


def decode(content: bytes) -> tuple[bytes, str, bytes]:
    """XML as UTF-8.

    Returns:
      the text, the file's codec, its byte order mark.

    Raises:
      UserError: it is not Unicode, as XMP must be.
    """
    for mark, codec in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"", "utf-8"),
    ):
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(codec).encode(), codec, mark
            except UnicodeDecodeError as error:
                raise UserError(f"not {codec.upper()} text at byte offset {error.start + len(mark)}") from error
    raise AssertionError


def parse(content: bytes) -> Document:
    """Reads an XML file.

    Raises:
      UserError: it is not well-formed, declares another encoding than Unicode's, or is refused as the module says.
    """
    if len(content) > MOST_BYTES:
        raise UserError(f"{len(content):,} bytes, expected at most {MOST_BYTES:,}")
    data, codec, mark = decode(content)
    reader = _Reader(data, codec)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise UserError(f"not well-formed XML: {error}") from error
    assert reader.root is not None  # or it were not well-formed
    return Document(data, codec, mark, reader.root, reader.remarks, reader.declarations)


class _Reader:
    """Makes the tree of what expat finds."""

    def __init__(self, data: bytes, codec: str) -> None:
        self._data, self._codec = data, codec
        self.root: Element | None = None
        self.remarks: list[int] = []
        self.declarations: list[tuple[int, str, str]] = []
        self._stack: list[Element] = []
        self._elements = 0
        # The encoding is given: what the file declares was true of it before it was decoded.
        self.parser = parser = expat.ParserCreate("utf-8", _BETWEEN_NAMES)
        parser.namespace_prefixes = True
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._document_type
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = lambda _: self.remarks.append(parser.CurrentByteIndex)
        parser.ProcessingInstructionHandler = self._instruction

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        del version, standalone
        expected = self._codec[:6].rstrip("-")  # UTF-16 whatever its byte order
        if encoding is not None and encoding.lower() != expected:
            raise UserError(f"declares the encoding {encoding}, expected {expected.upper()}")

    def _document_type(self, *_: object) -> None:
        raise UserError("has a document type (<!DOCTYPE ...>), which metadata does not need and which can do harm")

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        if prefix and uri:
            self.declarations.append((self.parser.CurrentByteIndex, prefix, uri))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > _MOST_ELEMENTS or len(self._stack) >= _DEEPEST:
            raise UserError(f"more than {_MOST_ELEMENTS:,} elements, or more than {_DEEPEST} in each other")
        start = self.parser.CurrentByteIndex
        tag = _START_TAG.match(self._data, start)
        assert tag is not None  # expat has read it
        full, prefix, _ = _names(name)
        named = {_names(written): value for written, value in attributes.items()}
        element = Element(
            full,
            prefix,
            {full: value for (full, _, _), value in named.items()},
            {full: written for full, _, written in named},
            start,
            tag.end(),
        )
        if self._stack:
            self._stack[-1].children.append(element)
        else:
            self.root = element
        self._stack.append(element)

    def _end(self, _: str) -> None:
        element = self._stack.pop()
        at = self.parser.CurrentByteIndex
        if at == element.inside and self._data[at - 2 : at] == b"/>":
            element.close = element.end = at
        else:
            element.close, element.end = at, self._data.index(b">", at) + 1

    def _text(self, text: str) -> None:
        self._stack[-1].texts.append(text)

    def _instruction(self, target: str, _: str) -> None:
        if target != "xpacket":
            self.remarks.append(self.parser.CurrentByteIndex)


def _names(found: str) -> tuple[str, str, str]:
    """A name as expat gives it -> (namespace and local name in one, prefix, as written)."""
    parts = found.split(_BETWEEN_NAMES)
    if len(parts) == 1:
        return found, "", found
    prefix = f"{parts[2]}:" if len(parts) == 3 else ""
    return parts[0] + parts[1], prefix, prefix + parts[1]
