"""Secrets and personal data in a text, by their public formats.

What is found is named by its kind alone: the finding goes into reports that many read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

# What is looked ahead for is near: text without end takes no time without end.
_SECRETS = tuple(
    (name, regex.compile(pattern))
    for name, pattern in (
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\bPuTTY-User-Key-File-\d:"),
        ("an AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{22,}"),
        ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("a Slack token", r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
        ("a Google API key", r"\bAIza[0-9A-Za-z_-]{35}"),
        ("a Stripe key", r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}"),
        ("an API key", r"\bsk-[A-Za-z0-9_-]{20,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"),
        ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
        ("a package registry token", r"\bpypi-AgE[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{36}"),
        ("a bot token", r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b"),
        ("a signed web token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
        ("an authorisation header", r"(?i)\b(?:bearer|basic)\s+(?=\S{0,200}\d)[A-Za-z0-9._+/-]{16,}=*"),
        ("an address with a password in it", r"\b[a-z][a-z0-9+.-]{0,30}://[^:/\s@]+:[^@/\s]+@"),
        (
            "a password",
            r"(?i)\b(?:pass(?:word|wd|phrase|code)|pwd|api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?token"
            r"|token|accountkey)\b[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?(?=\S{0,200}\d)(?=\S{0,200}[A-Za-z])"
            # "ERC-20", "12-character" and "base64-encoded" tell of a password and are none.
            r"(?![a-z]+-\d+\b|[a-z]*\d+-[a-z]+\b)[^\s\"']{6,}",
        ),
    )
)
_LONG = regex.compile(
    r"(?<![\w+/-])(?=[A-Za-z0-9+/_-]{40})(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])(?=(?:[^\d\s]{0,200}\d){4})"
    r"[A-Za-z0-9+/_-]{40,}+={0,2}"
)
_CLASSES = regex.compile(r"[a-z]+|[A-Z]+|\d+")
# Where a shell logs in, or clones from, has the format of an e-mail address.
_EMAIL = regex.compile(
    r"(?<![\w.+%@-])(?<!\b(?:ssh|scp|sftp|rsync|clone)\s[^\n@]{0,40})[\w.+%-]++@(?:[\w-]++\.)+\p{L}{2,}+\b"
    r"(?!:[\w/~])(?<!@example\.(?:com|org|net))"
)
_ROLE = regex.compile(
    r"(?i)(?:\w+[._-])?(?:info|support|contact|help(?:desk)?|sales|press|media|office|service|care|hello|hi|mail|jobs"
    r"|careers|hr|billing|accounts?|accounting|finance|orders?|returns|bookings?|reservations?|reception|privacy|dpo"
    r"|legal|security|abuse|admin|admissions|editor|marketing|webmaster|postmaster|no-?reply|feedback|complaints"
    r"|questions|enquir(?:y|ies)|inquir(?:y|ies)|donations?|membership|library|team)(?:[._-]\w+)?@"
)
_ASKS_FOR_EMAIL = regex.compile(r"(?i)\b(?:e-?mail|contact|address|reach|write to)\b")
_GAP = r"[ .\-\u00a0\u2007\u2009\u202f]{1,2}"
_CARD = regex.compile(
    rf"(?<!\d)(?<!\d\.)(?:\d{{13,19}}|\d{{4}}(?:{_GAP}\d{{4}}){{2}}{_GAP}\d{{1,7}}|\d{{4}}{_GAP}\d{{6}}{_GAP}\d{{4,5}})(?!\d)"
)
_CARD_NUMBER = regex.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|6(?:011|5\d\d)\d{12}"
    r"|35\d{14}|3[068]\d{12}"
)
_IBAN = regex.compile(rf"(?i)(?<![a-z0-9])[a-z]{{2}}\d{{2}}(?:(?:{_GAP})?[a-z0-9]){{11,40}}+")
# Of the registry of ISO 13616: where words follow a number, its length says where it ends.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH CR HR LI LV",
        22: "BG BH DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
_SOCIAL_SECURITY = regex.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b")
_WALLET = regex.compile(
    r"\b0x[0-9a-fA-F]{40}\b|\bbc1[0-9a-z]{25,60}\b"
    r"|\b(?=\w*[A-Z])(?=\w*[a-z])(?=\w*\d)[13][A-HJ-NP-Za-km-z1-9]{25,34}\b"
)
_ASKS_FOR_WALLET = regex.compile(r"(?i)\b(?:wallet|address|bitcoin|ethereum|contract)\b")


@dataclass(frozen=True)
class Finding:
    """A secret or personal data in a text: its kind, and from where to where it stands there."""

    kind: str
    start: int
    end: int


def leak(target: str, prompt: str) -> str:
    """The kind of secret or personal data that a target holds and its prompt does not; empty if none."""
    for found in secrets(target):
        if target[found.start : found.end] not in prompt:
            return found.kind
    emails = (found.group() for found in _EMAIL.finditer(target))
    asked = bool(_ASKS_FOR_EMAIL.search(prompt))
    if any(each.casefold() not in prompt.casefold() and not (asked and _ROLE.match(each)) for each in emails):
        return "a person's e-mail address"
    digits_asked = regex.sub(r"\D", "", prompt)
    for found in cards(target):
        if regex.sub(r"\D", "", target[found.start : found.end]) not in digits_asked:
            return found.kind
    plain_prompt = _plain(prompt)
    for found in bank_accounts(target):
        if _plain(target[found.start : found.end]) not in plain_prompt:
            return found.kind
    for found in social_security_numbers(target):
        if target[found.start : found.end] not in prompt:
            return found.kind
    if not _ASKS_FOR_WALLET.search(prompt):
        return next((found.kind for found in wallets(target)), "")
    return ""


def secrets(text: str) -> Iterator[Finding]:
    """Keys, tokens and passwords."""
    for name, pattern in _SECRETS:
        for found in pattern.finditer(text):
            yield Finding(name, *found.span())
    for found in _LONG.finditer(text):
        if _is_random(found.group()):
            yield Finding("a long random string, which may be a key", *found.span())


def cards(text: str) -> Iterator[Finding]:
    """Numbers of payment cards, whose last digit checks the others."""
    for found in _CARD.finditer(text):
        number = regex.sub(r"\D", "", found.group())
        if _CARD_NUMBER.fullmatch(number) and _luhn(number):
            yield Finding("a payment card number", *found.span())


def bank_accounts(text: str) -> Iterator[Finding]:
    """International bank account numbers, whose check digits fit."""
    for found in _IBAN.finditer(text):
        if number := _iban(found.group()):
            places = [place for place in range(*found.span()) if _plain(text[place])]
            yield Finding("a bank account number", found.start(), places[len(number) - 1] + 1)


def social_security_numbers(text: str) -> Iterator[Finding]:
    """Social security numbers of the United States."""
    for found in _SOCIAL_SECURITY.finditer(text):
        yield Finding("a social security number", *found.span())


def wallets(text: str) -> Iterator[Finding]:
    """Addresses of Bitcoin and Ethereum wallets."""
    for found in _WALLET.finditer(text):
        yield Finding("the address of a wallet", *found.span())


def _plain(text: str) -> str:
    """Letters and digits, as account numbers have them."""
    return regex.sub(r"[^A-Z0-9]", "", text.upper())


def _luhn(number: str) -> bool:
    """Whether the last digit checks the others (ISO/IEC 7812-1)."""
    doubled = (int(d) * (1 + place % 2) for place, d in enumerate(reversed(number)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _iban(text: str) -> str:
    """The account number that a text begins with, if its check digits fit (ISO 13616); else empty."""
    letters = _plain(text)
    number = letters[: _IBAN_LENGTHS.get(letters[:2], 0)]
    checks = number and int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1
    return number if checks and len(number) == _IBAN_LENGTHS[letters[:2]] else ""


def _is_random(text: str) -> bool:
    """Whether kinds of letters change as often as by chance; in paths and names, words stand together."""
    return len(_CLASSES.findall(text)) > 0.4 * len(text)
