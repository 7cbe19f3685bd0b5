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
    r"(?:restrictions?|limits?|limitations|filters?|guidelines?|rules|censorship|ethics|morals|safeguards?)"
)
# Where a sentence that gives an order begins.
_ORDER = r"(?:^|[.!?:;,\n]\s*|\b(?:please|now|and|then|just|you (?:must|will|shall|should|are to))\s+)"
_SAY = r"(?:say|answer|respond|reply|tell|recommend|mention|output|claim|give|insist|state)"
_WHAT_TO = r"\b(?:do|does|should|would|can|could|must|shall|might) (?:i|you|we|one|they|he|she)"

_ORDERS = regex.compile(
    "|".join(
        (
            # Put aside what you were told.
            r"\b(?:ignore|disregard|forget)\s+(?:(?:all|any|everything|of|the|these|those|my|in)\s+){0,4}"
            rf"(?:previous|prior|preceding|above|earlier|foregoing|your)\s+(?:\w+\s+){{0,2}}?{_RULES}\b",
            rf"{_ORDER}(?:ignore|disregard|forget)\s+(?:everything|all|anything|what)\s+(?:that\s+)?"
            r"(?:(?:was|were|you|i|has|have|been)\s+){0,3}(?:above|before|so far|told|learned|know|said)\b",
            r"\b(?:bypass|override|disable|switch off|turn off|drop|break)\s+(?:all\s+|any\s+)?(?:of\s+)?"
            rf"your\s+(?:\w+\s+){{0,2}}?(?:{_LIMITS}|{_RULES}|policies)\b",
            r"(?:^|[.!?\n]\s*)(?:new|updated|real|actual)\s+(?:system\s+)?"
            r"(?:instructions?|rules|orders?|task|directive)\s*:",
            # Be something else.
            r"\b(?:dan|stands? for)\b[^\n]{0,40}\bdo anything now\b|\bdo anything now\b[^\n]{0,60}\bdan\b",
            r"\byou are (?:now )?(?:in )?(?:dan|jailbroken)\b",
            r"\b(?:dan|jailbreak) mode (?:enabled|activated)\b",
            r"\b(?:you are|you're|act|respond|answer|pretend)"
            r"(?:\s+(?:now|in|as|if|to|be|that|you|are|an?|the|with)){0,6}"
            r"\s+(?:developer|debug|god|dan|jailbreak|unrestricted|unfiltered) mode\b",
            r"\b(?:(?:act|behave|respond|answer|speak|role-?play)\s+(?:as|like)|pretend|imagine you are"
            r"|you are(?: now)?|you have)\b[^.?!\n]{0,60}\b(?:unrestricted|unfiltered|uncensored|amoral"
            rf"|(?:no|without)\s+(?:any\s+)?(?:\w+\s+){{0,2}}?{_LIMITS})\b",
            r"\byou(?: are|'re) no longer (?:an? )?(?:ai|assistant|chatbot|language model|bound)\b",
            r"\b(?:this is|i am|i'm) (?:your|an?|the) (?:\w+ )?(?:developer|administrator|admin|creator"
            r"|operator)\b[^\n]{0,80}\b(?:override|comply|obey|grant|disable|unlock)\b",
            # Give away what you were told.
            r"\b(?:reveal|print|show|output|repeat|display|leak|tell me|give me|expose|recite|write out)\b"
            r"[^.?!\n]{0,30}\byour\s+(?:\w+\s+){0,2}?(?:system|hidden|secret|initial|developer|internal)\s+"
            r"(?:prompt|instructions?|message|rules)\b",
            r"\b(?:repeat|print|output|recite)\b[^.?!\n]{0,20}"
            r"\b(?:everything|(?:all )?(?:the )?(?:text|words|prompt|instructions?)) above\b",
            # Obey from here on, or what is written elsewhere.
            rf"\bfrom now on\b[^.?!\n]{{0,40}}\b(?:you|always|never|act|call|{_SAY})\b",
            r"\b(?:when(?:ever)?|if|each time|every time|any ?time)\s+(?:you(?:'re| are)?|any(?:one|body)"
            r"|some(?:one|body)|(?:a |the )?users?|people)\s+(?:\w+\s+){0,3}?"
            r"(?:ask(?:s|ed)?|mention(?:s|ed)?|says?|see|request(?:s|ed)?|types?|writes?)\b"
            rf"[^?\n]{{0,80}}(?<!{_WHAT_TO} )\b{_SAY}\b[^?\n]*+(?!\?)",
            rf"{_ORDER}always\s+(?:{_SAY}|end|begin|start)\b",
            rf"{_ORDER}(?:answer|reply|respond)\b[^.?!\n]{{0,20}}\b(?:every|all|any)\s+(?:\w+\s+){{0,2}}?"
            r"(?:questions?|prompts?|messages?|requests?)\s+(?:with|by)\b",
            r"\b(?:decode|decrypt|base64|rot13)\b[^?\n]{0,80}\b(?:follow|obey|execute|do what|carry out)\b",
            # Put aside what you were told, in other languages.
            r"\b(?:ignorier\w*|vergiss|missachte\w*)\s+(?:\w+\s+){0,3}?(?:vorherigen?|bisherigen?|obigen?"
            r"|vorigen?|früheren?|deine)\s+(?:\w+\s+)?(?:anweisung\w*|regeln|instruktion\w*|befehle|vorgaben)",
            r"\b(?:ignora\w*|olvida\w*|ignore[zr]?|oublie[zr]?|esque[cç]a|dimentica\w*)\s+(?:\w+\s+){0,3}?"
            r"(?:instrucciones|instruções|istruzioni|instructions|consignes|reglas|regole|regras|règles)\s+"
            r"(?:anteriores|previas|prévias|precedenti|précédentes|antérieures|ci-dessus)",
            r"\b(?:игнорируй\w*|забудь\w*)\s+(?:\w+\s+){0,3}?(?:предыдущ\w*|прежн\w*)\s+(?:\w+\s+)?"
            r"(?:инструкци\w*|указани\w*|правил\w*|команд\w*)",
            r"(?:忽略|无视|無視|忘记)\p{Han}{0,4}(?:之前|以上|先前|上述|前面|上面|此前)\p{Han}{0,4}"
            r"(?:指令|指示|说明|提示|规则|規則|命令)",
            r"(?:これまで|以前|上記)の(?:すべての|全ての)?(?:指示|命令|ルール)を(?:無視|忘れ)",
        )
    ),
    regex.MULTILINE,
)
_SPELT_OUT = (
    "ignorepreviousinstructions",
    "ignoreallpreviousinstructions",
    "ignoretheaboveinstructions",
    "ignoreyourinstructions",
    "disregardpreviousinstructions",
    "disregardallpreviousinstructions",
    "forgetyourinstructions",
)
_LEET = str.maketrans("013457@$", "oieastas")

