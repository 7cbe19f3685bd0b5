"""The little English that rewording by rule needs: word classes and verb forms."""

from __future__ import annotations

import re


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set: a word list that reads as one."""
    return frozenset(text.split())


BE = word_set("is are was were")
DO = word_set("do does did")
MODALS = word_set("can could will would shall should may might must has have had")
AUXILIARIES = BE | DO | MODALS
DETERMINERS = word_set(
    "the a an this that these those my your his her its our their some any every each all both no"
)
PRONOUNS = word_set("i you he she it we they there")
RELATIVISERS = word_set("that which who whom whose where when")
PREPOSITIONS = word_set(
    "in on at by for from of to with into onto over under about after before between during through "
    "across against as near within without until since upon off out up around along"
)
# Lower-case words that stand inside names: "Lord of the Rings", "Ludwig van Beethoven".
NAME_LINKERS = word_set(
    "of the and & de del della der den des di da do dos du la le los las el al bin ibn van von zu y e on"
)
PREDICATE_ADJECTIVES = word_set(
    "famous open available active popular responsible similar related close native good bad worth "
    "likely able necessary important true false possible home part closest nearest due"
)
ADVERBS = word_set("first last ever also never once still usually often most now currently always")

# Base form, simple past, past participle.
_IRREGULAR_FORMS = """
arise arose arisen, bear bore born, beat beat beaten, become became become, begin began begun, bend
bent bent, bind bound bound, bite bit bitten, blow blew blown, break broke broken, breed bred bred,
bring brought brought, broadcast broadcast broadcast, build built built, burn burned burned, buy
bought bought, catch caught caught, choose chose chosen, come came come, cost cost cost, cut cut
cut, deal dealt dealt, do did done, draw drew drawn, drink drank drunk, drive drove driven, eat ate
eaten, fall fell fallen, feed fed fed, feel felt felt, fight fought fought, find found found, fly
flew flown, forget forgot forgotten, get got got, give gave given, go went gone, grow grew grown,
have had had, hear heard heard, hide hid hidden, hit hit hit, hold held held, keep kept kept, know
knew known, lay laid laid, lead led led, learn learned learned, leave left left, lend lent lent, let
let let, lie lay lain, lose lost lost, make made made, mean meant meant, meet met met, pay paid
paid, put put put, read read read, ride rode ridden, ring rang rung, rise rose risen, run ran run,
say said said, see saw seen, sell sold sold, send sent sent, set set set, shoot shot shot, show
showed shown, shut shut shut, sing sang sung, sink sank sunk, sit sat sat, sleep slept slept, speak
spoke spoken, spend spent spent, spread spread spread, stand stood stood, steal stole stolen, strike
struck struck, swim swam swum, take took taken, teach taught taught, tell told told, think thought
thought, throw threw thrown, understand understood understood, wear wore worn, win won won, write
wrote written
"""
_IRREGULAR = {
    base: (past, participle)
    for base, past, participle in (forms.split() for forms in _IRREGULAR_FORMS.split(","))
}
_REGULAR = word_set(
    "accept achieve act adapt add adopt air allow announce answer appear apply approve arrive ask "
    "assassinate attack attend award base belong border call carry cause celebrate change charge chart "
    "claim close coach collaborate collapse combine cook compete complete compose compute conduct "
    "connect conquer consider consist contain continue contribute convert cover create cross crown "
    "debut decide declare defeat define deliver derive describe design destroy develop die direct "
    "disappear discover discuss dissolve divide dominate earn edit educate elect emerge employ enable "
    "end endorse engineer enter erupt establish evolve exist expire explain explore express face fail "
    "father feature fill film finish fit flow follow force form formulate found function gain govern "
    "graduate guide handle happen head help host identify illustrate import include influence inhabit "
    "inherit inspire install introduce invade invent join kill land last launch like live locate look "
    "manage manufacture marry measure migrate move murder name need occupy occur offer open operate "
    "orbit order organize organise originate own paint participate pass perform photograph pioneer plan "
    "plant play possess premiere present preserve produce promote propose protect prove provide publish "
    "pursue rank reach receive recommend record refer reign relate release remain represent require "
    "reside resign retire return reveal rule score seem separate serve settle share ship sign "
    "specialize specialise sponsor star start state stay stop study succeed suffer suggest supply "
    "support surround survive switch tour train translate travel treat turn use visit voice vote work "
    "worship"
)
BASE_VERBS = frozenset(_IRREGULAR) | _REGULAR
_DOUBLED = word_set("stop plan occur refer fit ship star commit admit prefer star")
_NOT_PARTICIPLES = word_set(
    "united limited hundred sacred seed speed breed red bed shed need feed indeed embed"
)
_ING_NOUNS = word_set(
    "king ring building painting meaning thing spring string morning evening wedding wing being beijing"
)


def past(verb: str) -> str:
    """Simple past of a base form: go -> went, carry -> carried."""
    return _IRREGULAR[verb][0] if verb in _IRREGULAR else _regular_past(verb)


def participle(verb: str) -> str:
    """Past participle of a base form: write -> written."""
    return _IRREGULAR[verb][1] if verb in _IRREGULAR else _regular_past(verb)


def third_person(verb: str) -> str:
    """Third person singular of a base form: go -> goes, fly -> flies."""
    if verb == "have":
        return "has"
    if re.search(r"(s|sh|ch|x|z|o)$", verb):
        return f"{verb}es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", verb) + "s"


def inflect(verb: str, auxiliary: str) -> str:
    """The finite form that stands for `auxiliary` + `verb`: did go -> went, does go -> goes, do go -> go."""
    if auxiliary == "did":
        return past(verb)
    return third_person(verb) if auxiliary == "does" else verb


def is_participle(word: str) -> bool:
    """Whether a lower-case word reads as a past participle."""
    if word in _PARTICIPLES:
        return True
    return len(word) > 4 and word.endswith("ed") and word not in _NOT_PARTICIPLES and word.islower()


def is_progressive(word: str) -> bool:
    """Whether a lower-case word reads as a verb in -ing."""
    return len(word) > 4 and word.endswith("ing") and word.islower() and word not in _ING_NOUNS


def finite_tense(word: str) -> str:
    """`past`, `present` or nothing: the tense of a finite verb form of the lexicon."""
    if word in _PASTS:
        return "past"
    return "present" if word in _THIRDS else ""


def is_plural(noun: str) -> bool:
    """Whether a noun's spelling is a plural's."""
    return bool(re.search(r"[^sui]s$", noun)) or noun in {"people", "children", "men", "women", "series"}


def is_name(word: str) -> bool:
    """Whether a word is written as part of a name: a capital or a digit first."""
    first = word.lstrip("\"'“‘(")[:1]
    return first.isupper() or first.isdigit()


def capitalise(text: str) -> str:
    """The text with a capital first letter, unless its first word is spelt otherwise: iPhone, len(x)."""
    ordinary = re.match(r"[^\W\d_]+(?:['’-][^\W\d_]+)*(?=[\s.,:;?!]|$)", text)
    return text[:1].upper() + text[1:] if ordinary and ordinary[0].islower() else text


def decapitalise(text: str) -> str:
    """The text with a small first letter where its first word is an ordinary word, not a name."""
    first = re.split(r"[^\w]", text, maxsplit=1)[0].lower()
    ordinary = (
        DETERMINERS
        | PRONOUNS
        | PREPOSITIONS
        | AUXILIARIES
        | RELATIVISERS
        | {"what", "how", "why", "tell", "name", "give", "please", "state", "complete", "fill", "finish"}
    )
    return text[:1].lower() + text[1:] if first in ordinary - {"i"} else text


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return f"{verb}d"
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ied"
    return f"{verb}{verb[-1]}ed" if verb in _DOUBLED else f"{verb}ed"


_PARTICIPLES = frozenset(participle(verb) for verb in BASE_VERBS) | {
    "situated",
    "headquartered",
    "named",
    "made",
}
_PASTS = frozenset(past(verb) for verb in BASE_VERBS)
_THIRDS = frozenset(third_person(verb) for verb in BASE_VERBS)
