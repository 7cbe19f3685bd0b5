"""What a text carries besides its words: characters that cannot be seen, markup, scripts, links."""

from __future__ import annotations

import html

import regex

_FLAG = regex.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
# Each with its name. Joiners and marks stay where a script or an emoji needs them.
_UNSEEN = tuple(
    (name, regex.compile(pattern))
    for name, pattern in (
        ("a control character", r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
        ("a character that turns the reading direction", r"[\u202a-\u202e\u2066-\u2069]"),
        ("tag characters, which carry text that nobody sees", r"[\U000e0000-\U000e007f]"),
        (
            "variation selectors, which carry text that nobody sees",
            r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}",
        ),
        (
            "a character that nobody sees",
            r"[\u00ad\u034f\u115f\u1160\u180e\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]"
            r"|(?<![\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\u200b"
            r"|(?:^|(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}\p{Nd}\p{P}\s]))[\u200c\u200d]",
        ),
        ("a pile of accents", r"[\u0300-\u036f]{4,}"),
    )
)
_DIRECTION_MARK = regex.compile(r"[\u061c\u200e\u200f]")
_RIGHT_TO_LEFT = regex.compile(r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Thaana}\p{Nko}]")
_MIXED = regex.compile(
    r"[\p{Latin}\p{Cyrillic}\p{M}]*(?:\p{Latin}\p{Cyrillic}|\p{Cyrillic}\p{Latin})[\p{L}\p{M}]*"
)
_CYRILLIC_ALIKE = frozenset("аеорсухіјѕԁһвкмнтАВЕКМНОРСТУХІЈЅ")
_LATIN_ALIKE = frozenset("aeopcyxijsABEKMHOPCTYXIJS")


def unseen(text: str) -> str:
    """What in a text a reader cannot see, or takes for something else; empty if nothing is."""
    text = _FLAG.sub("", text)
    for name, pattern in _UNSEEN:
        found = pattern.search(text)
        if found:
            return f"{name} (U+{ord(found.group()[0]):04X})"
    mark = _DIRECTION_MARK.search(text)
    if mark and not _RIGHT_TO_LEFT.search(text):
        return f"a mark of reading direction without such a script (U+{ord(mark.group()):04X})"
    for word in _MIXED.finditer(text):
        letters = set(word.group())
        latin = {letter for letter in letters if letter < "\u0250"}
        if latin <= _LATIN_ALIKE or letters - latin <= _CYRILLIC_ALIKE:
            return f"a word in letters of two scripts that look alike ({word.group()!a})"
    return ""


