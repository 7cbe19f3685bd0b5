"""What is taken out of a text before it goes where others read it: secrets always, more by a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

import regex
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from validation import leaks
from validation.leaks import Finding

Preset = Literal["e-mail", "telephone", "card", "bank account", "social security", "wallet"]
# One search may take as long; a text in which one takes longer is withheld whole.
_SECONDS = 0.5
# What takes the place of whatever is found begins so.
MARK = "[redacted: "
_MARKED = regex.compile(r"\[redacted: [^\[\]]*\]")
_PASSES = 3
WITHHELD = f"{MARK}a text that a pattern took too long to search]"
# All of it, where what finds a leak knows one by its beginning; and addresses whose password has any letters.
_WHOLE = (
    (
        "a private key",
        regex.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?"
            r"(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)|\bPuTTY-User-Key-File-\d:.*",
            regex.DOTALL,
        ),
    ),
    ("an address with a password in it", regex.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*+://[^/\s@:]*+:\S*@")),
)
_EMAIL = regex.compile(r"(?<![\w.+%@-])[\w.+%-]++@(?:[\w-]++\.)+\p{L}{2,}+\b")


class RuleError(ValueError):
    """A rule cannot be read; the message names the file, what is wrong with it, and the remedy."""


def _compiles(pattern: str) -> str:
    try:
        if regex.compile(pattern).search(""):
            raise ValueError("it matches where there is nothing")
    except regex.error as error:
        raise ValueError(f"it is no regular expression ({error})") from error
    return pattern


class Rule(BaseModel):
    """What is redacted besides secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    presets: tuple[Preset, ...] = ()
    regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = Field(
        default=(), description="countries whose telephone numbers are known without their +code"
    )
    patterns: dict[str, Annotated[str, AfterValidator(_compiles)]] = Field(
        default_factory=dict, description="regular expressions, by what they find"
    )

    def redact(self, text: str) -> str:
        """The text with `[redacted: KIND]` for whatever is found."""
        if not isinstance(text, str):
            return text
        try:
            # What stood beside something that is gone now may only now be known.
            for number in range(_PASSES):
                before, text = text, self._redacted(text, again=number > 0)
                if text == before:
                    break
        except TimeoutError:
            return WITHHELD
        return text

    def _redacted(self, text: str, *, again: bool) -> str:
        # Somebody may have written one: those of a text that was not redacted yet hide nothing.
        marks = [found.span() for found in _MARKED.finditer(text)] if again else []
        found = sorted(self._findings(text), key=lambda one: (one.start, -one.end))
        parts, done = [], 0
        for one in found:
            if one.end <= done or any(start <= one.start and one.end <= end for start, end in marks):
                continue
            if one.start >= done:
                parts += [text[done : one.start], f"{MARK}{one.kind}]"]
            # What begins within another goes with it.
            done = one.end
        return "".join([*parts, text[done:]])

    def _findings(self, text: str) -> Iterator[Finding]:
        for kind, pattern in _WHOLE:
            yield from _matches(kind, pattern, text)
        yield from leaks.secrets(text)
        for preset in self.presets:
            yield from _PRESETS[preset](text, self.regions)
        for kind, expression in self.patterns.items():
            yield from _matches(kind, regex.compile(expression), text)


def read_rule(path: Path | None) -> Rule:
    """The rule of a YAML file; that of secrets alone, where there is none.

    Raises:
        RuleError: the file cannot be read, or is no rule.
    """
    if path is None:
        return Rule()
    import yaml

    try:
        return Rule.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = f"{where}: {first['msg']}" if where else first["msg"]
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
    raise RuleError(
        f"{path} is no rule of what to redact ({why}); it may have presets ({', '.join(get_args(Preset))}), "
        "regions and patterns"
    )


def _matches(kind: str, pattern: regex.Pattern[str], text: str) -> Iterator[Finding]:
    for found in pattern.finditer(text, timeout=_SECONDS):
        if found.end() > found.start():
            yield Finding(kind, *found.span())


def _emails(text: str) -> Iterator[Finding]:
    return _matches("an e-mail address", _EMAIL, text)


def _telephones(text: str, regions: Iterable[str]) -> Iterator[Finding]:
    import phonenumbers

    # Without a region, a number is known by its +code alone.
    for region in (None, *regions):
        for found in phonenumbers.PhoneNumberMatcher(text, region):
            yield Finding("a telephone number", found.start, found.end)


_PRESETS: dict[str, Callable[[str, Iterable[str]], Iterator[Finding]]] = {
    "e-mail": lambda text, _: _emails(text),
    "telephone": _telephones,
    "card": lambda text, _: leaks.cards(text),
    "bank account": lambda text, _: leaks.bank_accounts(text),
    "social security": lambda text, _: leaks.social_security_numbers(text),
    "wallet": lambda text, _: leaks.wallets(text),
}
