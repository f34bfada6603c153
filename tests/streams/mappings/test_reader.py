"""Files become events: formats, gzip, rejects by reason, order, and the four public sets."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.errors import MappingError
from streams.events import Click, Event, Item, Search
from streams.mappings.reader import EventFile, own_kinds, scan_file

CLICKS = "ts_ms,session_id,item_id\n1000,u,a\n2000,u,b\n"
SEARCHES = "query_time_ms,click_time_ms,user,query,sku,category\n"


def opened(path: Path, content: str | bytes, **options: Any) -> EventFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return EventFile(path, scan_file(path).sha256, **options)


def messages(file: EventFile, limit: int | None = None) -> list[Event | Item]:
    return [message for _, message in file.messages(limit)]


def events(file: EventFile) -> list[Any]:
    return [message for message in messages(file) if isinstance(message, Event)]


def test_a_scan_gives_hash_and_lines_also_without_a_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\nb")
    scan = scan_file(path)
    assert scan.sha256 == hashlib.sha256(b"a\nb").hexdigest()
    assert scan.n_lines == 2


def test_the_mapping_is_found_by_the_header(tmp_path: Path) -> None:
    file = opened(tmp_path / "f.csv", CLICKS)
    assert file.mapping_name == "yoochoose"
    assert [event.item_id for event in events(file)] == ["a", "b"]


def test_gzip_is_seen_without_a_file_name_that_says_so(tmp_path: Path) -> None:
    assert len(messages(opened(tmp_path / "f", gzip.compress(CLICKS.encode())))) == 2


def test_equal_files_give_equal_event_ids_and_equal_lines_different_ones(tmp_path: Path) -> None:
    content = CLICKS + "2000,u,b\n"
    ids = [event.event_id for event in events(opened(tmp_path / "one", content))]
    again = [event.event_id for event in events(opened(tmp_path / "two", content))]
    prefix = hashlib.sha256(content.encode()).hexdigest()[:16]
    assert ids == again == [f"{prefix}:2", f"{prefix}:3", f"{prefix}:4"]


def test_lines_that_are_no_events_are_counted_by_reason(tmp_path: Path) -> None:
    lines = b"1,u,a,\n\nnoon,u,a\n1,,a\n1,caf\xe9,a\n1,u," + b"x" * 300 + b"\n1,u,a\n"
    file = opened(tmp_path / "f", b"ts_ms,session_id,item_id\n" + lines)
    assert len(messages(file)) == 1
    assert file.counts.rejected == Counter(
        wrong_columns=1,
        empty_line=1,
        invalid_ts=1,
        missing_user_id=1,
        invalid_utf8=1,
        invalid_item_id=1,
    )
    assert file.counts.lines == file.counts.accepted + file.counts.rejected.total() == 7


def test_a_quoted_cell_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    content = SEARCHES + '1,2,u,"red, ""big""\nhat",i,c\n'
    search = events(opened(tmp_path / "f", content))[0]
    assert search.query == 'red, "big"\nhat'


def test_the_limit_is_a_number_of_lines(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", CLICKS)
    assert len(messages(file, limit=1)) == 1
    assert file.counts.lines == 1


def test_a_click_waits_for_the_searches_before_it(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", SEARCHES + "10,50,u,a,i,c\n20,30,v,b,j,c\n60,70,w,c,k,c\n")
    found = [(event.user_id, event.ts) for event in events(file)]
    assert found == [("u", 10), ("v", 20), ("v", 30), ("u", 50), ("w", 60), ("w", 70)]


def test_a_search_with_two_clicks_is_one_search(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", SEARCHES + "10,50,u,a,i,c\n10,60,u,a,j,c\n")
    assert [type(event) for event in events(file)] == [Search, Click, Click]
    assert (file.counts.accepted, file.counts.events, file.counts.repeated) == (2, 3, 1)


def test_a_line_is_finished_once_all_its_events_were_given(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", SEARCHES + "10,50,u,a,i,c\n20,30,v,b,j,c\n")
    finished = {}
    for line, message in file.messages():
        if isinstance(message, Event):
            finished[line, type(message)] = file.finished_line()
    assert finished[3, Search] == 1  # the click of line 2 still waits
    assert file.finished_line() == 3


def test_json_lines_in_our_own_format_need_no_mapping(tmp_path: Path) -> None:
    content = (
        '{"type":"click","user_id":"u","item_id":"a","ts":1,"event_id":"mine"}\n'
        '{"type":"click","user_id":"u","item_id":"a","ts":1,"unknown":[]}\n'
        '{"type":"stare","user_id":"u","ts":1}\n[1]\nnonsense\n{"user_id":"u"}\n'
    )
    file = opened(tmp_path / "f", content)
    assert [event.event_id for event in events(file)] == ["mine", f"{scan_id(file)}:2"]
    assert file.counts.rejected == Counter(
        unknown_type=1, not_an_object=1, invalid_json=1, missing_type=1
    )


def scan_id(file: EventFile) -> str:
    return scan_file(file.path).sha256[:16]


def test_json_lines_of_a_catalogue_become_items(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", '{"item_id":"a","title":"Hat"}\n{"item_id":""}\n')
    assert messages(file) == [Item(item_id="a", title="Hat")]
    assert file.counts.rejected == Counter(invalid_item_id=1)


def test_a_shop_has_kinds_of_its_own(tmp_path: Path) -> None:
    line = '{"type":"favourite","user_id":"u","item_id":"a","ts":1}\n'
    file = opened(tmp_path / "f", line, extra_kinds=own_kinds(["favourite"]))
    assert len(messages(file)) == 1


def test_a_mapping_file_reads_another_field(tmp_path: Path) -> None:
    mapping = tmp_path / "plays.toml"
    mapping.write_text(
        'format = "jsonl"\nheader = []\n[[events]]\n'
        'type = { column = "action", translate = { played = "click", liked = "review" } }\n'
        'user_id = { column = "listener.id", prefix = "l" }\nitem_id = "track"\n'
        'ts = { column = "at", format = "iso" }\nrating = "stars"\n'
    )
    line = '{"action":"played","listener":{"id":7},"track":"t1","at":"1970-01-01T00:00:01+00:00"}\n'
    file = opened(tmp_path / "f", line, mapping=str(mapping))
    event = events(file)[0]
    assert (event.user_id, event.item_id, event.ts) == ("l7", "t1", 1_000)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(CLICKS.encode() + b"1,u,a\n" * 100_000)
    with pytest.raises(MappingError, match="breaks off"):
        opened(tmp_path / "f", whole[: len(whole) // 2])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="nowhere: cannot be read"):
        scan_file(tmp_path / "nowhere")


@pytest.mark.data
@pytest.mark.parametrize(
    ("place", "mapping", "counts"),
    [
        ("yoochoose-clicks-2014/clicks", "yoochoose", (83_846, 83_846, 83_846, 0, {})),
        (
            "online-retail-2011/purchases",
            "online-retail",
            (541_909, 404_909, 404_909, 3_659, {"no_customer": 135_080, "not_a_product": 1_920}),
        ),
        ("rees46-2019-10-01/events", "rees46", (17_434, 17_434, 17_434, 6_493, {})),
        ("bestbuy-xbox-2011/search_clicks", "bestbuy", (42_365, 42_365, 82_751, 413, {})),
    ],
)
def test_the_public_sets_are_read_line_by_line(
    require_data: Callable[[str], Path],
    place: str,
    mapping: str,
    counts: tuple[int, int, int, int, dict[str, int]],
) -> None:
    folder, name = place.split("/")
    path = require_data(folder) / f"{name}.csv.gz"
    file = EventFile(path, scan_file(path).sha256)
    kinds: Counter[str] = Counter()
    ids = set()
    last_ms = 0
    for _, message in file.messages():
        if isinstance(message, Event):
            kinds[str(type(message).__struct_config__.tag)] += 1
            ids.add(message.event_id)
            assert message.ts >= last_ms
            last_ms = message.ts
    got = file.counts
    assert file.mapping_name == mapping
    assert (got.lines, got.accepted, got.events, got.items, dict(got.rejected)) == counts
    assert len(ids) == kinds.total() == got.events
    if mapping == "online-retail":
        assert kinds == Counter(purchase=396_370, **{"return": 8_539})
    if mapping == "rees46":
        assert kinds == Counter(click=17_055, cart=165, purchase=214)
    if mapping == "bestbuy":
        assert kinds == Counter(search=42_365 - 1_979, click=42_365)


def test_the_sets_copied_here_are_the_originals() -> None:
    folder = Path(__file__).parents[3] / "data" / "online-retail-2011"
    readme = (folder / "README.md").read_text()
    for name in ("purchases.csv.gz", "items.csv.gz"):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in readme
