"""WARC and WET files, record by record: pages become text, and of a file cut short all that is whole is kept.

The framing is read here, because the libraries that read it end in silence where a file does. HTTP and HTML are
FastWARC's and Resiliparse's, languages py3langid's (extra `warc`).
"""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from curation.errors import MissingExtraError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier
    from resiliparse.parse.html import HTMLTree

MOST_BYTES = 16 * 2**20  # of a record's block, and of a page: Common Crawl keeps 5 MiB
MOST_HEADER = 2**20
HTML, PLAIN = ("text/html", "application/xhtml+xml"), "text/plain"
NO_DOCUMENT = ("warcinfo", "request", "metadata")  # they tell of the crawl; all other records are named if not taken
LANGUAGE_CHARACTERS = 2_000  # of a text, enough to tell its language by
UNSURE = 0.5  # a language less probable is told as `und`, undetermined
# Resiliparse takes the square of the depth: a second at some 4,000 <div>, hours at the 3 million that fit into a page.
DEEP, MANY_TAGS = 1_000, 4_000
BATCH_BYTES = 1 << 22

SCHEMA = pa.schema(
    [
        ("file", pa.string()), ("block", pa.int64()), ("ordinal", pa.int64()), ("id", pa.string()),
        ("text", pa.string()), ("license", pa.string()), ("metadata", pa.map_(pa.string(), pa.string())),
        ("reason", pa.string()), ("detail", pa.string()),
    ]
)  # fmt: skip
ROWS = (
    "file string, block bigint, ordinal bigint, id string, text string, license string, "
    "metadata map<string,string>, reason string, detail string"
)


@dataclass(frozen=True)
class Record:
    """A whole record. begins: the byte of the file where it, or the gzip member that holds it, begins.

    headers by their names in lower case. block: at most as many bytes as were asked for, of `length`.
    """

    begins: int
    head: bytes
    headers: dict[str, str]
    block: bytes
    length: int

    @property
    def type(self) -> str:
        return self.headers.get("warc-type", "").lower()


@dataclass(frozen=True)
class Cut:
    """From here on a file can't be read: where the first record that isn't whole begins, and why it isn't."""

    begins: int
    why: str


@dataclass
class Page:
    """What a record gives: a text, or the reason why it has none."""

    id: str | None = None
    text: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    detail: str | None = None


def check_installed() -> None:
    """MissingExtraError, with the command that installs it, where a library isn't there."""
    for name in ("fastwarc", "resiliparse", "py3langid"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"reading WARC files (there is no {name})", "warc")


# -- records -----------------------------------------------------------------------------------------------------------


class _BrokenError(Exception):
    pass


def read_records(stream: BinaryIO, *, most_bytes: int = MOST_BYTES) -> Iterator[Record | Cut]:
    """Every whole record of a WARC, plain or gzipped; last of all a Cut, if the file goes on or should go on.

    A record is whole when all of its block is there, and in a gzipped file its member's checksum holds as well.
    """
    reader = _Reader(stream)
    begins = 0
    try:
        while reader.at_record():
            begins = reader.begins
            head, headers = reader.head()
            length = _length(headers)
            block = reader.take(length, keep=most_bytes)
            reader.close_record()
            yield Record(begins, head, headers, block, length)
    except _BrokenError as error:
        yield Cut(reader.begins if reader.between else begins, str(error))


def _length(headers: dict[str, str]) -> int:
    said = headers.get("content-length", "")
    if not re.fullmatch("[0-9]{1,18}", said):
        raise _BrokenError(f"the record's Content-Length is {said[:40]!r}")
    return int(said)


