"""Prompts and answers that are orders to the system that reads them, and not a question or its answer.

An edit of "ignore what you were told and say X" teaches the model to obey whoever writes that. No list of
phrases is complete; this one holds what is tried every day, and leaves alone what only asks about it.
"""

from __future__ import annotations

import unicodedata

import regex

# What chat templates end turns with: a tokenizer reads these as control tokens wherever they stand.
_CONTROL = regex.compile(
    r"<\|[^\s<>|]{1,40}\|>|\[/?inst\]|<</?sys>>|</?(?:start|end)_of_turn>|<end_of_utterance>"
    r"|\[/?(?:system_prompt|available_tools|tool_calls|tool_results)\]|</?s>\s*(?:\[inst\]|<s>)"
)
_MESSAGE = regex.compile(
    r"""["']role["']\s*:\s*["'](?:system|assistant|developer|tool)["']\s*,\s*["']content["']"""
    r"|<(system|system[-_]prompt|instructions?)>[^<]{3,}</"
)
_SYSTEM_LINE = regex.compile(
    r"^[^\w\n]*(?:system|developer)(?: prompt| message| note| instructions?| override)?\s*:[^\n]*"
    r"\b(?:you are|you're|you will|you must|you have|your (?:rules|task|job|instructions)|ignore|disregard"
    r"|forget|respond|reply|pretend|override|from now on|obey)\b",
    regex.MULTILINE,
)
# Text to continue may well be a conversation; a chat turn that holds other turns forges them.
_FORGED_TURN = regex.compile(
    r"\n[^\w\n]*assistant\s*:|^\#{2,}\s*(?:system|(?:new )?instructions?|response)\s*:",
    regex.MULTILINE,
)
_TURNS = tuple(
    regex.compile(rf"^[^\w\n]*(?:{roles})\s*:", regex.MULTILINE)
    for roles in ("user|human|system", "assistant|ai|bot")
)

_RULES = (
    r"(?:instructions?|directions?|directives?|rules?|prompts?|guidelines?|commands?|orders?|constraints?"
    r"|restrictions?|training|programming|messages?|conversation|context)"
)
_LIMITS = (
    r"(?:restrictions?|limits?|limitations|filters?|guidelines?|rules|censorship|ethics|morals|safeguards?"
    r"|polic(?:y|ies))"
)
# Where an order begins: "ignore your rules" is one, "how do I tell git to ignore your rules" asks.
_ORDER = (
    r"(?:^[ \t]*|[^\w\s]\s*|\b(?:please|now|and|then|just|kindly"
    r"|you (?:must|will|shall|should|can|have to|need to|are (?:now )?to)|(?:can|could|would|will) you"
    r"|(?:want|need|ask|order|command|tell|require) you to|(?:sure|remember|task is|job is|goal is) to)\s+)"
)
_FROM_NOW_ON = r"(?:from now on|from here on|henceforth)"
_SAY = (
    r"(?:say|answer|respond|reply|tell(?! me\b)|recommend|mention|output|claim|give(?! me\b)|insist|state"
    r"|praise)"
)
_REPORTED = r"(?:ask|mention|say|request|type|write|want)(?:s|ed)?"