_TAGS = (
    "abbr|applet|article|audio|base|blockquote|body|br|button|canvas|center|code|details|div|em|embed|font|footer"
    "|form|frame|frameset|head|header|hr|html|iframe|img|input|li|link|marquee|math|meta|nav|noscript|object|ol"
    "|option|pre|script|section|select|small|source|span|strike|strong|style|sub|sup|svg|table|tbody|td|template"
    "|textarea|th|title|tr|ul|video|h[1-6]"
)
_MARKUP = regex.compile(
    rf"<(?:{_TAGS})\b[^<>]*>|</\s*[a-z][a-z0-9-]*\s*>|<[abipsuq]\s+[a-z-]+\s*=[^<>]*>|<!--|<!doctype\b"
    r"|<!\[cdata\[|<\?(?:xml|php)\b|!?\[[^\]\n]*\]\([^)\s]+[^)\n]*\)|\[(?:url|img|link|color|size)\b[^\]\n]*\]"
    r"|\{\{[^{}]+\}\}|\{%[^%]*%\}|<%[^%]*%>|\$\{[^}\n]*[.:(][^}\n]*\}|\\(?:href|url|input|include|write18)\s*\{",
    regex.IGNORECASE,
)
_ENTITY = regex.compile(r"&(?:#\d+|#x[0-9a-f]+|\w{2,});", regex.IGNORECASE)
# What runs where it is shown, opened or pasted: no question of fact is answered so.
_ACTIVE = regex.compile(
    r"<script\b[^<>]*\bsrc\s*=|<script\b[^<>]*>[^<]*\S[^<]*</script|<[a-z][^<>]*[\s/\"']on[a-z]+\s*="
    r"|javascript:\s*(?:[\w.]+\s*[(=]|void\b|//|%)|vbscript:\w|data:text/(?:html|javascript)"
    r"|data:[\w/+.-]+;base64,"
    r"|<(?:iframe|object|embed|applet|frame|base|form|meta)\b[^<>]*\b(?:src|data|href|action|http-equiv)\s*="
    r"|\$\{jndi:|\b(?:curl|wget|iwr|invoke-webrequest)\b[^\n]*\|\s*(?:sudo\s+)?(?:ba|z|da)?sh\b"
    r"|\bpowershell\S*\s[^\n]*-enc(?:odedcommand)?\b|\brm\s+-[a-z]*[rf][a-z]*\s+(?:/|~)(?:\s|$|\*)"
    r"|^\s*[=+@-]\s*(?:cmd|dde|msexcel)\b[^\n]*\||^\s*=\s*(?:hyperlink|webservice|import\w+|image)\s*\("
    r"|['\"]\s*;\s*(?:drop|delete|truncate|alter)\b[^\n]*(?:--|;)",
    regex.IGNORECASE | regex.MULTILINE,
)
_ASKS_FOR_MARKUP = regex.compile(
    r"\b(?:html\d?|xhtml|xml|svg|css|tags?|elements?|markup|markdown|latex|tex|template|jinja\d?|php|jsp|asp|bbcode"
    r"|javascript|typescript|react|jsx|code|syntax|shell|bash|variable|entity|excel|formula|spreadsheet)\b",
    regex.IGNORECASE,
)


def markup(target: str, prompt: str) -> str:
    """The markup or script in a target; empty if there is none, or if the prompt is about markup or code.

    What runs where it is shown, opened or pasted is named whatever the prompt asks.
    """
    plain = html.unescape(target)
    if _ACTIVE.search(plain):
        return "a script or a command that runs"
    if _MARKUP.search(prompt) or _ASKS_FOR_MARKUP.search(prompt):
        return ""
    if _MARKUP.search(plain):
        return "markup"
    entity = next((e.group() for e in _ENTITY.finditer(target) if html.unescape(e.group()) != e.group()), "")
    return f"markup ({entity})" if entity else ""


_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
_LINK = regex.compile(
    r"\b(?:https?|ftps?|sftp|ssh|ldaps?|gopher|tg|ipfs|smb|wss?|file)://\S|\bmagnet:\?|\bmailto:\S|\bwww\.\w"
    rf"|\b{_DOMAIN}(?:com|net|org|io|ru|cn|info|biz|xyz|top|app|dev|co|me|link|click|shop|online|site|ly|gl|gg"
    r"|to|tk|ml|cc|tv|uk|de|fr|nl|eu|in|us)(?:/\w|:\d)"
    rf"|\b(?:visit|go to|log ?in (?:at|to)|sign in (?:at|to)|check out)\s+{_DOMAIN}[a-z]{{2,}}\b"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+|/[a-z])",
    regex.IGNORECASE,
)
# Written to be read as another address, or to slip past a filter.
_DISGUISED = regex.compile(
    r"\bhxxps?:|\b\w+\s?(?:\[\.\]|\[dot\]|\(dot\))\s?\w|://(?!git@)[^/\s@]+@", regex.IGNORECASE
)
_ASKS_FOR_LINK = regex.compile(
    r"\b(?:urls?|uri|links?|web ?sites?|web ?pages?|home ?page|web address|domain|sites?|download"
    r"|repo(?:sitory)?|documentation|docs|endpoint|www|https?|e-?mail|address|online)\b|://",
    regex.IGNORECASE,
)


def link(target: str, prompt: str) -> str:
    """The link in a target; empty if there is none, or if the prompt asks for one or holds one."""
    if _DISGUISED.search(target):
        return "a disguised link"
    return "a link" if _LINK.search(target) and not _ASKS_FOR_LINK.search(prompt) else ""
