"""Tags in XMP sidecars: nothing of the owner's is touched, and ours go without a trace."""

import contextlib
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialtag_jax import xml_tree, xmp
from socialtag_jax.errors import UserError
from socialtag_jax.xmp import Record, ScoredTag
from tests.sidecar_files import DARKTABLE, LIGHTROOM, PROGRAMS, keywords, packet

MODEL = "0123456789abcdef" * 4
DATE = "2026-11-26T08:00:00+00:00"


def made(*texts: str, model: str = MODEL, date: str = DATE) -> Record:
    return Record(model, date, [ScoredTag(text, 0.5) for text in texts])


def with_tags(content: bytes | None, record: Record) -> bytes:
    """A sidecar that is there afterwards."""
    after = xmp.tagged(content, record)
    assert after is not None
    return after


def test_a_new_sidecar():
    content = with_tags(None, Record(MODEL, DATE, [ScoredTag("Beach", 0.8807971), ScoredTag("a & <b>", 0.5)]))
    assert keywords(content) == ["Beach", "a & <b>"]
    assert xmp.record(content) == Record(MODEL, DATE, [ScoredTag("Beach", 0.880797), ScoredTag("a & <b>", 0.5)])
    assert content.decode().startswith('<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta ')
    assert xmp.untagged(content) is None


def test_no_tags_no_sidecar():
    assert xmp.tagged(None, made()) is None


@pytest.mark.parametrize("program", PROGRAMS)
def test_beside_what_other_programs_wrote(program: str):
    theirs = PROGRAMS[program].encode()
    assert xmp.subjects(theirs) == ["Italy", "golden hour"]
    assert xmp.record(theirs) is None
    both = with_tags(theirs, made("Sea", "Golden_Hour", "#italy"))
    # What is there already, however it is spelt, is not written, nor said to be ours.
    assert keywords(both) == ["Italy", "golden hour", "Sea"]
    assert xmp.record(both) == made("Sea")
    assert xmp.untagged(both) == theirs


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_line_of_theirs_stays(program: str):
    theirs = PROGRAMS[program].encode()
    both = iter(with_tags(theirs, made("Sea")).splitlines())
    assert all(line in both for line in theirs.splitlines())


def test_tags_are_laid_out_as_the_file_is():
    lines = with_tags(LIGHTROOM.encode(), made("Sea")).decode().splitlines()
    at = lines.index("     <rdf:li>golden hour</rdf:li>")
    assert lines[at + 1 : at + 3] == ["     <rdf:li>Sea</rdf:li>", "    </rdf:Bag>"]
    at = lines.index("  </rdf:Description>")
    assert lines[at + 1].startswith('  <rdf:Description rdf:about="" xmlns:socialtag=')
    assert lines[at + 2].startswith("   <socialtag:Model>")


def test_only_known_tags_leave_the_file_as_it_is():
    theirs = DARKTABLE.encode()
    assert xmp.tagged(theirs, made("italy", "goldenhour")) == theirs


def test_a_new_model_replaces_the_tags_of_the_last_one():
    theirs = LIGHTROOM.encode()
    first = with_tags(theirs, made("Sea", "Sun"))
    second = made("Snow", model="f" * 64, date="2027-01-01T00:00:00+00:00")
    both = with_tags(first, second)
    assert keywords(both) == ["Italy", "golden hour", "Snow"]
    assert xmp.record(both) == second
    assert xmp.tagged(both, made()) == theirs
    assert xmp.tagged(first, made("Sea", "Sun")) == first