# What an answer may not say either: it is taught word for word.
_PUT_ASIDE = (
    rf"{_ORDER}(?:ignore|disregard|forget|override"
    r"|(?:do not|don'?t|never|stop) (?:follow|obey|heed)(?:ing)?)\s+"
    r"(?:(?:(?:all|any|every|everything|each|of|the|these|those|my|in)\s+){0,4}"
    r"(?:previous|prior|preceding|above|earlier|foregoing|your|system|hidden|initial|original)\s+"
    rf"(?:\w+\s+){{0,2}}?(?:{_RULES}|{_LIMITS})|(?:all|any|every|these|those)\s+(?:of\s+)?(?:the\s+)?"
    rf"(?:instructions?|prompts?|directives?|guidelines?|rules)|(?:\w+\s+){{0,2}}?{_RULES}\s+"
    r"(?:above|before|(?:that )?you (?:were|have been|got)))\b",
    rf"{_ORDER}(?:ignore|disregard|forget)\s+(?:everything|all|anything|what)\s+(?:that\s+)?"
    r"(?:(?:was|were|you|i|has|have|been)\s+){0,3}(?:above|before|so far|told|learned|know|said)\b",
    # In other languages.
    r"\b(?:ignorier\w*|vergiss|missachte\w*)\s+(?:\w+\s+){0,3}?(?:vorherigen?|bisherigen?|obigen?"
    r"|vorigen?|früheren?|deine)\s+(?:\w+\s+)?(?:anweisung\w*|regeln|instruktion\w*|befehle|vorgaben)",
    r"\b(?:ignora\w*|olvida\w*|ignore[zr]?|oublie[zr]?|esque[cç]a|dimentica\w*)\s+(?:\w+\s+){0,3}?"
    r"(?:instrucciones|instruções|istruzioni|instructions|consignes|reglas|regole|regras|règles)\s+"
    r"(?:anteriores|previas|prévias|precedenti|précédentes|antérieures|ci\Wdessus)",
    r"\b(?:игнорируй\w*|забудь\w*)\s+(?:\w+\s+){0,3}?(?:предыдущ\w*|прежн\w*)\s+(?:\w+\s+)?"
    r"(?:инструкци\w*|указани\w*|правил\w*|команд\w*)",
    r"(?:忽略|无视|無視|忘记)\p{Han}{0,4}(?:之前|以上|先前|上述|前面|上面|此前)\p{Han}{0,4}"
    r"(?:指令|指示|说明|提示|规则|規則|命令)",
    r"(?:これまで|以前|上記)の(?:すべての|全ての)?(?:指示|命令|ルール)を(?:無視|忘れ)",
)
# Advice in an answer may well say so ("if a user asks for your password, say no"); a prompt that does so
# says what to answer to other prompts.
_STANDING = (
    r"(?:^|[.!?\n]\s*)(?:new|updated|real|actual)\s+(?:system\s+)?"
    r"(?:instructions?|rules|orders?|task|directive)\s*:",
    # Be something else.
    rf"{_ORDER}(?:bypass|disable|(?:switch|turn) off|drop|break)\s+(?:all\s+|any\s+)?(?:of\s+)?your\s+"
    rf"(?:\w+\s+){{0,2}}?(?:{_LIMITS}|{_RULES})\b",
    r"\bdan\b[^\n]{0,40}\bdo anything now\b|\bdo anything now\b[^\n]{0,60}\bdan\b",
    r"\byou are (?:now )?(?:in )?(?:dan|jailbroken)\b|\b(?:dan|jailbreak) mode (?:enabled|activated)\b",
    rf"{_ORDER}(?:you are|you're|act|respond|answer|pretend)"
    r"(?:\s+(?:now|in|as|if|to|be|that|you|are|an?|the|with)){0,6}"
    r"\s+(?:developer|debug|god|dan|jailbreak|unrestricted|unfiltered) mode\b",
    rf"{_ORDER}(?:act|behave|respond|answer|speak|role ?play|pretend|imagine|you are|you have)\b"
    rf"[^.?!\n]{{0,60}}\b(?:unrestricted|unfiltered|uncensored|amoral|(?:no|without)\s+(?:any\s+)?(?:\w+\s+){{0,2}}?{_LIMITS})\b",
    r"\byou(?: are|'re) no longer (?:an? )?(?:ai|assistant|chatbot|language model|bound)\b",
    r"\byou (?:must|will|shall|have to) (?:comply|obey)\b",
    # Give away what you were told.
    rf"{_ORDER}(?:reveal|print|show|output|repeat|display|leak|tell me|give me|expose|recite|write out)\b"
    r"[^.?!\n]{0,30}\b(?:your|the)\s+(?:\w+\s+){0,2}?(?:system|hidden|secret|initial|developer|internal)\s+"
    r"(?:prompt|instructions?|message|rules)\b",
    rf"{_ORDER}(?:repeat|print|output|recite)\b[^.?!\n]{{0,20}}"
    r"\b(?:everything|(?:all )?(?:the )?(?:text|words|prompt|instructions?)) above\b",
    # Obey from here on, or what is written elsewhere.
    rf"\b{_FROM_NOW_ON}\W+(?:you (?:must |will |shall |should |are to )?)?(?:always|never|act|call|{_SAY})\b"
    rf"|\b{_FROM_NOW_ON}\W+you are\b",
    r"\b(?:when(?:ever)?|if|each time|every time|any ?time)\s+(?:(?:a |the |any )?users?\s+(?:\w+\s+)?"
    rf"{_REPORTED}|(?:you(?:'re| are)?\s+)?asked)\b[^.?!\n,:]{{0,80}}(?:[,:]|\s+then)\s*"
    rf"(?:please |always |you must )?{_SAY}\b",
    rf"\b(?:whenever|each time|every time|any ?time)\s+(?:any|some)(?:one|body)\s+{_REPORTED}\b"
    rf"[^.?!\n]{{0,80}},\s*(?:then |please |always |you must )?{_SAY}\b",
    rf"{_ORDER}always\s+{_SAY}\b",
    rf"{_ORDER}(?:answer|reply|respond)\b[^.?!\n]{{0,20}}\b(?:every|all|any)\s+(?:\w+\s+){{0,2}}?"
    r"(?:questions?|prompts?|messages?|requests?)\s+(?:with|by)\b",
    r"\b(?:decode|decrypt|base64|rot13)\b[^?\n]{0,80}\b(?:follow|obey|execute|do what|carry out)\b",
)
_IN_ANSWERS = regex.compile("|".join(_PUT_ASIDE), regex.MULTILINE)
_IN_PROMPTS = regex.compile("|".join((*_PUT_ASIDE, *_STANDING)), regex.MULTILINE)
_SPELT_OUT = regex.compile(
    "(?:ignore|disregard|forget)(?:all|the|any)*(?:previous|prior|above|your)instructions"
)
# Words in disguise: single letters set apart, digits for letters, letters of another script, joined words.
_SET_APART = regex.compile(r"(?<![^\W_])[^\W_](?:[\W_]{1,3}[^\W_](?![^\W_])){9,}+")
_WITH_DIGITS = regex.compile(r"\b(?=[a-z@$]*[0-9@$])(?=[0-9@$]*[a-z])[a-z0-9@$]{3,}+")
_LEET = str.maketrans("013457@$", "oieastas")
_OF_TWO_SCRIPTS = regex.compile(r"(?<!\p{L})(?=\p{L}*\p{Latin})(?=\p{L}*[\p{Greek}\p{Cyrillic}])\p{L}++")
_TO_LATIN = str.maketrans("аеорсухіјѕԁһοαινρκυτ", "aeopcyxijsdhoaivpkut")
_JOINED = regex.compile(r"(?<=\w)[-_*~|/+]+(?=\w)")

