"""Tags in XMP sidecars: put beside what their owner has in them, and taken out again without a trace.

The tags themselves are standard (`dc:subject`), so that other programs show them. What says that they are ours, which
model they are from, when, and how sure it was, stands beside them under a namespace of our own. Every byte that is not
ours stays: white space, quotes, comments, unknown namespaces and encoding included. Without another program's writing
in between, taking the tags out restores the file byte by byte; after it, the rest of the file stays as that program
wrote it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from socialtag_jax import xml_tree
from socialtag_jax.errors import UserError
from socialtag_jax.tags import loose_key
from socialtag_jax.xml_tree import Document, Edit, Element

NAMESPACE = "urn:x-socialtag-jax:xmp:1.0/"
"""Of our own properties: `Model`, `Date`, `Before`, and `Tags`, a bag of structures of `Tag` and `Score`."""

_META = "adobe:ns:meta/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_SUBJECT = _DC + "subject"
_LISTS = (_RDF + "Bag", _RDF + "Seq", _RDF + "Alt")
_ABOUT = (_RDF + "about", "about")

# What there was before our tags, as `Before` has it: what to leave when they go.
_NO_FILE, _NO_SUBJECT, _SUBJECT_THERE = "no file", "no subject", "subject"
_EMPTY_LIST, _EMPTY_RDF = "empty list", "empty RDF"
_CREATED_SUBJECT = (_NO_FILE, _NO_SUBJECT, _EMPTY_RDF)

# Of all that a tag may have, what XML cannot.
_NOT_XML: dict[int, None] = dict.fromkeys((0xFFFE, 0xFFFF))


@dataclass(frozen=True, slots=True)
class ScoredTag:
    """A tag as it is shown, and the model's confidence, 0 to 1."""

    text: str
    score: float


@dataclass(frozen=True)
class Record:
    """What we wrote into a sidecar.

    Attributes:
      model: SHA-256 of the model's parameters, in hexadecimal.
      date: when, as ISO 8601.
      tags: those of `dc:subject` that are ours.
    """

    model: str
    date: str
    tags: Sequence[ScoredTag]


def may_be_ours(content: bytes) -> bool:
    """Whether a file may hold tags of ours; False is certain."""
    return any(NAMESPACE.encode(codec) in content for codec in ("utf-8", "utf-16-le", "utf-16-be"))


def subjects(content: bytes) -> list[str]:
    """The tags of a sidecar, the owner's and ours.

    Raises:
      UserError: it is not XMP, or holds tags in no form that is known.
    """
    packet = _Packet(content)
    return [item.text for item in packet.items]


def record(content: bytes) -> Record | None:
    """What we wrote into a sidecar; None for nothing.

    Raises:
      UserError: as `subjects`.
    """
    packet = _Packet(content)
    return packet.record if packet.ours else None


def tagged(content: bytes | None, new: Record) -> bytes | None:
    """A sidecar with these tags of ours in the place of earlier ones.

    Tags that its owner has already, in whatever spelling, are neither added nor recorded.

    Args:
      content: of the sidecar; None where there is none.
      new: what to write.

    Returns:
      the new content, equal to the old one where nothing is to be done; None for no sidecar.

    Raises:
      UserError: as `subjects`.
    """
    base = None if content is None else untagged(content)
    packet = None if base is None else _Packet(base)
    known = {loose_key(item.text) for item in packet.items} if packet else set[str]()
    tags: list[ScoredTag] = []
    for one in new.tags:
        text = one.text.translate(_NOT_XML)
        if (key := loose_key(text)) and key not in known:
            known.add(key)
            tags.append(ScoredTag(text, one.score))
    if not tags:
        return base
    written = Record(new.model, new.date, tags)
    return packet.with_tags(written) if packet else _new_file(written)


def untagged(content: bytes) -> bytes | None:
    """A sidecar without what we wrote; None where we made it and it holds nothing else.

    Raises:
      UserError: as `subjects`.
    """
    packet = _Packet(content)
    return packet.without_ours() if packet.ours else content


