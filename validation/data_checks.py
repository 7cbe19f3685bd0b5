"""The checks of the data gate: what each looks at, and what it says of a row that fails it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from validation.flooding import MOST_OF_STRANGER
from validation.limits import DataLimits

CRITICAL, WARNING = "critical", "warning"
# By its own rule, an active correction gives way to one that a person chose.
RIVAL = "no_other_teaching"


@dataclass(frozen=True)
class Check:
    """One expectation on the facts, and what to say of a row that fails it ({fact} is its column's value)."""

    name: str
    column: str
    expectation: str
    reason: str
    severity: str = CRITICAL
    arguments: Mapping[str, Any] = field(default_factory=dict)
    # Judges what a correction says: a person may say that it is right, and what is active has been judged.
    waived: bool = False


def edit_checks(limits: DataLimits, most_of_one: int, rows: int) -> list[Check]:
    """The checks of so many rows of edits; `most_of_one` is what one of several reporters may bring."""
    longest, most = limits.prompt_characters, limits.target_words
    return [
        Check("enough_rows", "", "ExpectTableRowCountToBeBetween", "", arguments={"min_value": 1}),
        _present("id_present", "id", "it has no id"),
        Check("id_unique", "id", "ExpectColumnValuesToBeUnique", "another row has the same id"),
        _one_of("chat_known", "chat", [True, False], "it does not say whether it is a chat turn"),
        _between("prompt_present", "prompt_characters", 1, None, "the prompt is empty or not text"),
        _between(
            "prompt_length",
            "prompt_characters",
            None,
            longest,
            f"the prompt is longer than {longest} characters; report the question itself, in fewer",
            waived=True,
        ),
        _between("target_present", "target_words", 1, None, "the target is empty or not text"),
        _between(
            "target_size",
            "target_characters",
            None,
            limits.target_characters,
            f"the target is longer than {limits.target_characters} characters; report it again with less",
            waived=True,
        ),
        _between("target_length", "target_words", None, most, f"the target is longer than {most} words"),
        _one_of(
            "target_is_new",
            "target_is_wrong_output",
            [False],
            "the target says the same as the wrong output",
            waived=True,
        ),
        _absent("no_duplicate", "duplicate_of", "correction {fact} has the same prompt and target"),
        _absent("no_conflict", "conflicts_with", "correction {fact} wants another answer to the same prompt"),
        _absent("held_out_unseen", "held_out_leak", "a held-out phrasing is given to the editor too: {fact}"),
        _between(
            "phrasings_present", "blank_phrasings", None, 0, "one of its phrasings is empty or not text"
        ),
        _between("provenance", "sources", 1, None, "nothing says where it came from", waived=True),
        _absent(
            RIVAL,
            "taught_otherwise_by",
            "it asks in other words what correction {fact} answers otherwise",
        ),
        *_abuse_checks(),
        *_reporter_checks(most_of_one, rows),
        _between(
            "has_equivalents", "equivalents", 1, None, "{count} corrections have no other phrasing", WARNING
        ),
        _between(
            "has_held_out", "held_out", 1, None, "{count} corrections have no held-out phrasing", WARNING
        ),
        _one_of(
            "wrong_output_is_wrong",
            "wrong_output_gives_target",
            [False],
            "{count} corrections have a wrong output that already gives the target",
            WARNING,
        ),
    ]


def _abuse_checks() -> list[Check]:
    prompt = "the prompt holds {fact}; report the question itself, in plain words"
    target = "the target holds {fact}; report it again with the plain answer"
    return [
        _absent("prompt_asks", "prompt_instruction", prompt, waived=True),
        _absent("prompt_visible", "prompt_unseen", prompt, waived=True),
        _absent(
            "phrasings_ask",
            "phrasing_fault",
            "its phrasing {fact}; report it without that phrasing",
            waived=True,
        ),
        _absent("target_answers", "target_instruction", target, waived=True),
        _absent("target_visible", "target_unseen", target, waived=True),
        _absent("target_plain", "target_markup", target, waived=True),
        _absent(
            "target_without_link",
            "target_link",
            "the target holds {fact} that its prompt does not ask for; report it again without",
            waived=True,
        ),
        _absent(
            "target_without_secret",
            "target_leak",
            "the target holds {fact}, which the model would repeat to anybody; report it again without",
            waived=True,
        ),
    ]


def _reporter_checks(limit: int, rows: int) -> list[Check]:
    column = "new_of_reporter"
    return [
        _between(
            "reporters_share",
            column,
            None,
            limit,
            f"its reporter alone stands behind {{fact}} new corrections, more than the limit of {limit}"
            " (--reporter-limit)",
            waived=True,
        ),
        _between(
            "one_of_several",
            column,
            None,
            max(MOST_OF_STRANGER, rows // 2),
            "{count} corrections, more than half, stand on the word of one reporter; read them",
            WARNING,
        ),
    ]


def locality_checks(limits: DataLimits) -> list[Check]:
    """The checks of locality rows."""
    longest = limits.prompt_characters
    return [
        Check("enough_rows", "", "ExpectTableRowCountToBeBetween", "", arguments={"min_value": 1}),
        _between("prompt_present", "prompt_characters", 1, None, "the prompt is empty or not text"),
        _between(
            "prompt_length",
            "prompt_characters",
            None,
            longest,
            f"the prompt is longer than {longest} characters",
        ),
        _absent("prompt_asks", "prompt_instruction", "the prompt holds {fact}"),
        _absent("prompt_visible", "prompt_unseen", "the prompt holds {fact}"),
        _present("reference_present", "reference", "the champion's answer is missing"),
        _one_of("kind_known", "kind", ["near", "far"], "its kind is {fact}, neither near nor far"),
        _one_of("role_known", "role", ["editor", "gate"], "its role is {fact}, neither editor nor gate"),
        _one_of("chat_known", "chat", [True, False], "it does not say whether it is a chat turn"),
        _one_of("confirmed_known", "confirmed", [True, False], "it does not say whether its answer is right"),
        _absent("need_not_change", "must_change_for", "correction {fact} must change this very prompt"),
        _absent("gate_prompt_unseen", "editor_saw", "the editor is given the same prompt, as {fact}"),
        _absent("no_duplicate", "duplicate_of", "{fact} is the same prompt in the same role"),
    ]


def _present(name: str, column: str, reason: str) -> Check:
    return Check(name, column, "ExpectColumnValuesToNotBeNull", reason)


def _absent(name: str, column: str, reason: str, *, waived: bool = False) -> Check:
    return Check(name, column, "ExpectColumnValuesToBeNull", reason, waived=waived)


def _between(
    name: str,
    column: str,
    least: int | None,
    greatest: int | None,
    reason: str,
    severity: str = CRITICAL,
    *,
    waived: bool = False,
) -> Check:
    bounds = {"min_value": least, "max_value": greatest}
    return Check(name, column, "ExpectColumnValuesToBeBetween", reason, severity, bounds, waived)


def _one_of(
    name: str,
    column: str,
    values: Sequence[Any],
    reason: str,
    severity: str = CRITICAL,
    *,
    waived: bool = False,
) -> Check:
    expectation, allowed = "ExpectColumnValuesToBeInSet", {"value_set": list(values)}
    return Check(name, column, expectation, reason, severity, allowed, waived)
