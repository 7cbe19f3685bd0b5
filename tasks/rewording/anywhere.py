"""Forms that belong to no language: they mean in any prompt what they mean in an English one.

Marks of lists, chats, pages and letters, and the prompt said twice. They are for prompts that the rules of
English give few forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasks.rewording.languages import is_code
from tasks.rewording.prompts import Prompt

Ends = tuple[str, str]

# What stands before the prompt and after it. Nothing here is a sign of arithmetic: a prompt may be a sum.
MARKS: dict[str, tuple[Ends, ...]] = {
    "numbered": (("1)", ""), ("(1)", ""), ("#1:", ""), ("a)", "")),
    "stamped": (("[14:05]", ""), ("[09:32]", ""), ("[21:47]", "")),
    "markup": (("<p>", "</p>"), ("<div>", "</div>"), ("<li>", "</li>")),
    "mail": (("Re:", ""), ("Fwd:", "")),
}
_QUOTES: tuple[Ends, ...] = (('"', '"'), ("“", "”"), ("• ", ""), ("«", "»"))
_FENCES: tuple[Ends, ...] = (("```", "```"), ("~~~", "~~~"))
_LONGEST_TWICE = 1000


def marked(family: str) -> Callable[[Prompt], Sequence[str]]:
    """The rule that puts the marks of one family at a prompt: "[14:05] Wo liegt Togo?"."""

    def rule(prompt: Prompt) -> Sequence[str]:
        # A list's number would be one more of a row of numbers; a letter's subject is no line of code.
        if (family == "numbered" and prompt.whole[0].isdigit()) or (
            family == "mail" and _stands_alone(prompt)
        ):
            return []
        gap = "" if family == "markup" else " "
        return [_between(prompt, ends, gap) for ends in prompt.pick(MARKS[family], 2, family)]

    return rule


def twice(prompt: Prompt) -> Sequence[str]:
    """The prompt, and the prompt again."""
    if len(prompt.whole) > _LONGEST_TWICE:
        return []
    # Two texts to continue in one line would be read as one.
    gaps = ("\n", " ") if prompt.chat and not _stands_alone(prompt) else ("\n",)
    return [f"{prompt.whole}{gap}{prompt.whole}" for gap in gaps]


def set_off(prompt: Prompt) -> Sequence[str]:
    """In quotation marks, as an item, or fenced: the words stay the same."""
    ends = _FENCES if _stands_alone(prompt) else _QUOTES
    fit = [pair for pair in ends if pair[0] not in prompt.whole]
    return [_between(prompt, pair, "") for pair in prompt.pick(fit, 2, "set off")]


def _between(prompt: Prompt, ends: Ends, gap: str) -> str:
    """The prompt between two marks; what a model is to continue has nothing after it."""
    before, after = ends
    if _stands_alone(prompt):
        gap = "\n"
    return f"{before}{gap}{prompt.whole}" + (f"{gap if after else ''}{after}" if prompt.chat else "")


def _stands_alone(prompt: Prompt) -> bool:
    """Whether marks go on lines of their own: in a line of code they would be code."""
    return "\n" in prompt.whole or is_code(prompt.whole)