class _Packet:
    """A sidecar, and where in it are tags and what is ours.

    Raises:
      UserError: as `subjects`.
    """

    def __init__(self, content: bytes) -> None:
        self.document: Document = xml_tree.parse(content)
        self.rdf = _find_rdf(self.document.root)
        self.items: list[Element] = []
        self.list: Element | None = None
        self.subject = self._find_subject()
        self.ours = [
            node
            for node in self.rdf.children
            if any(name.startswith(NAMESPACE) for name in [*node.attributes, *(one.name for one in node.children)])
        ]
        """The descriptions that have properties of ours: one, unless another program spread them."""
        values = {name: value for node in self.ours for name, value in node.attributes.items()}
        values |= {one.name: one.text for node in self.ours for one in node.children}
        self._before = values.get(NAMESPACE + "Before", "")
        tags = [
            ScoredTag(text, _number(_inner(item, NAMESPACE + "Score")))
            for node in self.ours
            for one in node.children
            if one.name == NAMESPACE + "Tags"
            for item in one.walk()
            if item.name == _RDF + "li" and (text := _inner(item, NAMESPACE + "Tag"))
        ]
        self.record = Record(values.get(NAMESPACE + "Model", ""), values.get(NAMESPACE + "Date", ""), tags)

    def _find_subject(self) -> Element | None:
        if any(_SUBJECT in node.attributes for node in self.rdf.children):
            raise UserError("dc:subject is an attribute, expected a list")
        found = [one for node in self.rdf.children for one in node.children if one.name == _SUBJECT]
        if not found:
            return None
        lists = found[0].children
        if len(found) > 1 or len(lists) != 1 or lists[0].name not in _LISTS or found[0].text or lists[0].text:
            raise UserError("dc:subject is not one list (rdf:Bag)")
        self.list = lists[0]
        self.items = [item for item in self.list.children if item.name == _RDF + "li"]
        return found[0]

    def with_tags(self, new: Record) -> bytes:
        """The file with new tags, where it has none of ours."""
        document, rdf, edits = self.document, self.rdf, list[Edit]()
        if self.list is None:
            before = _EMPTY_RDF if rdf.is_empty_tag else _NO_SUBJECT
        else:
            before = _EMPTY_LIST if self.list.is_empty_tag else _SUBJECT_THERE
            name = f"{self.list.prefix}li"
            items = [f"<{name}>{escape(one.text)}</{name}>".encode() for one in new.tags]
            edits += document.appended(self.list, self.list.name.removeprefix(_RDF), items)
        about = next((node.attributes[name] for node in rdf.children for name in _ABOUT if name in node.attributes), "")
        lines = _description(new, before, about=about, declares_rdf=rdf.prefix != "rdf:")
        last = rdf.children[-1].start if rdf.children else 0
        space = document.data[document.space_before(last) : last].decode()
        return document.edited([*edits, *document.appended(rdf, "RDF", [_laid_out(lines, space).encode()])])

    def without_ours(self) -> bytes | None:
        """The file without what we wrote."""
        document, edits = self.document, list[Edit]()
        subject_gone, touched = False, list(self.ours)
        removed = self._our_items()
        if self.subject is not None and self.list is not None and removed:
            edits += [document.whole(item) for item in removed]
            is_left = len(removed) < len(self.list.children) or self._has_remarks(self.subject, [])
            if self._before in _CREATED_SUBJECT and not is_left:
                subject_gone = True
                touched += [node for node in self.rdf.children if self.subject in node.children and node not in touched]
            elif self._before == _EMPTY_LIST:
                edits += document.closed(self.list, edits)
        gone: list[Element] = []
        for node in touched:
            ours = [
                one for one in node.children if one.name.startswith(NAMESPACE) or (subject_gone and one is self.subject)
            ]
            attributes = [name for name in node.attributes if name.startswith(NAMESPACE)]
            theirs = set(node.attributes) - set(attributes) - set(_ABOUT)
            if not theirs and len(ours) == len(node.children) and not node.text and not self._has_remarks(node, ours):
                gone.append(node)
                edits.append(document.whole(node))
            else:
                edits += [document.whole(one) for one in ours]
                edits += [document.without_attribute(node.start, node.written[name]) for name in attributes]
        if self._before == _NO_FILE and self._is_bare(gone):
            return None
        if self._before == _EMPTY_RDF:
            edits += document.closed(self.rdf, [document.whole(node) for node in gone])
        return document.edited([*edits, *self._unused_declarations(edits)])

    def _our_items(self) -> list[Element]:
        """Of the tags, those that we recorded; the last where there are several of one."""
        by_text: dict[str, list[Element]] = {}
        for item in self.items:
            if not item.children:
                by_text.setdefault(item.text, []).append(item)
        found = (by_text.get(text.strip(), []) for text in dict.fromkeys(one.text for one in self.record.tags))
        return sorted((items[-1] for items in found if items), key=lambda item: item.start)

    def _is_bare(self, gone: Sequence[Element]) -> bool:
        """Whether nothing but the frame is left."""
        root, rdf = self.document.root, self.rdf
        alone = root is rdf or root.children == [rdf]
        empty = len(gone) == len(rdf.children) and not rdf.text and not root.text
        return alone and empty and not any(not _within(at, gone) for at in self.document.remarks)

    def _has_remarks(self, element: Element, besides: Sequence[Element]) -> bool:
        return any(_within(at, [element]) and not _within(at, besides) for at in self.document.remarks)

    def _unused_declarations(self, edits: Sequence[Edit]) -> list[Edit]:
        """Takes out where our namespace is declared, unless something of it stays."""

        def stays(offset: int) -> bool:
            return not any(start <= offset < stop for start, stop, _ in edits)

        document = self.document
        declared = [(at, prefix) for at, prefix, uri in document.declarations if uri == NAMESPACE and stays(at)]
        if not declared or any(
            one.name.startswith(NAMESPACE)
            or (one not in self.ours and any(name.startswith(NAMESPACE) for name in one.attributes))
            for one in document.root.walk()
            if stays(one.start)
        ):
            return []
        return [document.without_attribute(at, f"xmlns:{prefix}") for at, prefix in declared]