def test_a_tag_that_its_owner_took_out_stays_out():
    both = with_tags(LIGHTROOM.encode(), made("Sea", "Sun"))
    edited = both.replace(b"     <rdf:li>Sea</rdf:li>\n", b"")
    assert xmp.untagged(edited) == LIGHTROOM.encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"</x:xmpmeta>\n", b"</x:xmpmeta>\n<!-- mine -->\n"),
        (b"</dc:subject>", b'</dc:subject><xmp:Rating xmlns:xmp="http://ns.adobe.com/xap/1.0/">3</xmp:Rating>'),
        (b"     <rdf:li>Beach</rdf:li>", b"     <rdf:li>mine</rdf:li>\n     <rdf:li>Beach</rdf:li>"),
        (b"<dc:subject>", b"<!-- mine --><dc:subject>"),
        (b"<rdf:Description ", b'<rdf:Description xml:lang="de" '),
    ],
)
def test_a_sidecar_of_ours_that_holds_something_else_stays(old: bytes, new: bytes):
    content = with_tags(None, made("Beach"))
    assert content.count(old) == 1
    left = xmp.untagged(content.replace(old, new))
    assert left is not None
    assert not xmp.may_be_ours(left)
    assert keywords(left) == (["mine"] if b"<rdf:li>mine" in new else [])
    for words in (b"<!-- mine -->", b"Rating", b'xml:lang="de"'):
        assert (words in left) == (words in new)


