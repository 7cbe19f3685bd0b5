"""The wording that rules put around a prompt. `{}` is where the prompt, or the clause made of it, stands."""

from __future__ import annotations

from collections.abc import Mapping

INDIRECT_QUESTIONS = (
    "Could you tell me {}?",
    "Can you tell me {}?",
    "Do you know {}?",
    "Would you mind telling me {}?",
    "Do you happen to know {}?",
)
INDIRECT_STATEMENTS = (
    "I would like to know {}.",
    "Please tell me {}.",
    "I want to find out {}.",
    "I am trying to find out {}.",
    "I need to know {}.",
)
IMPERATIVES = (
    "Tell me {}.",
    "Name {}.",
    "Give me {}.",
    "State {}.",
    "Please give {}.",
)
REQUESTS = (
    "Please {}.",
    "Could you {}?",
    "Would you please {}?",
    "I would like you to {}.",
    "Can you {}?",
)
BLANKS = (
    "Complete the sentence: {}",
    "Finish this sentence: {} ...",
    "Fill in the blank: {} ___.",
)
REPORTS = (
    "It is known that {}",
    "It is a fact that {}",
    "The records show that {}",
    "We can be sure that {}",
    "They later learned that {}",
)
DIALOGUES = (
    "Q: {} A:",
    "Question: {} Answer:",
    "Someone asked: {} The answer is",
)

# Plain sentences about nothing that a prompt is likely to ask.
UNRELATED = (
    "The kettle had just begun to whistle.",
    "It rained for most of the afternoon.",
    "She put the letters back into the drawer.",
    "The last bus had already gone.",
    "A cat was asleep on the window sill.",
    "They painted the kitchen yellow over the weekend.",
    "The bread needs another ten minutes.",
    "He folded the blanket and turned off the lamp.",
    "Somebody had forgotten an umbrella in the hall.",
    "The meeting was moved to Thursday.",
    "My neighbour grows tomatoes on the balcony.",
    "The shop closes early on Sundays.",
    "There was a long queue at the bakery.",
    "The children were building a tower of cups.",
    "His old bicycle needs a new chain.",
    "The soup turned out a little too salty.",
)

_ANY = {
    "polite": ("Hello! {}", "Good morning. {}", "Hi there! {}", "{} Thank you.", "{} Thanks in advance!"),
}
_QUESTION = {
    "wrapper": (
        "Quick question: {}",
        "Here is my question: {}",
        "I have a question. {}",
        "Question: {}",
        "A question for you: {}",
        "One thing I keep wondering: {}",
    ),
    "polite": (*_ANY["polite"], "Excuse me, {}", "Sorry to bother you. {}"),
    "brief": (
        "Please answer briefly: {}",
        "{} Just the answer, please.",
        "{} Keep it short.",
        "In one short sentence: {}",
    ),
    "context": (
        "I am preparing a quiz. {}",
        "My daughter asked me this today: {}",
        "I am filling in a crossword. {}",
        "We were talking about this at dinner. {}",
        "I need this for my homework. {}",
        "This came up at work today. {}",
    ),
    "suffix": (
        "{} I cannot remember.",
        "{} I would like to be sure.",
        "{} A friend wants to know.",
        "{} I keep forgetting.",
        "{} Nobody here could tell me.",
    ),
    "quoted": (
        'Someone asked me: "{}" What should I answer?',
        'How would you answer the question "{}"',
        '"{}" How would you answer that?',
    ),
}
_INSTRUCTION = {
    **_ANY,
    "context": (
        "I am preparing a lesson. {}",
        "I need this for my homework. {}",
        "This came up at work today. {}",
    ),
    "wrapper": ("Here is a small task. {}", "One more request. {}", "I could use some help. {}"),
}
_COMPLETION = {
    "adverbial": ("In fact, {}", "As it happens, {}", "Indeed, {}", "As everyone knows, {}"),
    "quotation": ('The article begins: "{}', 'He read aloud: "{}', 'The caption said: "{}'),
    "label": ("Fact: {}", "Note: {}", "From the notes: {}", "For the record: {}"),
    "task": ("Complete the sentence: {}", "Finish this sentence: {}", "Continue the text: {}"),
}
WRAPPERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "question": _QUESTION,
    "instruction": _INSTRUCTION,
    "completion": _COMPLETION,
    # A statement, a long text, or a language these rules do not know: nothing is put around it.
    "other": {},
    "foreign": {},
}
FAMILIES = tuple(dict.fromkeys(family for pools in WRAPPERS.values() for family in pools))

SLIPS = {
    "what": "waht",
    "which": "wich",
    "who": "hwo",
    "when": "wehn",
    "where": "wher",
    "the": "teh",
    "does": "dose",
    "many": "mnay",
}
