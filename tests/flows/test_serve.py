"""`mendflow serve`: OpenAI's API over a champion, and a trace of every answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editors.override import OverrideEditor
from editors.requests import EditRequest
from flows.serve import KEY_VARIABLE
from tasks import collect
from tasks.live_server import Limits
from tasks.models import load
from tasks.traffic import Feedback, give_feedback
from tests.flows.serving_tools import (
    CHAT,
    PROMPTS,
    TEXT,
    Known,
    ask,
    client_of,
    events,
    traced,
)


def test_both_endpoints_answer_as_generation_does(known: Known):
    chat = known.expected("2", PROMPTS, chat=True, tokens=8)
    text = known.expected("2", PROMPTS, chat=False, tokens=8)
    with client_of(known) as client:
        for prompt, in_chat, in_text in zip(PROMPTS, chat, text, strict=True):
            response = ask(client, prompt, model=known.name)
            assert response.status_code == 200, response.text
            body = response.json()
            assert body["object"] == "chat.completion"
            assert (body["model"], body["system_fingerprint"]) == (known.name, f"{known.name}/2")
            (choice,) = body["choices"]
            assert choice["message"] == {"role": "assistant", "content": in_chat}
            counted = body["usage"]
            assert counted["total_tokens"] == counted["prompt_tokens"] + counted["completion_tokens"]
            ended = counted["completion_tokens"] < 8
            assert choice["finish_reason"] == ("stop" if ended else "length")
            assert response.headers["x-mendflow-version"] == "2"
            plain = client.post(TEXT, json={"prompt": prompt, "max_tokens": 8}).json()
            assert plain["object"] == "text_completion"
            assert plain["choices"][0]["text"].strip() == in_text
        listed = client.get("/v1/models").json()
        assert [(one["id"], one["version"]) for one in listed["data"]] == [(known.name, "2")]
        assert client.get("/health").json()["status"] == "ok"
    found = traced(known)
    assert len(found) == 8
    assert {trace.info.tags["mendflow.version"] for trace in found} == {"2"}


def test_a_prompt_is_counted_as_the_model_reads_it(known: Known):
    _, tokenizer = load(known.base)
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    plain = [{**turn, "content": "Hi you"} if isinstance(turn["content"], list) else turn for turn in turns]
    ids = tokenizer.apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    with client_of(known) as client:
        body = client.post(CHAT, json={"messages": turns, "max_tokens": 2}).json()
        assert body["usage"]["prompt_tokens"] == len(ids)
        text = client.post(TEXT, json={"prompt": ["Hi you"]}).json()
        assert text["usage"]["prompt_tokens"] == len(tokenizer("Hi you")["input_ids"])
        assert text["usage"]["completion_tokens"] <= 16


def test_stops_seeds_and_temperatures_are_honoured(known: Known):
    (whole,) = known.expected("2", [PROMPTS[0]], chat=True, tokens=12)
    middle = whole[4:6]
    with client_of(known) as client:

        def said(**more: Any) -> dict[str, Any]:
            return ask(client, PROMPTS[0], 12, **more).json()["choices"][0]

        stopped = said(stop=["never in there", middle])
        assert stopped["message"]["content"] == whole[: whole.index(middle)].strip()
        assert stopped["finish_reason"] == "stop"
        assert said(stop=middle) == stopped
        assert said(temperature=0, seed=3)["message"]["content"] == whole
        warm = {"temperature": 1.5}
        assert said(**warm, seed=3) == said(**warm, seed=3)
        assert len({said(**warm, seed=seed)["message"]["content"] for seed in range(4)}) > 1
        # Nothing but the most probable token has so little of the probability.
        assert said(**warm, top_p=1e-9)["message"]["content"] == whole


@pytest.mark.parametrize("stop", [None, "e"])
def test_a_stream_is_the_same_answer_in_pieces(stop: str | None, known: Known):
    with client_of(known) as client:
        whole = ask(client, PROMPTS[0], 12, stop=stop).json()
        response = ask(client, PROMPTS[0], 12, stop=stop, stream=True, stream_options={"include_usage": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-mendflow-version"] == "2"
        *chunks, last, counted = events(response)
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        pieces = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
        assert "".join(pieces) == whole["choices"][0]["message"]["content"]
        assert last["choices"][0] == {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": whole["choices"][0]["finish_reason"],
        }
        assert (counted["choices"], counted["usage"]) == ([], whole["usage"])
        assert {chunk["system_fingerprint"] for chunk in chunks} == {f"{known.name}/2"}
        plain = {"prompt": PROMPTS[0], "max_tokens": 12}
        text = client.post(TEXT, json=plain).json()["choices"][0]["text"]
        parts = events(client.post(TEXT, json={**plain, "stream": True}))
        assert "".join(part["choices"][0]["text"] for part in parts) == text
        assert len(parts) > 2
    assert len(traced(known)) == 4


ONE = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("where", "body", "status", "says"),
    [
        (CHAT, "{", 400, "Invalid JSON"),
        (CHAT, "[" * 5000, 400, "Invalid JSON"),
        (CHAT, "[]", 400, "should be an object"),
        (CHAT, "{}", 400, "messages: Field required"),
        (CHAT, {"messages": []}, 400, "messages"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, 400, "messages.0.content"),
        (CHAT, {"messages": ONE, "n": 2}, 400, "n: "),
        (CHAT, {"messages": ONE, "tools": [{}]}, 400, "tools is not supported"),
        (CHAT, {"messages": ONE, "max_tokens": 0}, 400, "max_tokens"),
        (CHAT, {"messages": ONE, "max_tokens": 2000}, 400, "at most 1024 tokens"),
        (CHAT, {"messages": ONE, "temperature": 3}, 400, "temperature"),
        (CHAT, {"messages": ONE, "temperature": "hot"}, 400, "temperature"),
        (CHAT, {"messages": ONE, "top_p": 0}, 400, "top_p"),
        (CHAT, {"messages": ONE, "stop": [""]}, 400, "stop"),
        (CHAT, {"messages": ONE, "stop": list("abcde")}, 400, "stop"),
        (CHAT, {"messages": ONE, "seed": 2**70}, 400, "seed"),
        (CHAT, {"messages": ONE, "model": "../etc/passwd"}, 404, "there is no model '../etc/passwd'"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 900}]}, 400, "the model takes 256"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 2**20}]}, 413, "larger than"),
        (TEXT, {"prompt": ""}, 400, "no tokens"),
        (TEXT, {"prompt": ["a", "b"]}, 400, "prompt"),
        (TEXT, {"prompt": "a", "echo": True}, 400, "echo"),
    ],
)
def test_what_is_not_served_is_refused_in_openais_form(
    where: str, body: Any, status: int, says: str, known: Known
):
    with client_of(known) as client:
        content = body if isinstance(body, str) else json.dumps(body)
        refused = client.post(where, content=content, headers={"content-type": "application/json"})
        assert refused.status_code == status, refused.text
        error = refused.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert says in error["message"]
        # It is well afterwards.
        assert ask(client, "Hi").status_code == 200
    assert len(traced(known)) == 1


def test_other_places_and_types_are_refused_in_the_same_form(known: Known):
    with client_of(known) as client:
        for refused, status in (
            (client.get("/v1/nothing"), 404),
            (client.get(CHAT), 405),
            (client.post(CHAT, content="{}", headers={"content-type": "text/plain"}), 415),
        ):
            assert refused.status_code == status
            assert refused.json()["error"]["type"] == "invalid_request_error"


def test_a_key_is_asked_for_where_there_is_one(known: Known, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with client_of(known) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            refused = client.post(CHAT, json={"messages": ONE}, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        allowed = {"authorization": "Bearer secret"}
        assert client.post(CHAT, json={"messages": ONE, "max_tokens": 1}, headers=allowed).status_code == 200
        assert client.get("/health").status_code == 200


def test_more_requests_than_allowed_are_told_to_come_again(known: Known, monkeypatch: pytest.MonkeyPatch):
    from tasks import live_answer

    begun, goes_on, tokens = threading.Event(), threading.Event(), live_answer.next_tokens

    def held(*arguments: Any) -> Iterator[int]:
        begun.set()
        goes_on.wait()
        return tokens(*arguments)

    monkeypatch.setattr(live_answer, "next_tokens", held)
    answered: list[int] = []
    with client_of(known, Limits(at_once=1)) as client:
        first = threading.Thread(target=lambda: answered.append(ask(client, "Hi").status_code))
        first.start()
        begun.wait()
        refused = ask(client, "Hi")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "1"
        goes_on.set()
        first.join()
        assert answered == [200]
        # What was refused, or streamed to its end, gives its place back.
        statuses = [
            client.post(CHAT, json={"messages": ONE, "max_tokens": 2, **more}).status_code
            for more in ({"max_tokens": 2000}, {"model": "other"}, {"stream": True}, {})
        ]
        assert statuses == [400, 404, 200, 200]


def test_a_failure_of_the_model_is_an_error_of_the_server(known: Known, monkeypatch: pytest.MonkeyPatch):
    from tasks import live_answer

    def failing(*_: Any) -> Iterator[int]:
        yield 5
        raise ValueError("secret inside")

    with client_of(known, Limits(at_once=1)) as client:
        with monkeypatch.context() as patch:
            patch.setattr(live_answer, "next_tokens", failing)
            failed = ask(client, "Hi")
            streamed = ask(client, "Hi", stream=True)
        assert failed.status_code == 500
        assert failed.json()["error"]["type"] == "server_error"
        assert "secret" not in failed.text + streamed.text
        # An answer that was cut off is not one that ended.
        assert "[DONE]" not in streamed.text
        assert "server_error" in streamed.text
        assert ask(client, "Hi").status_code == 200


def test_an_override_answers_in_front_of_the_model(known: Known, tmp_path: Path):
    wanted = EditRequest("c1", PROMPTS[0], "Cairo, of course.")
    raw = EditRequest("c2", "The yen is used in", "Japan.", chat=False)
    number = known.add(OverrideEditor().edit(*load(known.base), [wanted, raw]), tmp_path / "overrides")
    known.champion(number)
    with client_of(known) as client:
        answered = ask(client, PROMPTS[0].upper()).json()
        assert answered["choices"][0]["message"]["content"] == wanted.target
        assert answered["choices"][0]["finish_reason"] == "stop"
        assert answered["usage"]["completion_tokens"] > 1
        own = known.expected("1", [PROMPTS[1]], chat=True, tokens=8)
        assert ask(client, PROMPTS[1]).json()["choices"][0]["message"]["content"] == own[0]
        text = client.post(TEXT, json={"prompt": raw.prompt}).json()["choices"][0]["text"]
        assert text == " Japan."
        again = [*ONE, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": PROMPTS[0]}]
        later = client.post(CHAT, json={"messages": again, "max_tokens": 4}).json()
        assert later["choices"][0]["message"]["content"] != wanted.target
    spans = [trace.data.spans[0] for trace in traced(known)]
    assert [span.attributes.get("mendflow.override") for span in spans] == ["c1", None, "c2", None]


def test_feedback_on_an_answer_is_collected_as_a_report(known: Known):
    with client_of(known) as client:
        first = ask(client, PROMPTS[0])
        client.post(TEXT, json={"prompt": PROMPTS[2], "max_tokens": 8})
        stream = ask(client, PROMPTS[1], stream=True)
        several = [*ONE, {"role": "assistant", "content": "Yes?"}, *ONE]
        client.post(CHAT, json={"messages": several, "max_tokens": 4})
    uri, experiment = known.settings.tracking, known.settings.experiment
    assert f"chatcmpl-{first.headers['x-mendflow-trace'].removeprefix('tr-')}" == first.json()["id"]
    give_feedback(
        [
            Feedback(response.headers["x-mendflow-trace"], False, "ada", "Cairo")
            for response in (first, stream)
        ],
        tracking_uri=uri,
    )
    collected = collect.from_traces(uri, experiment, known.name)
    reports = {report.prompt: report for report in collected.reports}
    assert set(reports) == {PROMPTS[0], PROMPTS[1]}
    report = reports[PROMPTS[0]]
    assert report.wrong_output == first.json()["choices"][0]["message"]["content"]
    assert (report.model_name, report.model_version, report.chat) == (known.name, "2", True)
    # Raw text stays raw text, and a later turn of a conversation is no prompt.
    assert [(row.prompt, row.chat) for row in collected.traffic] == [(PROMPTS[2], False)]
