"""What is refused, with which status and sentence: nothing of it is stored, and no secret is said."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.endpoint import guard
from flows.endpoint.guard import BODY_BYTES, KEY_HEADER
from tests.endpoint.conftest import MODEL, Endpoint, refused, running

GOOD = {"model": MODEL, "prompt": "Capital of Togo?", "output": "Lagos.", "target": "Lom\u00e9."}
GOOD_EDIT = {"model": MODEL, "prompt": "Capital of Togo?", "output": "Lagos.", "edited": "Lom\u00e9."}


@pytest.fixture(autouse=True)
def _nothing_is_stored(shared: Endpoint, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = shared.rows()
    yield
    assert shared.rows() == before
    for key in shared.keys.values():
        assert key not in caplog.text


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer mendflow_wrong",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer \xe9",
    ],
)
@pytest.mark.parametrize("path", ["/reports", "/edits"])
def test_without_a_known_key_nobody_is_heard(shared: Endpoint, path: str, authorization: str | None):
    headers = {"Content-Type": "application/json", KEY_HEADER: "k"}
    if authorization is not None:
        headers["Authorization"] = authorization.format(key=shared.keys["ann"])
    # What it says is wrong too: the key comes first.
    answer = shared.client.post(
        path, content=b"{", headers={name: value.encode("latin-1") for name, value in headers.items()}
    )
    refused(answer, 401, "the key is missing or not known")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_is_for_its_models(shared: Endpoint):
    refused(shared.send(key="shop", model="other"), 403, "'shop' may not report about model 'other'")
    refused(shared.send("/edits", key="shop", model="o", target=..., edited="x"), 403, "about model 'o'")


@pytest.mark.parametrize(
    "claimed", ["reporter", "source", "reported_at", "severity", "id", "state", "__class__"]
)
def test_nobody_says_who_or_what_else_they_are(shared: Endpoint, claimed: str):
    refused(shared.send(**{claimed: "bob"}), 422, f"'{claimed}': Extra inputs are not permitted")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_only_plain_json_is_read(shared: Endpoint, headers: dict[str, str]):
    refused(shared.raw(json.dumps(GOOD), **headers), 415, "application/json")


@pytest.mark.parametrize("key", [None, "", "a b", "a:b", "../k", "k" * 129, "\xe9", "k;k", "k\x00"])
def test_a_report_has_an_idempotency_key_that_is_a_word(shared: Endpoint, key: str | None):
    request = [
        b"POST /reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n",
        f"Authorization: Bearer {shared.keys['ann']}\r\n".encode(),
        b"" if key is None else f"{KEY_HEADER}: {key}\r\n".encode("latin-1"),
    ]
    # h11 takes no NUL in a header.
    assert spoken(shared, b"".join(request) + b"\r\n{}") == (400 if key and "\x00" in key else 422)


def test_two_idempotency_keys_are_none(shared: Endpoint):
    headers = [*shared.headers("ann").items(), (KEY_HEADER, "other"), ("Content-Type", "application/json")]
    answer = shared.client.post("/reports", content=json.dumps(GOOD), headers=headers)
    refused(answer, 422, "send one header Idempotency-Key")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_not_read_to_its_end(shared: Endpoint, chunked: bool):
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 65536
            yield b" " * 65536

    if not chunked:
        refused(shared.raw(b" " * (BODY_BYTES + 1)), 413, f"longer than {BODY_BYTES} bytes")
        return
    # The connection may be closed on what is being sent.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        refused(shared.raw(endless()), 413, f"longer than {BODY_BYTES} bytes")
    assert sent < 500 * 65536


def test_a_chunked_body_of_proper_length_is_taken_and_one_byte_more_is_not(tmp_path: Path):
    text = json.dumps(GOOD).encode()
    with running(tmp_path) as endpoint:
        padded = text + b" " * (BODY_BYTES - len(text))
        assert endpoint.raw(iter([padded[:50], padded[50:]])).status_code == 201
        refused(endpoint.raw(iter([padded, b" "])), 413, "longer than")
        assert len(endpoint.kept()) == 1


def test_who_has_no_key_cannot_send_without_end_either(shared: Endpoint):
    endless = (b" " * 65536 for _ in range(2000))
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        refused(shared.raw(endless, Authorization="Bearer x"), 401, "the key")
    assert next(endless, b"") != b""


def test_a_declared_length_alone_is_enough_to_refuse(shared: Endpoint):
    head = (
        f"POST /reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{KEY_HEADER}: k\r\n"
        f"Authorization: Bearer {shared.keys['ann']}\r\n"
    )
    assert spoken(shared, f"{head}Content-Length: {10**9}\r\n\r\n".encode()) == 413
    for nonsense in ("-1", "1e3", "0x10", "9" * 5000):
        assert spoken(shared, f"{head}Content-Length: {nonsense}\r\n\r\n".encode()) in (400, 413)


def test_a_body_that_does_not_come_is_not_waited_for(shared: Endpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    head = (
        f"POST /reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{KEY_HEADER}: k\r\n"
        f"Authorization: Bearer {shared.keys['ann']}\r\nContent-Length: 100\r\n\r\n{{"
    )
    assert spoken(shared, head.encode()) == 408


@pytest.mark.parametrize("cut", [0, 40])
def test_a_client_that_goes_away_leaves_nothing(shared: Endpoint, cut: int):
    head = (
        f"POST /reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{KEY_HEADER}: k\r\n"
        f"Authorization: Bearer {shared.keys['ann']}\r\nContent-Length: {len(json.dumps(GOOD))}\r\n\r\n"
    )
    with socket.create_connection(tuple(shared.url.removeprefix("http://").split(":")), 10) as connection:
        connection.sendall(head.encode() + json.dumps(GOOD).encode()[:cut])
    assert shared.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"1e999",
        b"\x00",
        b"\xff\xfe{\x00}\x00",
        b'{"prompt": "\xff"}',
        b'{"prompt": NaN, "model": "m"}',
        b'{"prompt": Infinity}',
        b'{"prompt": "p", "model": "m", "chat": NaN}',
        b'{"prompt": "\\ud800", "model": "m"}',
        b'{"prompt": "\\udfff\\ud800", "model": "m"}',
        b'{"prompt": "p", "model": "\\ud800"}',
        b'{"a":' * 20000,
        b"[" * 100000,
        b'{"prompt": ' + b"[" * 50000 + b"]" * 50000 + b"}",
        b'{"prompt": ' + b"9" * 100000 + b"}",
        b"{} {}",
        b'{"model": "tiny", "prompt": "p", "target": "t", }',
        b"<report/>",
        b"model=tiny&prompt=p",
    ],
)
@pytest.mark.parametrize("path", ["/reports", "/edits"])
def test_a_body_that_is_no_report_is_refused_at_once(shared: Endpoint, path: str, body: bytes):
    began = time.monotonic()
    refused(shared.raw(body, path), 422, "the body cannot be taken")
    assert time.monotonic() - began < 5


CONTROL = "a\x00b"
NO_MODELS = [
    "",
    " ",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "models:/m@champion",
    "file:///etc/passwd",
    "C:x",
    "m\n",
]
NO_MODELS += [
    "\u202em",
    "\uff0e\uff0fm",
    "m;drop table",
    "{{7*7}}",
    "${jndi}",
    "%2e%2e",
    "~root",
    "-rf",
    ".m",
]
NO_TEXTS: list[Any] = [1, 1.5, True, ["x"], {"x": "y"}, CONTROL, "\x1b[31mred", "\x7f", "a\x0cb"]
LIMITS = {"prompt": 8000, "output": 16000, "target": 4000, "subject": 255, "model": 255, "model_version": 64}
MORE: dict[str, list[Any]] = {
    "model": [*NO_MODELS, None, ...],
    "prompt": ["", None, ...],
    "target": [""],
    "output": [None],
    "chat": ["true", 1, None, []],
    "model_version": ["../1", "1; --", None],
    "rephrases": ["x", None, [1], [""], [None], ["x"] * 21, [["x"]], [CONTROL], ["x" * 8001], {"x": "y"}],
    "locality": ["x", None, [1], [""], [None], ["x"] * 21, [["x"]], [CONTROL], ["x" * 8001], {"x": "y"}],
}
WRONG = [(field, wrong) for field, several in MORE.items() for wrong in several]
WRONG += [(field, wrong) for field, limit in LIMITS.items() for wrong in ("1" * (limit + 1), *NO_TEXTS)]


@pytest.mark.parametrize(("field", "wrong"), WRONG)
def test_every_field_has_its_bounds(shared: Endpoint, field: str, wrong: object):
    refused(shared.send(**{field: wrong}), 422, f"'{field}")
    if field != "target":
        edit = GOOD_EDIT | {field: wrong}
        edit = {name: value for name, value in edit.items() if value is not ...}
        refused(shared.raw(json.dumps(edit), "/edits"), 422, f"'{field}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edited": " Lagos. "}, "the edited answer says what the output says"),
        ({"edited": ""}, "'edited'"),
        ({"edited": None}, "'edited'"),
        ({"edited": ...}, "'edited'"),
        ({"output": ""}, "'output'"),
        ({"output": ...}, "'output'"),
        ({"target": "Lom\u00e9."}, "'target': Extra inputs"),
    ],
)
def test_an_edit_changes_an_answer(shared: Endpoint, change: dict[str, Any], says: str):
    edit = {name: value for name, value in (GOOD_EDIT | change).items() if value is not ...}
    refused(shared.raw(json.dumps(edit), "/edits"), 422, says)


def test_a_field_nobody_knows_is_shown_short_and_on_one_line(shared: Endpoint):
    name = "\x1b[31m\n" + "secret" * 5000
    answer = shared.send(**{name: 1})
    refused(answer, 422, "Extra inputs are not permitted")
    assert "\\x1b[31m\\n" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/reports", 405),
        ("DELETE", "/edits", 405),
        ("POST", "/health", 405),
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/reports%00", 404),
        ("POST", "/webhooks/mlflow", 404),
    ],
)
def test_other_ways_lead_nowhere(shared: Endpoint, method: str, path: str, status: int):
    answer = shared.client.request(method, path, headers=shared.headers("ann"))
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])


def test_nothing_that_was_sent_is_in_the_log_or_the_answer(
    shared: Endpoint, caplog: pytest.LogCaptureFixture
):
    secret = "the-secret-of-the-user"
    for change in ({"chat": secret}, {"prompt": [secret]}, {"model": f"/{secret}"}, {"rephrases": secret}):
        answer = shared.send(**change)
        assert answer.status_code == 422
        assert secret not in answer.text
    key = shared.keys["ann"]
    assert shared.client.get(f"/reports?key={key}").status_code == 405
    assert shared.client.get(f"/{key}").status_code == 404
    assert secret not in caplog.text


def spoken(endpoint: Endpoint, request: bytes) -> int:
    """The status that raw bytes are answered with."""
    host, port = endpoint.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        return int(connection.recv(100).split()[1])
