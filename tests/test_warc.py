"""curation/warc.py: every whole record is read, as the specification frames it, and pages become their text."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyspark
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from betr import pipeline
from betr.run import Run
from betr.stages import check_inputs, import_documents
from betr.tables import DOCUMENTS, REJECTED_DOCUMENTS
from curation import warc
from curation.documents import MAX_BYTES, InputFile, n_chunks
from curation.errors import InputError, MissingExtraError
from curation.slices import cut_slices
from curation.warc import Cut, Record, file_rows, language, read_page, read_records
from tests.helpers import settings

ENGLISH = "The lighthouse keeper wrote down the weather every morning, and in the evening he lit the lamp again. "
GERMAN = "Der Leuchtturmwärter schrieb jeden Morgen das Wetter auf, und am Abend zündete er die Lampe wieder an. "


# -- files, made by hand from ISO 28500 --------------------------------------------------------------------------------


def record(kind: str, block: bytes, number: int = 0, **headers: str) -> bytes:
    said = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:00000000-0000-4000-8000-{number:012}>",
        "WARC-Date": "2026-05-04T03:02:01Z",
        "Content-Type": "text/plain",
        **{name.replace("_", "-"): value for name, value in headers.items()},
        "Content-Length": str(len(block)),
    }
    head = "WARC/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in said.items()) + "\r\n"
    return head.encode() + block + b"\r\n\r\n"


def answer(body: bytes, number: int = 0, *, status: str = "200 OK", kind: str | None = "text/html", **http: str) -> bytes:
    said = {**({"Content-Type": kind} if kind is not None else {}), **{n.replace("_", "-"): v for n, v in http.items()}}
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in said.items()) + "\r\n"
    return record(
        "response", head.encode() + body, number,
        Content_Type="application/http; msgtype=response", WARC_Target_URI=f"https://example.org/{number}",
    )  # fmt: skip


def page(text: str, title: str = "A title") -> bytes:
    return (
        f"<!doctype html><html><head><title>{title}</title><style>p {{ color: red }}</style></head><body>"
        f"<nav><a href=/>Home</a> <a href=/about>About</a></nav><main><h1>Heading</h1><p>{text}</p></main>"
        f"<footer>All rights reserved</footer><script>let x = '<p>no text</p>';</script></body></html>"
    ).encode()


def crawl(count: int) -> list[bytes]:
    """As crawlers write: for each page what was asked and what was answered."""
    parts = [record("warcinfo", b"software: by hand\r\n", 999)]
    for number in range(count):
        parts.append(record("request", b"GET / HTTP/1.1\r\n\r\n", 100 + number))
        parts.append(answer(page(f"{ENGLISH * 3}Number {number}."), number))
    return parts


def zipped(parts: list[bytes]) -> bytes:
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


def reference(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """The specification, slowly: version line, named fields, an empty line, Content-Length bytes, two empty lines."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        version, *lines = head.decode().split("\r\n")
        assert version.startswith("WARC/")
        headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines}
        length = int(headers["content-length"])
        assert rest[length : length + 4] == b"\r\n\r\n"
        found.append((headers, rest[:length]))
        data = rest[length + 4 :]
    return found


def records(data: bytes, **options: int) -> list[Record | Cut]:
    return list(read_records(io.BytesIO(data), **options))


def whole(data: bytes) -> list[Record]:
    found = records(data)
    assert all(isinstance(each, Record) for each in found), found[-1]
    return [each for each in found if isinstance(each, Record)]


def rows(data: bytes, **options: int) -> list[dict[str, Any]]:
    found = pa.Table.from_batches(
        file_rows(io.BytesIO(data), "crawl.warc.gz", **{"max_bytes": MAX_BYTES, **options}), schema=warc.SCHEMA
    ).to_pylist()
    return [{**row, "metadata": dict(row["metadata"])} for row in found]


def only(data: bytes) -> dict[str, Any]:
    (row,) = rows(data)
    return row


# -- records -----------------------------------------------------------------------------------------------------------

blocks = st.lists(st.binary(max_size=300) | st.just(b"\r\n\r\nWARC/1.0\r\n\r\n"), min_size=1, max_size=8)


