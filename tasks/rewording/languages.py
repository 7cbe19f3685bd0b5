"""Whether a prompt is English, so that English may be put around it: not another language, and not code."""

from __future__ import annotations

import re

from tasks.rewording import grammar
from tasks.rewording.grammar import word_set

_STRONG = word_set(
    "the are and that what which who whom where when how why with by from does did do has have can could "
    "would please tell name give within between during through about after before into without near their "
    "his its they this these she you your my our not"
)
_WEAK = word_set("is was were of in on a an for at as it i if to")
# A text to complete that ends in one of these is English if nothing speaks against it: "Ada Byron was".
_HANGING = _WEAK - {"to"}
# Frequent words of German, French, Spanish, Italian, Portuguese and Dutch; what is frequent in English too is
# not here. "Die" and "come" are: they are rarer in English than in these.
_FOREIGN = word_set(
    "der die das den dem ist sind war wurde hat haben und nicht ein eine einen einer wer wie wo wann warum "
    "welche welcher welches welchem welchen mir mich für auf mit im zum zur von vom des steht heißt gibt "
    "le la les un une du est sont qui que quoi quel quelle quels quelles où ou et en dans sur pour avec ce "
    "cette il elle se combien comment pourquoi quand deux trois moi "
    "el los las una es son está quién qué cuál cual cuándo cuántos cómo dónde como por y dime tres del "
    "gli uno è sono chi che quale qual quando quanti quante dove perché perche nel nella della di dimmi si "
    "o os um uma é são quem onde quantos ao à da do dos na diga "
    "de het een van zijn er wat wie waar wanneer waarom hoe hoeveel welke welk heeft werd ligt noem zon "
    "mi mijn liegt su tu ihr sein al lo ha hay fue era come per"
)
# Names hold these, in an English text too: "Rio de la Plata".
_IN_NAMES = grammar.NAME_LINKERS | word_set("le los las")
_CODE = re.compile(
    r"""
      [A-Za-z_]\((?!s\)) | \)\s*[:;{] | [\])]\s*\.\w | [ =]\[         # calls and lists, but not "state(s)"
    | [A-Za-z]_[A-Za-z] | [{}\\`] | ;\s*(?:$|\n) | </?\w+[^<>]*>
    | [A-Za-z_\])][ ](?:[-+*/=<>!]=?|[=-]>)[ ][\w(\["'] | [ ]\*[ ]    # operators
    | ^\s*[#@$]\s*\w | [ ]--?\w                                       # directives, options
    | ^(?:import|def|const|var|func|fn|SELECT|INSERT[ ]INTO|CREATE[ ]TABLE|UPDATE)[ ] | ^from[ ]\S+[ ]import\b
    """,
    re.VERBOSE,
)
# Code that a sentence speaks of.
_SPAN = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|‘[^’]*’|(?<!\w)'[^']*'(?!\w)")


def is_code(text: str) -> bool:
    """Whether a text is code rather than a sentence that mentions some."""
    text = _SPAN.sub(" ", text)
    return _signs(text) > _english(text)


def is_english(text: str, *, command: bool, read: bool) -> bool:
    """Whether a text is English.

    Args:
        text: a prompt.
        command: it begins with an English word that gives an order.
        read: it could be read as an English question, which is as much as one English word.
    """
    text = _SPAN.sub(" ", text)
    words = text.split()
    if 2 * sum(word.isascii() for word in words) < len(words):
        return False
    english = _english(text) + 2 * command
    # "Compute f(2)" is an order, "find . -name" is code.
    against = _foreign(_QUOTED.sub(" ", text)) + (0 if command and text[:1].isupper() else _signs(text))
    return english + read >= 1 and (english > against or not against)


def _english(text: str) -> float:
    words = _words(text)
    known = [word for word in words if word in _STRONG or (word not in _FOREIGN and _is_verbal(word))]
    hangs = words[-1:] != [] and words[-1] in _HANGING
    asks = text.rstrip().endswith("?") and words[:1] != [] and words[0] in grammar.AUXILIARIES - {"was"}
    named = hangs and all(map(grammar.is_name, text.split()[:-1]))
    return max(len(known) + (len(set(words) & _WEAK) + hangs + asks) / 2, float(named))


def _foreign(text: str) -> float:
    """How many words are another language's; one with a capital inside the text is a name's."""
    written = re.findall(r"[^\W\d_]+", text)
    small = [word.lower() for word in written[:1]] + [word for word in written[1:] if word.islower()]
    return sum(0.5 if word in _IN_NAMES else 1.0 for word in small if word in _FOREIGN)


def _signs(text: str) -> float:
    """How much speaks for code. A question is no code, whatever it asks about."""
    return 0.0 if text.rstrip().endswith("?") else 2.0 * len(_CODE.findall(text))


def _words(text: str) -> list[str]:
    """The words in lower case; those in capitals are abbreviations, or keywords of code."""
    spelt = [re.split(r"(?<=[a-z]{2})n['’]t$|['’]", word.strip(".,?!:;\"'()“”"))[0] for word in text.split()]
    return [word.lower() for word in spelt if len(word) < 2 or not word.isupper() or text.isupper()]


def _is_verbal(word: str) -> bool:
    return word in grammar.BASE_VERBS or bool(grammar.finite_tense(word)) or grammar.is_participle(word)
