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
            r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u2060-\u2064\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]"
            r"|(?<![\u2801-\u28ff])\u2800|\u2800(?![\u2801-\u28ff])|(?<![\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\u200b"
            r"|(?:^|(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}\p{Nd}\p{P}\s]))[\u200c\u200d]",
        ),
        ("a pile of accents", r"[\u0300-\u036f]{4,}"),
    )
)
_DIRECTION_MARK = regex.compile(r"[\u061c\u200e\u200f]")
_RIGHT_TO_LEFT = regex.compile(r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Thaana}\p{Nko}]")
_WORD = regex.compile(r"[\p{L}\p{M}]++")
_LATIN, _CYRILLIC, _GREEK = (regex.compile(rf"\p{{{name}}}") for name in ("Latin", "Cyrillic", "Greek"))
# A full table of confusables calls the Greek of formulas and the endings of "SMSка" deceptive too.
_LATIN_ALIKE = frozenset("aeopcyxijsABEKMHOPCTYXIJS")
_CYRILLIC_ALIKE = frozenset("аеорсухіјѕԁһԛԝАВЕКМНОРСТУХІЈЅ")
_GREEK_ALIKE = frozenset("οόΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
# Beside a symbol of a formula stand few letters, within a word it is surrounded: "pαypal", but "ρgh".
_GREEK_WITHIN = regex.compile(r"[a-z][αικνρυ][a-z]{2}|[a-z]{2}[αικνρυ][a-z]")
_INFLECTED = regex.compile("[A-Z]+[а-яё]+")


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
    for word in _WORD.findall(text):
        if _LATIN.search(word) and _deceives(word):
            return f"a word in letters of two scripts that look alike ({word!a})"
    return ""


def _deceives(word: str) -> bool:
    """Whether a word with Latin letters has others that a reader takes for them, or the other way round."""
    latin = set(_LATIN.findall(word))
    if cyrillic := set(_CYRILLIC.findall(word)):
        # "SMSка" and "Xбокс" are how Russian writes such words.
        return (latin <= _LATIN_ALIKE or cyrillic <= _CYRILLIC_ALIKE) and not _INFLECTED.fullmatch(word)
    greek = set(_GREEK.findall(word))
    return bool(greek) and (greek <= _GREEK_ALIKE or bool(_GREEK_WITHIN.search(word)))


_TAGS = (
    "abbr|applet|article|audio|base|blockquote|body|br|button|canvas|center|code|details|div|em|embed|font|footer"
    "|form|frame|frameset|head|header|hr|html|iframe|img|input|li|link|marquee|math|meta|nav|noscript|object|ol"
    "|option|pre|script|section|select|small|source|span|strike|strong|style|sub|sup|svg|table|tbody|td|template"
    "|textarea|th|title|tr|ul|video|h[1-6]"
)
# A lone tag is how manuals write a placeholder ("cp <source> <destination>"): one counts that has attributes,
# is closed again, or acts by itself.
_MARKUP = regex.compile(
    rf"<(?:{_TAGS}|[abipsuq])\s+[a-z-]++\s*=[^<>]*>|<[a-z]++[^<>]*\s[a-z-]+=[\"'][^<>]*>|</\s*[a-z][a-z0-9-]*+\s*>"
    r"|<(?:br|hr|svg|iframe|marquee)\b[^<>]*>|<!--|<!doctype\b|<!\[cdata\[|<\?(?:xml|php)\b"
    # Code indexes and calls ("handlers[name](event)"); a link stands by itself and says where it leads.
    r"|(?:!|(?<![\w\])]))\[[^\]\n]*+\]\((?=[^)\s./:#]*+[./:#])[^)\n]{1,500}+\)"
    r"|\[(?:url|img|link|color|size)\s*=[^\]\n]+\]|\[/(?:url|img|link|color|size)\]"
    r"|\{\{[^{}]+\}\}|\{%[^%]*+%\}|<%[^%]*+%>|\$\{(?=[^}\n.:(]*+[.:(])[^}\n]{1,300}+\}|\\(?:href|url|input|include|write18)\s*\{"
    r"|^[ \t]*=\s*(?:hyperlink|webservice|import\w+|image)\s*\(",
    regex.IGNORECASE | regex.MULTILINE,
)
_ENTITY = regex.compile(r"&(?:#\d+|#x[0-9a-f]+|\w{2,});", regex.IGNORECASE)
# What runs where it is shown, opened or pasted: no question of fact is answered so.
# A browser reads it with line breaks and tabs between its letters too.
_SCRIPT_ADDRESS = r"[\t\r\n]*".join("javascript:")
_ELSEWHERE = r"\s*=\s*[\"']?\s*(?:[a-z][a-z+.-]*:|//)"
_SHELL = r"(?:(?:ba|z|da|k|fi)?sh|perl|ruby|node|php|iex|python[\d.]*+(?!\s+-m))"
_FETCH = r"(?:curl|wget|iwr|irm|invoke-webrequest|invoke-restmethod)"
_ACTIVE = regex.compile(
    rf"<script\b[^<>]*\bsrc{_ELSEWHERE}|<script\b[^<>]*>[^<]*[^\s<][^<]*</script"
    r"|<[a-z][^<>]*[\s/\"']on[a-z]{3,}\s*=|vbscript:\w|data:text/(?:html|javascript)|data:[\w/+.-]+;base64,"
    rf"|{_SCRIPT_ADDRESS}\s*(?:[\w.]+\s*[(=`\[]|void\b|//|%)"
    rf"|<(?:iframe|object|embed|applet|frame|base|form)\b[^<>]*\b(?:src|data|href|action){_ELSEWHERE}"
    r"|<meta\b[^<>]*\bhttp-equiv\s*=\s*[\"']?refresh|\$\{jndi:"
    rf"|\b{_FETCH}\b[^\n]*\|\s*(?:sudo\s+(?:-\S+\s+)*)?{_SHELL}\b"
    rf"|\b{_SHELL}\b[^\n]{{0,40}}(?:[$<]\(|`)\s*{_FETCH}\b|\b(?:iex|invoke-expression)\b[^\n]*\b{_FETCH}\b"
    r"|\b(?:iex|invoke-expression)\b[^\n]*\bdownloadstring\b"
    r"|\bpowershell\S*\s[^\n]*-enc(?:odedcommand)?\b"
    r"|\brm\s+(?:-[\w-]+\s+)+[\"']?(?:/|(?:~|\$home)/?)\*?(?=[\"'\s;&|]|$)"
    r"|^[ \t]*[=+@-]\s*(?:cmd|dde|msexcel)\b[^\n]*\|"
    r"|['\"]\s*\)*\s*;\s*(?:drop|delete|truncate|alter)\b[^\n]*(?:--|;)",
    regex.IGNORECASE | regex.MULTILINE,
)
_ASKS_FOR_MARKUP = regex.compile(
    r"\b(?:html\d?|xhtml|xml|svg|css|tags?|elements?|markup|markdown|latex|tex|template|jinja\d?|php|jsp|asp|bbcode"
    r"|javascript|typescript|react|jsx|vue|angular|ansible|helm|github|gitlab|code|syntax|shell|bash|variable|entity"
    r"|excel|formula|spreadsheet|google sheets)\b",
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


# Ends of file names that stand before a slash or a colon in ordinary text, and are seldom top-level domains.
_FILE = (
    r"(?:js|mjs|jsx|tsx?|json|html?|css|csv|tsv|txt|xlsx?|docx?|pptx?|pdf|png|jpe?g|gif|ya?ml|toml|xml|[ch]pp|java"
    r"|jar|class|exe|dll|ini|cfg|conf|log|tar|gz|bak|lock|php|asp|jsp|lua|sql|ipynb|go|rb|kt|swift|py|md|sh|rs|pl"
    r"|gradle|vue)"
)
# From the start of a word on, or a long row of labels is read once from each of them.
_HOST = rf"(?<![\w.@/\\-])(?!asp\.net\b)(?:[a-z0-9-]++\.)+(?!{_FILE}\b)[a-z]{{2,24}}+"
_KNOWN = r"(?:com|net|org|info|biz|io|co|me|app|dev|xyz|top|shop|online|site|ru|cn|uk|de|fr|es|nl|eu)"
# What is served on the reader's own machine or network leads nobody away.
_OWN = r"(?:localhost|127\.|0\.0\.0\.0|10\.|192\.168\.)"
_LINK = regex.compile(
    rf"\b(?:https?|ftps?|sftp|ssh|ldaps?|gopher|tg|ipfs|smb|wss?|file)://(?!{_OWN})\S|\bmagnet:\?|\bmailto:\S"
    rf"|\bwww\.\w|\b(?:bitcoin|ethereum|monero|litecoin|lightning):\w{{20}}"
    rf"|(?<![:\w/])//(?:[a-z0-9-]+\.)+[a-z]{{2}}|{_HOST}(?:/\w|:\d)"
    r"|\b(?:visit|go to|log ?in (?:at|to)|sign (?:in|up) (?:at|to|on)|check out|head to|pay (?:at|on|via))"
    rf"\s+{_HOST}\b"
    rf"|\bopen\s+(?:[a-z0-9-]+\.)+{_KNOWN}\b"
    rf"|\b(?!{_OWN})\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?::\d+|/[a-z])",
    regex.IGNORECASE,
)
# Written to be read as another address, or to slip past a filter.
_DISGUISED = regex.compile(
    r"\bhxxps?:|\w\s?(?:\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\))\s?\w|://(?!git@)[^/\s@]+@", regex.IGNORECASE
)
_ASKS_FOR_LINK = regex.compile(
    r"\b(?:urls?|uri|(?:hyper)?links?|web ?sites?|web ?pages?|home ?page|(?:web|internet|ip|site) address"
    r"|domain|where (?:can|do) (?:i|we|you) (?:download|find|get)|repo(?:sitory)?|documentation|docs|endpoint|www)\b|://",
    regex.IGNORECASE,
)


def link(target: str, prompt: str) -> str:
    """The link in a target; empty if there is none, or if the prompt asks for one or holds one."""
    if _DISGUISED.search(target):
        return "a disguised link"
    return "a link" if _LINK.search(target) and not _ASKS_FOR_LINK.search(prompt) else ""