@given(blocks=blocks, members=st.sampled_from(["plain", "one a record", "one for all", "cut anywhere"]))
def test_records_are_those_of_the_specification(blocks: list[bytes], members: str) -> None:
    parts = [record("resource", block, number) for number, block in enumerate(blocks)]
    data = b"".join(parts)
    half = len(data) // 2
    data = {
        "plain": data, "one a record": zipped(parts), "one for all": zipped([data]),
        "cut anywhere": zipped([data[:half], data[half:]]),
    }[members]  # fmt: skip
    found = [(each.headers, each.block) for each in whole(data)]
    assert found == reference(data)


def test_what_is_read_at_once_changes_no_record() -> None:
    data = zipped(crawl(40))

    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size or 7))

    assert list(read_records(Trickle(data))) == records(data)
    assert list(read_records(Trickle(gzip.decompress(data)))) == records(gzip.decompress(data))


def test_a_record_begins_where_it_says() -> None:
    parts = crawl(3)
    for written in (b"".join(parts), zipped(parts)):
        at = [each.begins for each in whole(written)]
        pieces = parts if written[:4] == b"WARC" else [gzip.compress(part, mtime=0) for part in parts]
        assert at == [sum(map(len, pieces[:n])) for n in range(len(pieces))]


def test_a_long_block_is_passed_over_and_not_held() -> None:
    data = zipped([record("resource", b"x" * 5_000_000, 1), record("resource", b"y", 2)])
    long, short = records(data, most_bytes=1_000)
    assert isinstance(long, Record) and isinstance(short, Record)
    assert long.block == b"x" * 1_000 and long.length == 5_000_000 and short.block == b"y"


def test_folded_fields_and_lone_newlines_are_read() -> None:
    (found,) = whole(b"WARC/1.1\nWARC-Type: resource\nX-Long: one\n  two\nContent-length:3\n\nabc\n\n")
    assert found.headers["x-long"] == "one two" and found.block == b"abc" and found.type == "resource"


# -- files that are cut short ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "gz"])
def test_of_a_file_cut_anywhere_what_is_whole_is_kept_and_the_rest_named(form: str) -> None:
    parts = [record("resource", b"%d" % n * 40, n) for n in range(3)]
    pieces = parts if form == "plain" else [gzip.compress(part, mtime=0) for part in parts]
    data = b"".join(pieces)
    ends = [sum(map(len, pieces[: n + 1])) for n in range(3)]
    for cut in range(len(data)):
        found = records(data[:cut])
        # The empty lines behind a record hold nothing; the checksum behind a gzip member does.
        there = sum(end - (4 if form == "plain" else 0) <= cut for end in ends)
        kept = [each for each in found if isinstance(each, Record)]
        assert [each.block for each in kept] == [b"%d" % n * 40 for n in range(there)], cut
        begins = ends[there - 1] if there else 0
        if cut > begins or cut == 0:
            (last,) = [each for each in found if isinstance(each, Cut)]
            assert found[-1] is last and last.begins == begins, cut
        else:
            assert len(found) == there, cut


@pytest.mark.parametrize("form", ["plain", "gz"])
@pytest.mark.parametrize("damage", ["garbage between", "bytes flipped", "length gone"])
def test_of_a_damaged_file_what_comes_before_is_kept(form: str, damage: str) -> None:
    parts = [record("resource", bytes([65 + n]) * 300, n) for n in range(4)]
    if damage == "length gone":
        parts[2] = parts[2].replace(b"Content-Length", b"Content-Breadth")
    pieces = parts if form == "plain" else [gzip.compress(part, mtime=0) for part in parts]
    if damage == "garbage between":
        pieces[2] = b"garbage " * 10 + pieces[2]
    if damage == "bytes flipped":
        pieces[2] = bytes(byte ^ 0x55 for byte in pieces[2])
    *kept, last = records(b"".join(pieces))
    assert [each.block[:1] for each in kept if isinstance(each, Record)] == [b"A", b"B"]
    assert isinstance(last, Cut) and last.begins == len(pieces[0]) + len(pieces[1])