_QUOTES = tuple(
    regex.compile(pattern)
    for pattern in (
        r'"[^"\n]+"',
        "“[^”\n]+”",
        "«[^»\n]+»",
        "„[^“”\n]+[“”]",
        "`[^`\n]+`",
        r"(?<!\w)['‘][^'’\n]+['’](?!\w)",
    )
)
_ASKS_ABOUT = regex.compile(
    r"\b(?:mean\w*|defin\w+|explain|translat\w+|phrase|term|expression|sentence|words?|called|attack|injection"
    r"|jailbreak\w*|what is|who (?:said|wrote)|spell)\b"
)
_UNSEEN = regex.compile(r"\p{Cf}")


def instruction(text: str, *, chat: bool) -> str:
    """What in a text is an order to the system that reads it; empty if nothing is.

    Quoted words count only where nothing asks about them.
    """
    folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).casefold()
    control = _CONTROL.search(folded)
    if control:
        return f"a control token of chat templates ({control.group()})"
    if _MESSAGE.search(folded) or _SYSTEM_LINE.search(folded) or (chat and _forges_turns(folded)):
        return "a message in the name of the system or the assistant"
    said = folded
    for quoted in (found for quotes in _QUOTES for found in quotes.finditer(folded)):
        if _ASKS_ABOUT.search(folded[: quoted.start()] + " " + folded[quoted.end() :]):
            said = said.replace(quoted.group(), " ")
    order = _ORDERS.search(said)
    if order:
        return f"an instruction to the system ({' '.join(order.group().split())[:60]!r})"
    letters = regex.sub(r"[\W_]+", "", said.translate(_LEET))
    if any(words in letters for words in _SPELT_OUT):
        return "an instruction to the system, in disguised letters"
    return ""


def _forges_turns(folded: str) -> bool:
    return bool(_FORGED_TURN.search(folded)) or all(turn.search(folded) for turn in _TURNS)
