"""Whatever is sent: one of the statuses that are described, and in the ledger exactly what was taken."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.endpoint.app import REFUSALS
from flows.endpoint.bodies import EditBody, ReportBody
from tasks.ledger import Ledger
from tests.endpoint.conftest import MODEL, Endpoint

# The server runs in this process too, and what its threads draw Hypothesis takes for what a strategy does.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")

BODIES = {"/reports": ReportBody, "/edits": EditBody}
LIGHT = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What programs that read it might act on: a database, a template, a shell, a path, a terminal, a page.
HOSTILE = [
    "'; DROP TABLE mendflow_reports; --",
    '" OR 1=1 --',
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "${jndi:ldap://x/y} $(touch /tmp/x) `id` %s %n {0.__class__}",
    "../../../../etc/passwd",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[red]bold[/] [link=file:///etc/passwd]x[/link]",
    "\u202egnp.exe \u200b\ufeff\u2028\u2029\ufffe\uffff",
    "a\u0301 \U0001f468\u200d\U0001f469 \U0010ffff",
    "\\ud800 \\u0000 \\x00",
    "line one\r\nX-Forged: header\r\n\r\n\tline two",
]
TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=40), st.text(st.characters(codec="utf-8"), max_size=200)
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({*ReportBody.model_fields, *EditBody.model_fields, "reporter", "__proto__", ""})


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_are_texts(endpoint: Endpoint, hostile: str):
    answered = endpoint.send(
        prompt=hostile,
        output=hostile,
        target=f"{hostile}!",
        subject=hostile,
        rephrases=[hostile],
        locality=[hostile],
    )
    assert answered.status_code == 201
    (one,) = endpoint.kept()
    assert (one.id, one.state) == (answered.json()["correction"], answered.json()["state"])
    assert (one.prompt, one.wrong_output, one.desired_output) == (hostile, hostile, f"{hostile}!")
    assert (one.subject, one.equivalents, one.locality) == (hostile, (hostile,), (hostile,))


@LIGHT
@given(
    path=st.sampled_from(sorted(BODIES)),
    fields=st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=4),
)
def test_a_report_is_taken_if_it_is_one_and_else_nothing_is_kept(
    shared: Endpoint, path: str, fields: dict[str, Any]
):
    base = {"model": MODEL, "prompt": "Capital of Togo?", "output": "Lagos."}
    body = {**base, **({"edited": "Lom\u00e9."} if path == "/edits" else {}), **fields}
    text = json.dumps(body)
    before = shared.rows()
    answered = shared.raw(text, path)
    try:
        BODIES[path].model_validate_json(text)
    except ValidationError:
        assert answered.status_code == 422
        assert shared.rows() == before
    else:
        assert answered.status_code == 201
        with Ledger(shared.ledger_url) as ledger:
            kept = ledger.get(answered.json()["correction"], model_name=str(body["model"]))
        assert kept.state == answered.json()["state"]
        assert shared.rows() > before


@LIGHT
@given(path=st.sampled_from(sorted(BODIES)), content=st.binary(max_size=300) | ANY_JSON.map(json.dumps))
def test_any_bytes_are_refused_as_a_body_that_is_no_report(shared: Endpoint, path: str, content: bytes | str):
    before = shared.rows()
    answered = shared.raw(content, path)
    assert (answered.status_code, list(answered.json())) == (422, ["detail"])
    assert shared.rows() == before


@LIGHT
@given(
    authorization=st.binary(max_size=80),
    key=st.binary(max_size=150),
    kind=st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-8"])
    | st.text(max_size=20),
)
def test_any_headers_are_refused_without_a_key(shared: Endpoint, authorization: bytes, key: bytes, kind: str):
    headers = [
        (b"Authorization", b"Bearer " + authorization),
        (b"Idempotency-Key", key),
        (b"Content-Type", kind.encode()),
    ]
    before = shared.rows()
    try:
        answered = shared.client.post("/reports", content=b"{}", headers=headers)
    except httpx.LocalProtocolError:
        return  # no client sends that
    assert answered.status_code in (400, 401)
    assert shared.rows() == before


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("path", sorted(BODIES))
def test_it_does_what_its_description_says(shared: Endpoint, path: str, mode: str):
    described = schemathesis.openapi.from_url(f"{shared.url}/openapi.json")[path]["POST"]
    statuses = set()

    @LIGHT
    @given(case=described.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def as_described(case: schemathesis.Case) -> None:
        if mode == "POSITIVE" and path == "/edits":
            # No schema can say that two texts differ.
            assume(case.body["edited"].split() != case.body["output"].split())
        before = shared.rows()
        answered = case.call(headers=dict(case.headers) | {"Authorization": f"Bearer {shared.keys['ann']}"})
        case.validate_response(answered)
        statuses.add(answered.status_code)
        assert (shared.rows() > before) is (answered.status_code == 201)

    as_described()
    if mode == "POSITIVE":
        # Idempotency keys may come twice.
        assert 201 in statuses
        assert statuses <= {200, 201, 409}
    else:
        assert 422 in statuses


def test_the_description_names_every_refusal_and_the_key(shared: Endpoint):
    described = shared.client.get("/openapi.json").json()
    for path in BODIES:
        post = described["paths"][path]["post"]
        assert set(post["responses"]) == {"200", "201", *map(str, REFUSALS)}
        assert post["security"] == [{"HTTPBearer": []}]
        assert post["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"] is False
    assert "security" not in described["paths"]["/health"]["get"]
