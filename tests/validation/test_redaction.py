"""What is redacted is gone to the last letter, and what is not is left as it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.validation.test_content_checks import REPEATED
from validation.redaction import WITHHELD, Preset, Rule, RuleError, read_rule

ALL = Rule(presets=get_args(Preset), regions=("US", "GB"), patterns={"a customer number": r"\bKD-\d{8}\b"})
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow/x+y\nAAAB\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "an AWS access key": "AKIAIOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_" + "aB3dE6gH9jK2" * 3,
    "a private key": KEY,
    "an address with a password in it": "postgresql+psycopg://ann:p@ss/w:rd@",
    "a password": "password: hunter22",
}
PERSONAL = {
    "an e-mail address": "bob.o'hara@mail.example.org",
    "a telephone number": "+44 20 7946 0958",
    "a payment card number": "4111 1111 1111 1111",
    "a bank account number": "DE89 3704 0044 0532 0130 00",
    "a social security number": "123-45-6789",
    "the address of a wallet": "0x" + "52908400098527886E0F7030069857D2E4169EE7",
    "a customer number": "KD-00123456",
}


@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_secrets_are_redacted_whatever_the_rule(kind: str, secret: str) -> None:
    assert Rule().redact(f"why is {secret} refused?") == f"why is [redacted: {kind}] refused?"


@pytest.mark.parametrize(("kind", "personal"), PERSONAL.items())
def test_personal_data_is_redacted_where_the_rule_says_so(kind: str, personal: str) -> None:
    text = f"what about {personal}, and then?"
    assert Rule().redact(text) == text
    assert ALL.redact(text).endswith(f"[redacted: {kind}], and then?")


@pytest.mark.parametrize(
    ("text", "regions"), [("call (415) 555-2671", ("US",)), ("ring 020 7946 0958", ("GB",))]
)
def test_a_national_number_is_known_in_its_country_alone(text: str, regions: tuple[str, ...]) -> None:
    assert Rule(presets=("telephone",)).redact(text) == text
    assert (
        Rule(presets=("telephone",), regions=regions).redact(text).endswith("[redacted: a telephone number]")
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is the capital of Togo?",
        "At 12:30 on 2023-10-11, 1,234,567.89 of https://example.org:8080/a?b=c",
        "a digest e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "my password is a secret",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert ALL.redact(text) == text


_PARTS = st.one_of(st.sampled_from([*SECRETS.values(), *PERSONAL.values()]), st.text(max_size=8))


@given(st.lists(_PARTS, max_size=6), st.sampled_from([" ", "\n", ", "]))
def test_what_is_redacted_holds_none_of_it_and_is_not_redacted_again(parts: list[str], between: str) -> None:
    once = ALL.redact(between.join(parts))
    assert ALL.redact(once) == once
    assert all(secret not in once for secret in SECRETS.values())


def test_what_is_only_known_once_its_neighbour_is_gone_is_redacted_too() -> None:
    assert "7946" not in ALL.redact("+44 20 7946 0958 123-45-6789")


def test_what_is_written_like_a_mark_hides_nothing() -> None:
    once = ALL.redact("[redacted: +44 20 7946 0958 123-45-6789]")
    assert "7946" not in once
    assert ALL.redact(once) == once


def test_findings_that_lap_over_each_other_go_together() -> None:
    rule = Rule(patterns={"one": "ab+c", "two": "cd", "three": "bb"})
    assert rule.redact("xabbcdx") == "x[redacted: one]x"


def test_no_text_holds_it_up() -> None:
    slow = {}
    for repeated in REPEATED:
        started = time.process_time()
        ALL.redact((repeated * 4000)[:4000])
        slow[repeated] = time.process_time() - started
    # A conversation may be long.
    for repeated in ("pwd=", "eyJaaaaaaaa.", "a.", "basic "):
        started = time.process_time()
        Rule().redact((repeated * 24_000)[:24_000])
        slow[repeated] = time.process_time() - started
    assert max(slow.values()) < 2, max(slow, key=lambda text: slow[text])
    assert Rule(patterns={"x": "(a+)+b"}).redact("a" * 5000) == WITHHELD


def test_a_rule_is_read_from_a_file_and_a_wrong_one_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "redact.yaml"
    assert read_rule(None) == Rule()
    file.write_text("")
    assert read_rule(file) == Rule()
    file.write_text('presets: [e-mail, bank account]\npatterns: {"a customer number": "KD-\\\\d{8}"}\n')
    assert read_rule(file).redact("KD-12345678 of a@b.de") == (
        "[redacted: a customer number] of [redacted: an e-mail address]"
    )
    for wrong, says in (
        ("presets: [email]", "presets.0: Input should be 'e-mail'"),
        ("patterns: {x: '('}", "patterns.x: Value error, it is no regular expression"),
        ("patterns: {x: 'a*'}", "matches where there is nothing"),
        ("regions: [Germany]", "regions.0"),
        ("secrets: false", "secrets: Extra inputs"),
        ("[", "while parsing"),
        ("5", "is no rule"),
    ):
        file.write_text(wrong)
        with pytest.raises(RuleError, match=r"redact\.yaml is no rule of what to redact") as refused:
            read_rule(file)
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(RuleError, match="No such file"):
        read_rule(tmp_path / "none.yaml")
