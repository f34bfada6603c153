"""A worker that is killed in the middle of an answer has given none."""

from __future__ import annotations

import socket
import threading
import urllib.error

import pytest

from agents.chaos.worker_process import NO_ANSWER, _answer_of


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_an_answer_that_breaks_off_is_none(status: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def break_off() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 61\r\n\r\n".encode())

        serving = threading.Thread(target=break_off)
        serving.start()
        with pytest.raises(NO_ANSWER):
            _answer_of(f"http://127.0.0.1:{server.getsockname()[1]}/livez", 10.0)
        serving.join()


def test_nobody_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NO_ANSWER) as raised:
        _answer_of(f"http://127.0.0.1:{port}/livez", 10.0)
    assert isinstance(raised.value, urllib.error.URLError)