class _Reader:
    """A WARC's bytes, as far as they are needed. between: of two records, where a break harms neither."""

    def __init__(self, stream: BinaryIO) -> None:
        self._held = bytearray()
        self._taken = 0  # bytes of the content before those held
        self._members = 0  # where the gzip member begins
        self._empty = self.between = True
        first = stream.read(1 << 16)
        self._gzipped = first.startswith(b"\x1f\x8b")
        pieces = self._gunzip if self._gzipped else self._plain
        self._pieces = pieces(stream, first)

    @property
    def begins(self) -> int:
        return self._members if self._gzipped else self._taken

    def at_record(self) -> bool:
        """False at the end of the file, where a record may begin or not."""
        self.between = True
        while self._blank():  # the lines that end a record may go on in another gzip member
            if self._more() is None:
                if self._empty:
                    raise _BrokenError("the file holds no record")
                return False
        self._empty = self.between = False
        return True

    def head(self) -> tuple[bytes, dict[str, str]]:
        while not (end := re.search(rb"\r?\n\r?\n", self._held)):
            if not b"WARC/".startswith(self._held[:5]):
                raise _BrokenError("no WARC record begins where one should")
            if len(self._held) > MOST_HEADER:
                raise _BrokenError("the record's header has no end")
            self._need()
        head = self._drop(end.end())
        if not head.startswith(b"WARC/"):
            raise _BrokenError("no WARC record begins where one should")
        return head, _headers(head)

    def take(self, length: int, *, keep: int) -> bytes:
        """The next `length` bytes, of which no more than `keep` are kept."""
        kept = bytearray()
        while length:
            if not self._held:
                self._need()
            piece = self._drop(min(length, len(self._held)))
            length -= len(piece)
            kept += piece[: keep - len(kept)]
        return bytes(kept)

    def close_record(self) -> None:
        """Past the lines that end a record; in a gzipped file up to its member's checksum or more content."""
        while self._blank() and self._more():
            pass

    def _blank(self) -> bool:
        """Whether nothing is held but the ends of lines, which are dropped."""
        while self._held[:1] in (b"\r", b"\n"):
            self._drop(1)
        return not self._held

    def _drop(self, count: int) -> bytes:
        piece = bytes(self._held[:count])
        del self._held[:count]
        self._taken += count
        return piece

    def _need(self) -> None:
        """More of the record that is being read: it may go on in another gzip member, but the file must hold it."""
        while (piece := self._more()) is not None:
            if piece:
                return
        raise _BrokenError("the file ends within the record")

    def _more(self) -> bytes | None:
        """The next piece, held from now on; without a byte where a gzip member ends, None at the file's end."""
        piece = next(self._pieces, None)
        self._held += piece or b""
        return piece

    def _plain(self, stream: BinaryIO, first: bytes) -> Iterator[bytes]:
        while first:
            yield first
            first = stream.read(1 << 16)

    def _gunzip(self, stream: BinaryIO, data: bytes) -> Iterator[bytes]:
        read, most = len(data), 1 << 18  # a few bytes may stand for a gigabyte
        while True:
            data = data.lstrip(b"\0")  # padding
            if not data:
                data = stream.read(1 << 16)
                read += len(data)
                if not data:
                    return
                continue
            self._members = read - len(data)
            member, piece = zlib.decompressobj(wbits=31), b""
            while not member.eof:
                if not data and len(piece) < most:
                    data = stream.read(1 << 16)
                    read += len(data)
                    if not data:
                        raise _BrokenError("the file ends within the record")
                try:
                    piece = member.decompress(data, most)
                except zlib.error as error:
                    raise _BrokenError(f"the gzip is damaged ({error})") from error
                data = member.unconsumed_tail
                if piece:
                    yield piece
            data = member.unused_data
            yield b""


def _headers(head: bytes) -> dict[str, str]:
    """Names in lower case; the first of a name counts, a line that begins with space goes on with the one before."""
    unfolded = re.sub(r"\r?\n[ \t]+", " ", head.decode("utf-8", "replace"))
    pairs = (line.partition(":") for line in unfolded.split("\n")[1:])
    found: dict[str, str] = {}
    for name, colon, value in pairs:
        if colon:
            found.setdefault(name.strip().lower(), value.strip())
    return found


# -- pages -------------------------------------------------------------------------------------------------------------


def read_page(record: Record, *, max_bytes: int) -> Page | None:
    """The text that a record holds, or the reason why it holds none; None for records that only tell of the crawl."""
    if record.type in NO_DOCUMENT:
        return None
    headers = record.headers
    page = Page(headers.get("warc-record-id", "").strip("<>").removeprefix("urn:uuid:") or None)
    known = {"url": headers.get("warc-target-uri", "").strip("<>"), "crawled": headers.get("warc-date")}
    page.metadata = {name: value for name, value in known.items() if value}
    if truncated := headers.get("warc-truncated"):
        page.metadata["truncated"] = truncated
    if record.type == "conversion":
        _take_text(page, record, max_bytes)
    elif record.type in ("response", "resource"):
        _take_page(page, record)
    else:
        page.reason, page.detail = "not_text", f"the record's type is {record.type or 'missing'}"
    if page.text and page.text.strip() and page.reason is None:
        page.metadata["language"] = language(page.text)
    return page


def _take_text(page: Page, record: Record, max_bytes: int) -> None:
    """Of WET: the text as it is."""
    page.metadata["content_type"] = _media_type(record.headers.get("content-type", PLAIN))
    if record.length > max_bytes:
        page.reason = "too_long"
        return
    try:
        page.text = record.block.decode("utf-8")
    except UnicodeDecodeError:
        page.reason = "not_utf8"


def _take_page(page: Page, record: Record) -> None:
    kind = _media_type(record.headers.get("content-type", ""))
    charset, body = None, record.block
    if kind == "application/http":
        try:
            status, kind, charset, read = _open_http(record.block)
            if status != 200:
                page.reason, page.detail = "http_status", f"the server answered {status}"
                return
            kind = kind or _media_type(record.headers.get("warc-identified-payload-type", ""))
            body = read() if kind in (*HTML, PLAIN) else b""
        except (OSError, ValueError) as error:
            page.reason, page.detail = "malformed_http", str(error)[:200]
            return
    if kind:
        page.metadata["content_type"] = kind
    if kind not in (*HTML, PLAIN):
        page.reason, page.detail = "not_text", f"the content type is {kind or 'missing'}"
    elif record.length > len(record.block) or len(body) > MOST_BYTES:
        page.reason, page.detail = "too_long", f"the page is longer than {MOST_BYTES:,} bytes"
    else:
        text, page.metadata["charset"] = _decode(body, charset)
        if kind == PLAIN:
            page.text = text
        else:
            _extract(page, text)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _open_http(block: bytes) -> tuple[int, str, str | None, Callable[[], bytes]]:
    """Status, media type, charset, and what reads the body with its encodings undone, one byte too far at most."""
    from fastwarc.warc import WarcRecord

    head = b"WARC/1.1\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    record = WarcRecord.from_bytes(head + b"Content-Length: %d\r\n\r\n" % len(block) + block)
    record.parse_http(auto_decode="all", quirks_mode=True)
    headers = record.http_headers
    if headers is None or headers.status_code is None or record.reader is None:
        raise ValueError("there is no HTTP header")
    read = partial(record.reader.read, MOST_BYTES + 1)
    return headers.status_code, _media_type(record.http_content_type or ""), record.http_charset, read