def test_where_a_file_is_cut_is_a_row_with_its_place() -> None:
    data = zipped(crawl(4))
    *kept, last = rows(data[:-20])
    assert [row["ordinal"] for row in kept] == [3, 5, 7] and not any(row["reason"] for row in kept)
    assert last["ordinal"] == 9 and last["reason"] == "cut_short" and last["text"] is None
    begins = whole(data)[-1].begins
    assert last["detail"] == f"the file ends within the record; from byte {begins:,} of the file on nothing is read"


def test_an_empty_file_and_one_of_something_else_are_named() -> None:
    assert only(b"")["detail"].startswith("the file holds no record;")
    assert only(b"PK\x03\x04 a zip file")["detail"].startswith("no WARC record begins where one should;")
    assert only(gzip.compress(b'{"text": "a line"}\n'))["reason"] == "cut_short"


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_end_an_import(noise: bytes, inside: bool) -> None:
    data = record("warcinfo", b"x") + (noise if not inside else gzip.compress(noise)) + record("warcinfo", b"y")
    assert isinstance(records(data)[0], Record)
    rows(data), rows(noise)


# -- pages -------------------------------------------------------------------------------------------------------------


def test_a_page_becomes_its_main_text_with_where_and_when_it_was_found() -> None:
    row = only(answer(page(ENGLISH.strip()), 7))
    assert row["text"] == f"Heading\n\n{ENGLISH.strip()}"
    assert row["id"] == "00000000-0000-4000-8000-000000000007"
    assert row["metadata"] == {
        "url": "https://example.org/7", "crawled": "2026-05-04T03:02:01Z", "content_type": "text/html",
        "charset": "utf-8", "title": "A title", "language": "en",
    }  # fmt: skip
    assert row["reason"] is None and row["ordinal"] == 1 and row["block"] == -1