def infoset(content: bytes) -> str:
    return ElementTree.canonicalize(content.decode("utf-8"), strip_text=True, with_comments=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_after_another_program_wrote_the_file_anew(program: str):
    """ElementTree writes other prefixes, quotes, white space and declarations; exiv2 and exiftool: see `interop`."""
    theirs = PROGRAMS[program].encode()
    anew = ElementTree.tostring(ElementTree.fromstring(with_tags(theirs, made("Sea", "Sun"))))
    assert xmp.record(anew) == made("Sea", "Sun")
    left = xmp.untagged(anew)
    assert left is not None
    assert not xmp.may_be_ours(left)
    assert infoset(left) == infoset(ElementTree.tostring(ElementTree.fromstring(theirs)))


def test_our_namespace_stays_declared_where_something_else_needs_it():
    """A program that keeps a history of metadata may hold a copy of ours in its own properties."""
    own = ' xmlns:socialtag="urn:x-socialtag-jax:xmp:1.0/" xmlns:h="urn:history"'
    theirs = packet("<h:was><socialtag:Model>old</socialtag:Model></h:was>", own).encode()
    both = with_tags(theirs, made("Sea"))
    assert xmp.untagged(both) == theirs


SUBJECTS = {
    "none": "",
    "closed list": "<dc:subject><rdf:Bag/></dc:subject>",
    "closed list, spaced": "<dc:subject> <rdf:Seq  /> </dc:subject>",
    "open list": "<dc:subject><rdf:Bag></rdf:Bag></dc:subject>",
    "list of white space": "<dc:subject><rdf:Bag>\n </rdf:Bag></dc:subject>",
    "list of a comment": "<dc:subject><rdf:Bag><!-- none --></rdf:Bag></dc:subject>",
    "one": "<dc:subject><rdf:Bag><rdf:li>x</rdf:li></rdf:Bag></dc:subject>",
    "odd white space": "<dc:subject>\t<rdf:Bag>\r\n\r\n  <rdf:li>x</rdf:li\n> <rdf:li >y</rdf:li> \n</rdf:Bag>"
    "</dc:subject>",
    "empty item": "<dc:subject><rdf:Bag><rdf:li/></rdf:Bag></dc:subject>",
    "alternative with a language": '<dc:subject><rdf:Alt><rdf:li xml:lang="de">x</rdf:li></rdf:Alt></dc:subject>',
    "CDATA and references": "<dc:subject><rdf:Bag><rdf:li><![CDATA[<x>]]>&amp;&#228;</rdf:li></rdf:Bag></dc:subject>",
    "qualified": "<dc:subject><rdf:Bag><rdf:li rdf:parseType='Resource'><rdf:value>x</rdf:value></rdf:li></rdf:Bag>"
    "</dc:subject>",
    "twice the same": "<dc:subject><rdf:Bag><rdf:li>x</rdf:li><rdf:li>x</rdf:li></rdf:Bag></dc:subject>",
}
OTHERS = (
    "",
    "\n   ",
    "<!-- mine: <not> & a tag -->",
    "<?program keeps this?>",
    '<a:b xmlns:a="urn:unknown" a:c=\'>"\' d="/>">text &lt; <a:e/></a:b>',
    "<dc:title><rdf:Alt><rdf:li xml:lang='x-default'>T</rdf:li></rdf:Alt></dc:title>",
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)


@st.composite
def sidecars(draw: st.DrawFn) -> bytes:
    """Sidecars in all of the ways that XML can be written."""
    rdf = draw(st.sampled_from(("rdf", "r")))
    newline = draw(st.sampled_from(("", "\n", "\n  ", "\r\n\t", " ")))
    descriptions = []
    subject = SUBJECTS[draw(st.sampled_from(sorted(SUBJECTS)))].replace("rdf:", f"{rdf}:")
    for number in range(draw(st.integers(0, 3))):
        parts = [text.replace("rdf:", f"{rdf}:") for text in draw(st.lists(st.sampled_from(OTHERS), max_size=3))]
        parts += [subject] if number == 0 else []
        about = draw(st.sampled_from((f'{rdf}:about=""', f"{rdf}:about = 'uuid:&amp;\"'", 'about=""', "")))
        start = f'<{rdf}:Description {about} xmlns:dc="http://purl.org/dc/elements/1.1/"'
        inside = newline.join(draw(st.permutations(parts)))
        descriptions.append(f"{start}>{inside}</{rdf}:Description>" if inside else f"{start} />")
    between = draw(st.sampled_from(("", "<!-- between -->")))
    inside = "".join(f"{newline}{between}{one}" for one in descriptions) + (newline if descriptions else "")
    name = f'{rdf}:RDF xmlns:{rdf}="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    tail = draw(st.sampled_from(("", " ", "\n")))
    text = f"<{name}>{inside}</{rdf}:RDF>" if inside or draw(st.booleans()) else f"<{name}{tail}/>"
    if draw(st.booleans()):
        text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="any">{newline}{text}{newline}</x:xmpmeta>'
    if draw(st.booleans()):
        text = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{text}<?xpacket end="w"?>\n  '
    codec = draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16")))
    if draw(st.booleans()):
        text = f'<?xml version="1.0" encoding="{codec[:6].strip("-")}"?>\n{text}'
    return text.encode(codec)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_form_of_the_list_is_restored(subject: str):
    theirs = packet(SUBJECTS[subject]).encode()
    both = with_tags(theirs, made("Sea", "Sun"))
    assert keywords(both) == [*keywords(theirs), "Sea", "Sun"]
    assert xmp.untagged(both) == theirs


def test_a_comment_in_a_list_that_we_made_stays():
    both = with_tags(packet("").encode(), made("Sea")).replace(b"<rdf:li>Sea", b"<!-- mine --><rdf:li>Sea", 1)
    left = xmp.untagged(both)
    assert left is not None
    assert b"<!-- mine -->" in left
    assert keywords(left) == []


def test_text_beside_our_properties_stays():
    both = with_tags(packet("").encode(), made("Sea")).replace(b"<socialtag:Model>", b"mine<socialtag:Model>", 1)
    left = xmp.untagged(both)
    assert left is not None
    assert b"mine" in left


@given(sidecars(), st.lists(TEXTS, max_size=4))
def test_written_and_taken_out_restores_every_byte(theirs: bytes, texts: list[str]):
    before = keywords(theirs)
    both = with_tags(theirs, made(*texts))
    assert keywords(both)[: len(before)] == before
    record = xmp.record(both)
    ours = [one.text for one in record.tags] if record else []
    assert [text.strip() for text in keywords(both)[len(before) :]] == ours
    assert (both == theirs) == (not ours)
    assert xmp.untagged(both) == theirs
    assert xmp.tagged(both, made(*texts)) == both
    assert xmp.tagged(both, made()) == theirs


@given(sidecars(), st.lists(TEXTS, min_size=1, max_size=4))
def test_written_and_taken_out_after_another_program_restores_the_infoset(theirs: bytes, texts: list[str]):
    def anew(content: bytes) -> bytes:
        return ElementTree.tostring(ElementTree.fromstring(content))

    left = xmp.untagged(anew(with_tags(theirs, made(*texts))))
    assert left is not None
    # That a list or the whole was written as an empty tag is restored too; what differs is white space.
    assert infoset(left) == infoset(anew(theirs))


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
HOSTILE = {
    "not XML": (b"\xff\xd8\xff\xe0 a photo", "not UTF-8 text at byte offset 0"),
    "nothing": (b"", "not well-formed XML: no element found"),
    "cut short": (LIGHTROOM.encode()[:500], "not well-formed XML"),
    "entities": (BOMB.encode() + packet("&b;").encode(), "has a document type"),
    "external entity": (OUTSIDE.encode() + packet("&a;").encode(), "has a document type"),
    "external subset": (b'<!DOCTYPE x SYSTEM "http://example.com/x.dtd">' + packet("").encode(), "has a document type"),
    "unknown entity": (packet("&a;").encode(), "not well-formed XML: undefined entity"),
    "undeclared prefix": (packet("<a:b/>").encode(), "not well-formed XML: unbound prefix"),
    "deep": (packet("<dc:a>" * 200 + "</dc:a>" * 200).encode(), "more than 100 in each other"),
    "many": (packet("<dc:a/>" * 200_000).encode(), "more than 200,000 elements"),
    "large": (b" " * ((16 << 20) + 1), "expected at most 16,777,216"),
    "another encoding": (
        b'<?xml version="1.0" encoding="latin1"?>' + packet("").encode(),
        "declares the encoding latin1",
    ),
    "half UTF-16": (b"\xff\xfe" + "<x".encode("utf-16-le") + b"\x00", "not UTF-16-LE text at byte offset"),
    "another root": (b"<html/>", "is not XMP: expected one rdf:RDF"),
    "no RDF": (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "is not XMP: expected one rdf:RDF"),
    "subject as an attribute": (packet("", ' dc:subject="x"').encode(), "dc:subject is an attribute"),
    "subject as text": (packet("<dc:subject>x</dc:subject>").encode(), "dc:subject is not one list"),
    "empty subject": (packet("<dc:subject/>").encode(), "dc:subject is not one list"),
    "two subjects": (packet("<dc:subject><rdf:Bag/></dc:subject>" * 2).encode(), "dc:subject is not one list"),
    "text in the list": (
        packet("<dc:subject><rdf:Bag>x</rdf:Bag></dc:subject>").encode(),
        "dc:subject is not one list",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_left_alone(case: str):
    content, words = HOSTILE[case]
    with pytest.raises(UserError, match=words):
        xmp.tagged(content, made("Sea"))
    with pytest.raises(UserError, match=words):
        xmp.untagged(content)


@given(st.sampled_from(sorted(PROGRAMS)), st.integers(0, 3000), st.integers(0, 40), st.binary(max_size=8))
def test_a_damaged_sidecar_is_read_or_refused(program: str, at: int, length: int, new: bytes):
    """Whatever a part of it is replaced by, there is an answer: bytes, no file, or the error of ours."""
    both = with_tags(PROGRAMS[program].encode(), made("Sea", "Sun"))
    damaged = both[:at] + new + both[at + length :]
    with contextlib.suppress(UserError):
        left = xmp.untagged(damaged)
        assert left is None or len(left) <= len(damaged)


def test_a_record_that_another_program_mangled():
    """A score that is no number, a structure without a tag, an unknown origin: the tags go all the same."""
    both = with_tags(LIGHTROOM.encode(), made("Sea")).replace(b"0.500000", b"high").replace(b">subject<", b">?<")
    extra = b"<socialtag:Tags>\n    <rdf:Bag>"
    assert both.count(extra) == 1
    assert xmp.untagged(both.replace(extra, extra + b'<rdf:li rdf:parseType="Resource"/>')) == LIGHTROOM.encode()


def test_no_tag_breaks_the_xml():
    texts = ["\ufffe", "a\uffffb", "]]>", "\"'", "\U0001f3d6", "\u2028x"]
    content = with_tags(None, made(*texts))
    assert keywords(content) == ["ab", "]]>", "\"'", "\U0001f3d6", "\u2028x"]
    assert xmp.untagged(content) is None


def test_offsets_are_those_of_the_file():
    document = xml_tree.parse("<a b='>'><ä>é</ä ><c/>\n</a>".encode("utf-16"))
    first, second = document.root.children
    assert document.data[first.start : first.end].decode() == "<ä>é</ä >"
    assert document.data[first.inside : first.close].decode() == "é"
    assert document.data[second.start : second.end] == b"<c/>"
    assert second.is_empty_tag
    assert not first.is_empty_tag
