"""Downloads from a local server that simulates failures of servers and networks."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixelloom.core.errors import DataError
from pixelloom.data.io import download
from pixelloom.data.io.download import PUBLISHED, Remote, data_roots, fetch, progress_bar, provide

CONTENT = os.urandom(3_000_000)
OTHER = os.urandom(len(CONTENT))


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; attributes select failures."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []  # after how many bytes to break the connection, one for each request
        self.statuses: list[int] = []  # answer these first, one for each request
        self.kind = "application/octet-stream"
        self.etag: str | None = '"one"'
        self.ranges = True
        self.lies_about_range = False
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        s = self.server
        wanted = self.headers.get("Range")
        s.asked.append(wanted)
        if s.statuses:
            self.send_error(s.statuses.pop(0))
            return
        start = int(wanted.split("=")[1].rstrip("-")) if wanted and s.ranges else 0
        if self.headers.get("If-Range", s.etag) != s.etag and not s.lies_about_range:
            start = 0
        if start >= len(s.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", s.kind)
        self.send_header("Content-Length", str(len(s.content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(s.content) - 1}/{len(s.content)}")
        if s.etag:
            self.send_header("ETag", s.etag)
        self.end_headers()
        body = s.content[start:]
        self.wfile.write(body[: s.cuts.pop(0)] if s.cuts else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    monkeypatch.delenv("PIXELLOOM_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(*urls: str, content: bytes = CONTENT, kind: str = "sha256") -> Remote:
    return Remote("file.gz", urls, f"{kind}:{hashlib.new(kind, content).hexdigest()}")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_download_is_whole_checked_and_alone(server: Server, tmp_path: Path, kind: str) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(remote(server.url, kind=kind), tmp_path / "new" / "file.gz", lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT
    assert left(path.parent) == ["file.gz"]
    assert [n for _, n, _ in seen] == sorted({n for _, n, _ in seen})
    assert seen[-1] == ("file.gz", len(CONTENT), len(CONTENT))
    fetch(remote(server.url), path)
    assert len(server.asked) == 1, "a file that is there is not fetched again"


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 500_000]
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000] * 2
    with pytest.raises(DataError, match="the connection was interrupted"):
        fetch(remote(server.url), tmp_path / "file.gz", tries=2)
    assert not (tmp_path / "file.gz").exists()
    assert (tmp_path / "file.gz.part").stat().st_size == 2_000_000
    server.asked.clear()
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.asked == ["bytes=2000000-"]
    assert left(tmp_path) == ["file.gz"]


@pytest.mark.parametrize("ranges", [True, False], ids=["If-Range honoured", "no ranges at all"])
def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.content, server.cuts = OTHER, [1_000_000]
    with pytest.raises(DataError):
        fetch(remote(server.url), tmp_path / "file.gz", tries=1)
    server.content, server.etag, server.ranges = CONTENT, '"two"', ranges
    assert fetch(remote(server.url), tmp_path / "file.gz", tries=1).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_strong_validator_nothing_is_resumed(server: Server, tmp_path: Path, etag: str | None) -> None:
    server.etag, server.cuts = etag, [1_000_000]
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_server_that_glues_two_files_together_is_found_out(server: Server, tmp_path: Path) -> None:
    server.content, server.cuts, server.lies_about_range = OTHER, [1_000_000], True
    with pytest.raises(DataError):
        fetch(remote(server.url), tmp_path / "file.gz", tries=1)
    server.content, server.etag = CONTENT, '"two"'
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", None]


def test_a_part_longer_than_the_file_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.gz.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file.gz.part.tag").write_text('"one"')
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_name(server: Server, tmp_path: Path) -> None:
    server.content = OTHER
    with pytest.raises(DataError, match=r"127\.0\.0\.1.*checksum differs from the published sha256:"):
        fetch(remote(server.url), tmp_path / "file.gz")
    assert left(tmp_path) == []
    assert len(server.asked) == 1, "a whole file that is wrong is not fetched over and over"


def test_a_web_page_is_no_file(server: Server, tmp_path: Path) -> None:
    server.content, server.kind = b"<html>Log in to the hotel's network</html>", "text/html; charset=utf-8"
    with pytest.raises(DataError, match="the server sends a web page instead of the file"):
        fetch(remote(server.url), tmp_path / "file.gz")
    assert left(tmp_path) == []


def test_not_found_is_not_tried_again_but_elsewhere(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    assert fetch(remote(server.url, server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.asked) == 2
    server.statuses = [404, 403]
    with pytest.raises(DataError, match=r"the server answers 404 Not Found; .*the server answers 403 Forbidden"):
        fetch(remote(server.url, server.url), tmp_path / "b.gz")
    assert left(tmp_path) == ["file.gz"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status] * 3
    assert fetch(remote(server.url), tmp_path / "file.gz").read_bytes() == CONTENT
    server.statuses = [status] * 4
    with pytest.raises(DataError, match=f"the server answers {status}"):
        fetch(remote(server.url), tmp_path / "b.gz")


def test_a_server_that_never_answers_times_out(tmp_path: Path, server: Server) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.gz"
        with pytest.raises(DataError, match="timed out"):
            fetch(remote(url), tmp_path / "file.gz", timeout=0.1, tries=2)
        assert fetch(remote(url, server.url), tmp_path / "file.gz", timeout=3, tries=1).read_bytes() == CONTENT


def test_a_refused_connection_says_so(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match="refused"):
        fetch(remote("http://127.0.0.1:9/file.gz"), tmp_path / "file.gz", tries=1)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"tmp.*/file cannot be written \(File exists|Not a directory"):
        fetch(remote(server.url), tmp_path / "file" / "file.gz")


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(remote(server.url), tmp_path / "file.gz")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert left(tmp_path) == ["file.gz"]


def test_bars_name_the_file_and_its_size(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as show:
        fetch(remote(server.url), tmp_path / "file.gz", show)
    out, err = capfd.readouterr()
    assert out == ""
    assert "file.gz" in err
    assert "3.0/3.0 MB" in err
    with progress_bar():
        pass
    assert capfd.readouterr() == ("", "")


# -- where sets are looked for


def whole(folder: Path) -> bool:
    return (folder / "file.gz").is_file()


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    monkeypatch.setitem(PUBLISHED, "tiny", (remote(server.url),))
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)
    return server


def test_a_set_is_downloaded_to_the_root_that_was_given_or_to_the_cache(
    tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provide("tiny", tmp_path / "root", whole) == tmp_path / "root" / "tiny"
    assert provide("tiny", None, whole) == tmp_path / "cache" / "data" / "tiny"
    monkeypatch.setenv("PIXELLOOM_DATA", str(tmp_path / "by name"))
    assert provide("tiny", None, whole) == tmp_path / "cache" / "data" / "tiny", "what is in the cache is found"
    assert len(tiny.asked) == 2
    assert [path.parent.name for path in data_roots(None)] == [tmp_path.name, "cache"]
    assert data_roots(tmp_path)[0] == tmp_path


def test_offline_the_error_says_which_files_to_put_where(
    tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        provide("tiny", tmp_path / "root", whole)
    text = str(caught.value)
    assert f"Put file.gz (from {tiny.url.removesuffix('file.gz')}) into {tmp_path / 'root' / 'tiny'}" in text
    assert "PIXELLOOM_DATA" in text
    assert tiny.asked == []
    monkeypatch.delenv("PIXELLOOM_OFFLINE")
    tiny.statuses = [404]
    with pytest.raises(DataError, match=r"404 Not Found\nPut file\.gz"):
        provide("tiny", tmp_path / "root", whole)


def test_the_table_names_files_once_with_whole_digests() -> None:
    sizes = {"md5": 32, "sha256": 64}
    for name, files in PUBLISHED.items():
        assert len({file.name for file in files}) == len(files), name
        for file in files:
            kind, _, value = file.digest.partition(":")
            assert len(value) == sizes[kind]
            assert int(value, 16) >= 0
            assert all(url.endswith("/" + file.name) for url in file.urls)