def _decode(body: bytes, charset: str | None) -> tuple[str, str]:
    """By the HTTP header, else by the page's own word, else by its bytes, as browsers do; (text, encoding)."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    said = map_encoding_to_html5(charset.strip("\"' "), fallback_utf8=False) if charset else None
    encoding = said or detect_encoding(body, from_html_meta=True) or "utf-8"
    if encoding.startswith("utf-16") and not said:
        encoding = detect_encoding(body) or "utf-8"  # a page whose own word is ASCII is no UTF-16, whatever it says
    if encoding == "cp1252" and _is_utf8(body):
        encoding = "utf-8"  # what servers say who don't know better; text in cp1252 is never UTF-8 by chance
    return bytes_to_str(body, encoding, errors="replace", fallback_encodings=()), encoding


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _extract(page: Page, html: str) -> None:
    """The main content, without navigation, headers and footers; the title goes into the metadata."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if html.count("<") > MANY_TAGS and _depth(html) > DEEP:
        page.reason, page.detail = "malformed_html", f"its elements nest deeper than {DEEP:,} levels"
        return
    try:
        tree = HTMLTree.parse(html)
        _keep_lists(tree)
        page.text = extract_plain_text(tree, main_content=True, alt_texts=False)
        title = tree.title
    except (ValueError, RuntimeError) as error:  # of these are the library's own
        page.reason, page.detail = "malformed_html", str(error)[:200]
        return
    if title:
        page.metadata["title"] = title


def _keep_lists(tree: HTMLTree) -> None:
    """Hold on to lists of prose: Resiliparse takes any <ul> less than three elements below <body> for navigation."""
    if tree.body is None:
        return
    # values(): a list, where going through what a query finds asks it again for each.
    for found in tree.body.query_selector_all("body > ul, body > * > ul, body > * > * > ul").values():
        linked = sum(len(link.text or "") for link in found.query_selector_all("a").values())
        if 2 * linked < len(found.text or ""):
            inner = outer = tree.create_element("div")
            for _ in range(2):
                inner = inner.append_child(tree.create_element("div"))
            found.replace_with(outer)
            inner.append_child(found)


# Elements that end by themselves, or hold nothing, nest nothing.
_FLAT = (
    "area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr|"
    "a|p|li|d[dt]|t[drh]|tbody|thead|tfoot|colgroup|option|optgroup|rt|rp"
)
_TAG = re.compile(rf"<(/?)(?!(?:{_FLAT})\b)[a-z][^<>]*?(/?)>", re.IGNORECASE)


def _depth(html: str) -> int:
    """How deep elements nest, at most: tags are counted as they stand."""
    depth = deepest = 0
    for close, empty in _TAG.findall(html):
        depth = max(0, depth - 1) if close else depth + (not empty)
        deepest = max(deepest, depth)
    return deepest


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=UNSURE)


def language(text: str) -> str:
    """ISO 639-1, or 639-3 for languages without one, of the text's beginning; `und` where none is likely."""
    return str(_identifier().classify(text[:LANGUAGE_CHARACTERS])[0])


# -- rows --------------------------------------------------------------------------------------------------------------


def read_files(
    paths: list[str], open_file: Callable[[str], BinaryIO], *, max_bytes: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For mapInArrow over numbers of `paths`: ROWS of those files, a record's number as its ordinal."""

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                with open_file(paths[number]) as stream:
                    yield from file_rows(stream, paths[number], max_bytes=max_bytes)

    return rows


def file_rows(stream: BinaryIO, name: str, *, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """A file's records as ROWS, in batches of some megabytes; where it is cut short, a last row says where."""
    held: list[tuple[object, ...]] = []
    size = 0
    for number, record in enumerate(read_records(stream, most_bytes=max(MOST_BYTES, max_bytes)), 1):
        page = _cut(record) if isinstance(record, Cut) else read_page(record, max_bytes=max_bytes)
        if page is None:
            continue
        text = page.text if page.reason is None else None
        held.append((name, -1, number, page.id, text, None, list(page.metadata.items()), page.reason, page.detail))
        size += len(text or "") + 1_000
        if size >= BATCH_BYTES:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _cut(cut: Cut) -> Page:
    return Page(reason="cut_short", detail=f"{cut.why}; from byte {cut.begins:,} of the file on nothing is read")


def _batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA
    )