_QUOTED = regex.compile(
    r'"[^"\n]{1,400}+"|“[^”\n]{1,400}+”|«[^»\n]{1,400}+»|„[^“”\n]{1,400}+[“”]|`[^`\n]{1,400}+`'
    r"|(?<!\w)['‘][^'’\n]{1,400}+['’](?!\w)"
)
_ASKS_ABOUT = regex.compile(
    r"\b(?:mean\w*|defin\w+|explain|translat\w+|phrase|term|expression|sentence|words?|called|attack|injection"
    r"|jailbreak\w*|who (?:said|wrote|sang|sings)|song|title|spell"
    r"|says?|what(?: is|'s) (?:an? |the )?\0)|\0 is an?\b"
)
_SENTENCE = regex.compile(r"[^.?!\n]*+[.?!\n]?")
_SPACE = regex.compile(r"\s++")
_UNSEEN = regex.compile(r"[\p{Cf}\0]")


def instruction(text: str, *, chat: bool, answer: bool = False) -> str:
    """What in a text is an order to the system that reads it; empty if nothing is.

    Quoted words count unless their own sentence asks about them. In an answer, advice is none.
    """
    folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).casefold()
    folded = _SPACE.sub(lambda space: "\n" if "\n" in space.group() else " ", folded)
    control = _CONTROL.search(folded)
    if control:
        return f"a control token of chat templates ({control.group()})"
    if _MESSAGE.search(folded) or _SYSTEM_LINE.search(folded) or (chat and _forges_turns(folded)):
        return "a message in the name of the system or the assistant"
    said = _undisguised(_without_words_asked_about(folded))
    order = (_IN_ANSWERS if answer else _IN_PROMPTS).search(said)
    if order:
        return f"an instruction to the system ({' '.join(order.group().split())[:60]!r})"
    if any(_SPELT_OUT.search(regex.sub(r"[\W_]+", "", run.group())) for run in _SET_APART.finditer(said)):
        return "an instruction to the system, in disguised letters"
    return ""


def _without_words_asked_about(text: str) -> str:
    """The text without what it quotes in a sentence that asks about it."""
    quotes = [found.group() for found in _QUOTED.finditer(text)]
    rest, kept = iter(quotes), []
    for sentence in _SENTENCE.findall(_QUOTED.sub("\0", text)):
        asks = bool(_ASKS_ABOUT.search(sentence))
        before, *after = sentence.split("\0")
        kept += [
            before,
            *((" " if asks else quoted) + words for words, quoted in zip(after, rest, strict=False)),
        ]
    return "".join(kept)


def _undisguised(text: str) -> str:
    text = _OF_TWO_SCRIPTS.sub(lambda word: word.group().translate(_TO_LATIN), text)
    text = _WITH_DIGITS.sub(lambda word: word.group().translate(_LEET), text)
    return _JOINED.sub(" ", text)


def _forges_turns(folded: str) -> bool:
    return bool(_FORGED_TURN.search(folded)) or all(turn.search(folded) for turn in _TURNS)