class Words(HTMLParser):
    """A page's words in their order, slowly: all that stands between tags, but for the title, styles and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.aside = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.aside += tag in ("title", "style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.aside -= tag in ("title", "style", "script")

    def handle_data(self, data: str) -> None:
        self.words += [] if self.aside else data.split()


def test_of_a_real_page_every_word_is_there_and_nothing_else() -> None:
    html = (Path(pyspark.__file__).parent / "licenses" / "LICENSE-javassist.html").read_bytes()
    row = only(answer(html))
    assert "".join(row["text"].split()) == "".join(Words(html.decode()).words)
    assert row["metadata"]["title"] == "Javassist License" and row["metadata"]["language"] == "en"


def test_lists_are_kept_and_navigation_is_not() -> None:
    menu = "<ul><li><a href=/>Home</a><li><a href=/news>News</a></ul>"
    prose = "<ul><li>First the lamp.<ul><li>Then the oil of whales.</ul><li>Last the stairs.</ul>"
    for depth in range(6):
        row = only(answer(("<div>" * depth + f"<nav>{menu}</nav><h1>Work</h1>{prose}").encode()))
        words = " ".join(row["text"].replace("•", "").split())
        assert words == "Work First the lamp. Then the oil of whales. Last the stairs.", depth
    assert only(answer(f"{menu}<h1>Work</h1>".encode()))["text"] == "Work"


def test_requests_and_what_tells_of_the_crawl_are_no_rows() -> None:
    assert [row["ordinal"] for row in rows(zipped(crawl(2)))] == [3, 5]


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (answer(page("x"), status="404 Not Found"), "http_status", "the server answered 404"),
        (answer(b"\x89PNG", kind="image/png"), "not_text", "the content type is image/png"),
        (answer(b"{}", kind=None), "not_text", "the content type is missing"),
        (record("revisit", b""), "not_text", "the record's type is revisit"),
        (record("response", b"dns answer", Content_Type="text/dns"), "not_text", "the content type is text/dns"),
        (record("response", b"no header", Content_Type="application/http"), "malformed_http", "there is no HTTP header"),
        (answer(b"not zipped", Content_Encoding="gzip"), "malformed_http", None),
        (answer(b"<div>" * 5_000 + b"deep"), "malformed_html", "its elements nest deeper than 1,000 levels"),
        (record("conversion", b"bad \xff"), "not_utf8", None),
    ],
)
def test_what_holds_no_text_is_named(data: bytes, reason: str, detail: str | None) -> None:
    row = only(data)
    said = row["detail"]
    assert (row["reason"], row["text"]) == (reason, None)
    assert detail is None or detail == said


@pytest.mark.parametrize("encoding", ["chunked", "gzip", "deflate", "gzip, chunked"])
def test_what_http_packed_is_unpacked(encoding: str) -> None:
    body = page(ENGLISH)
    headers: dict[str, Any] = {}
    if "gzip" in encoding or "deflate" in encoding:
        body = gzip.compress(body) if "gzip" in encoding else zlib.compress(body)
        headers["Content-Encoding"] = encoding.split(",")[0]
    if "chunked" in encoding:
        half = len(body) // 2
        parts = [body[:half], body[half:], b""]
        body = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in parts)
        headers["Transfer-Encoding"] = "chunked"
    assert ENGLISH.strip() in only(answer(body, **headers))["text"]


def test_a_page_that_unpacks_to_gigabytes_is_too_long_and_not_held() -> None:
    bomb = gzip.compress(b"<p>" + b" " * (warc.MOST_BYTES + 10))
    assert only(answer(bomb, Content_Encoding="gzip"))["reason"] == "too_long"


@pytest.mark.parametrize(
    ("body", "kind", "charset"),
    [
        (GERMAN.encode("latin-1"), "text/html; charset=ISO-8859-1", "cp1252"),
        (f"<meta charset=windows-1252>{GERMAN}".encode("cp1252"), "text/html", "cp1252"),
        (f"<meta charset=utf-16>{GERMAN}".encode(), "text/html", "utf-8"),
        (b"\xef\xbb\xbf" + GERMAN.encode(), "text/html", "utf-8"),
        (GERMAN.encode(), "text/html; charset=iso-8859-1", "utf-8"),
        (GERMAN.encode(), 'text/plain; charset="utf-8"', "utf-8"),
        (GERMAN.encode(), "text/html; charset=rot13", "utf-8"),  # no charset: Python's names aren't the web's
    ],
)
def test_text_is_decoded_as_browsers_do(body: bytes, kind: str, charset: str) -> None:
    row = only(answer(body, kind=kind))
    assert row["text"].strip() == GERMAN.strip()
    assert row["metadata"]["charset"] == charset and row["metadata"]["language"] == "de"


def test_plain_text_and_wet_come_as_they_are() -> None:
    text = "  Two  spaces\n\nand lines.\n"
    assert only(answer(text.encode(), kind="text/plain"))["text"] == text
    wet = only(record("conversion", text.encode(), 3, WARC_Target_URI="https://example.org/"))
    assert wet["text"] == text and wet["metadata"]["content_type"] == "text/plain" and "charset" not in wet["metadata"]
    assert only(record("conversion", b"x" * 30, 3))["reason"] is None
    (row,) = rows(record("conversion", b"x" * 30, 3), max_bytes=20)
    assert row["reason"] == "too_long"


def test_languages_are_told_and_doubt_is_too() -> None:
    told = [language(text) for text in (ENGLISH, GERMAN, "Le petit chat dort sur le lit de ma grand-mère.", "ok", "")]
    assert told == ["en", "de", "fr", "und", "und"]


def test_a_page_that_only_looks_deep_is_read() -> None:
    flat = "<ul>" + "<li><a href=x>entry<br>" * 6_000 + "</ul>"
    assert only(answer(flat.encode()))["reason"] is None
    assert warc._depth("<div><p><p><span></span><img></div><section/>") == 2


def test_batches_are_bounded_and_change_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped(crawl(12))
    once = rows(data)
    monkeypatch.setattr(warc, "BATCH_BYTES", 3_000)
    batches = list(file_rows(io.BytesIO(data), "crawl.warc.gz", max_bytes=MAX_BYTES))
    assert len(batches) > 3 and rows(data) == once


def test_without_the_libraries_the_command_that_installs_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = warc.importlib.util.find_spec
    monkeypatch.setattr(warc.importlib.util, "find_spec", lambda name: None if name == "py3langid" else real(name))
    with pytest.raises(MissingExtraError, match=r"there is no py3langid.*pip install 'betr-bare\[warc\]'"):
        warc.check_installed()


def test_records_without_an_id_have_none() -> None:
    (found,) = whole(record("conversion", b"text").replace(b"WARC-Record-ID", b"X-Record-ID"))
    taken = read_page(found, max_bytes=MAX_BYTES)
    assert taken is not None and taken.id is None and taken.text == "text"


def test_chunks_of_pages_count_the_eighth_that_is_text() -> None:
    sizes = {name: n_chunks([InputFile(name, "warc", 8_000, 0)], 1_000) for name in ("a.warc", "a.warc.gz", "a.wet.gz")}
    assert sizes == {"a.warc": 1, "a.warc.gz": 3, "a.wet.gz": 24}


# -- slices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_slices_go_on_through_a_warc_and_stand_for_their_share_of_it(tmp_path: Path, name: str) -> None:
    parts = crawl(200)
    data = zipped(parts) if name.endswith(".gz") else b"".join(parts)
    (tmp_path / name).write_bytes(data)
    spark: Any = None  # local files are cut without it
    file = InputFile(str(tmp_path / name), "warc", len(data), 0)
    found = cut_slices(spark, [file], [30, 100, 100], tmp_path / "slices")
    assert [each.rows for each in found] == [30, 100, 100]
    texts = [rows((Path(each.path) / f"0-{name}").read_bytes()) for each in found]
    assert [row["text"].split("Number ")[1] for row in texts[1]] == [f"{n}." for n in range(30, 130)]
    assert texts[2][0]["text"].endswith("Number 0.")  # too few were left: from the beginning again
    for each in found:
        assert each.bytes == pytest.approx(len(data) * each.rows / 200, rel=0.1)


# -- the stage ---------------------------------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.processes  # under Spark Connect, which allows less
def test_warc_and_wet_become_documents_and_a_cut_is_told(spark: SparkSession, tmp_path: Path) -> None:
    data = zipped([*crawl(6), answer(b"\x89PNG", 50, kind="image/png"), answer(page("gone"), 51)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.warc.gz").write_bytes(data[:-15])
    (tmp_path / "in" / "b.warc.wet").write_bytes(record("conversion", GERMAN.encode(), 70))
    (tmp_path / "in" / "c.jsonl").write_text(json.dumps({"id": "line", "text": "a line"}) + "\n")
    config = settings(tmp_path, documents=(str(tmp_path / "in"),), benchmarks=())
    with pipeline.opened(config, spark, _quiet()) as run:
        outcome = import_documents(run)
        documents = {row["doc_id"]: row for row in run.tables.read(DOCUMENTS).collect()}
        aside = [row.asDict() for row in run.tables.read(REJECTED_DOCUMENTS).orderBy("row").collect()]
    assert len(documents) == 8 and outcome["rejected"] == {"cut_short": 1, "not_text": 1}
    assert documents["00000000-0000-4000-8000-000000000003"]["source"] == "a"
    german = documents["00000000-0000-4000-8000-000000000070"]
    assert (german["source"], german["metadata"]["language"], german["text"]) == ("b", "de", GERMAN)
    file = str(tmp_path / "in" / "a.warc.gz")
    assert [(row["file"], row["row"], row["reason"]) for row in aside] == [
        (file, 14, "not_text"), (file, 15, "cut_short"),
    ]  # fmt: skip
    assert aside[0]["detail"] == "the content type is image/png"
    assert len(run.warnings) == 1 and "a.warc.gz is kept up to its record 15" in run.warnings[0]


def _quiet() -> Any:
    from curation.progress import Terminal

    return Terminal(io.StringIO())


def test_without_the_extra_an_import_is_refused_before_it_begins(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.warc").write_bytes(b"")
    monkeypatch.setattr(warc.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the extra 'warc'"):
        check_inputs(Run(settings(tmp_path, documents=(str(tmp_path / "a.warc"),), benchmarks=()), spark, _quiet()))