def _find_rdf(root: Element) -> Element:
    if root.name == _RDF + "RDF":
        return root
    found = [one for one in root.children if one.name == _RDF + "RDF"]
    if root.name not in (_META + "xmpmeta", _META + "xapmeta") or len(found) != 1:
        raise UserError("is not XMP: expected one rdf:RDF, in x:xmpmeta or alone")
    return found[0]


def _within(offset: int, elements: Sequence[Element]) -> bool:
    return any(one.start <= offset < one.end for one in elements)


def _inner(element: Element, name: str) -> str:
    """A field of a structure, in whichever of RDF's ways it is written; "" for none."""
    for one in element.walk():
        if name in one.attributes:
            return one.attributes[name]
        if one.name == name:
            return one.text
    return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # another program's doing, and no reason to keep the tag
        return math.nan


_Lines = list[tuple[int, str]]
"""How far indented, and what."""


def _description(new: Record, before: str, *, about: str, declares_rdf: bool) -> _Lines:
    """Our own part of a sidecar: with the tags themselves, unless the owner's list takes them."""
    has_subject = before in _CREATED_SUBJECT
    declared = [*([("rdf", _RDF)] if declares_rdf else []), *([("dc", _DC)] if has_subject else [])]
    declared.append(("socialtag", NAMESPACE))
    attributes = "".join(f" xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in declared)
    lines: _Lines = [(0, f"<rdf:Description rdf:about={quoteattr(about)}{attributes}>")]
    if has_subject:
        lines += [(1, "<dc:subject>"), (2, "<rdf:Bag>")]
        lines += [(3, f"<rdf:li>{escape(one.text)}</rdf:li>") for one in new.tags]
        lines += [(2, "</rdf:Bag>"), (1, "</dc:subject>")]
    for name, value in (("Model", new.model), ("Date", new.date), ("Before", before)):
        lines.append((1, f"<socialtag:{name}>{escape(value)}</socialtag:{name}>"))
    lines += [(1, "<socialtag:Tags>"), (2, "<rdf:Bag>")]
    for one in new.tags:
        tag, score = escape(one.text), f"{one.score:.6f}"
        lines.append((3, '<rdf:li rdf:parseType="Resource">'))
        lines.append((4, f"<socialtag:Tag>{tag}</socialtag:Tag>"))
        lines.append((4, f"<socialtag:Score>{score}</socialtag:Score>"))
        lines.append((3, "</rdf:li>"))
    return [*lines, (2, "</rdf:Bag>"), (1, "</socialtag:Tags>"), (0, "</rdf:Description>")]


def _laid_out(lines: _Lines, space: str) -> str:
    """Lines below each other where the file has its own so, else in one.

    Args:
      lines: to lay out.
      space: the white space that will stand before the first.
    """
    _, newline, indent = space.rpartition("\n")
    if not newline:
        return "".join(text for _, text in lines)
    newline = "\r\n" if "\r\n" in space else "\n"
    return f"{newline}{indent}".join(" " * depth + text for depth, text in lines)


def _new_file(new: Record) -> bytes:
    description = _laid_out(_description(new, _NO_FILE, about="", declares_rdf=False), "\n  ")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<x:xmpmeta xmlns:x="{_META}">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f"  {description}\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
    ).encode()
