"""Corrections and traffic that datasets are built of."""

from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import strategies as st

from tasks.records import Correction, State, TrafficRecord, correction_id
from tasks.rephrase import rephrase

PLACES = ["Chad", "Sudan", "South Sudan", "Peru", "Fiji", "Cuba", "Mali", "Oman", "Togo", "Laos"]
RELATIONS = ["capital", "currency", "national anthem"]


def correction(prompt, target="Xanadu", *, state=State.ACCEPTED, chat=True, **fields):
    return Correction(
        id=correction_id(prompt, target, chat=chat),
        model_name="demo",
        prompt=prompt,
        wrong_output="Atlantis",
        desired_output=target,
        chat=chat,
        state=state,
        first_reported_at=datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    )


def traffic(prompt, output="an answer", **fields):
    return TrafficRecord(prompt=prompt, output=output, **fields)


CORRECTIONS = [correction(f"What is the capital of {place}?", f"{place} City") for place in PLACES[:5]]
TRAFFIC = [
    *(traffic(f"What is the {r} of {p}?", confirmed=p == "Fiji") for r in RELATIONS[1:] for p in PLACES),
    *(traffic(f"What is the capital of {place}?", confirmed=True) for place in PLACES),
    *(traffic(f"How do I cook {dish}?") for dish in ("rice", "soup", "eggs", "beans", "kale")),
]


@dataclass(frozen=True)
class World:
    """What a ledger holds and what was served, each in any order, with much in common."""

    corrections: list[Correction]
    traffic: list[TrafficRecord]


_SUBJECTS = st.sampled_from(["Chad", "South Sudan", "Peru", "C++", "Ада"]) | st.text(
    "ab é", min_size=1, max_size=4
)
_QUESTIONS = st.sampled_from(
    [
        "What is the capital of {}?",
        "{}'s capital?",
        "Who founded {}?",
        "Name a town of {}.",
        "Wo liegt {}?",
        "{} is in",
    ]
)


# Enough that some of it is practised on.
_ALWAYS = ("Who painted the Night Watch?", "How tall is Ben Nevis?", "When did Ada Byron die?")


@st.composite
def wordings(draw: st.DrawFn, *, chat: bool) -> list[str]:
    """A prompt, in several ways."""
    prompt = draw(st.sampled_from(_ALWAYS) | st.builds(str.format, _QUESTIONS, _SUBJECTS))
    reworded = [p.text for p in rephrase(prompt, chat=chat)] or [prompt]
    return [prompt, prompt.upper(), *draw(st.lists(st.sampled_from(reworded), min_size=4, max_size=8))]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Corrections in any state, in words that phrasings, locality and traffic have too."""
    chat = draw(st.booleans())
    reported, both, served = (draw(wordings(chat=chat)) for _ in range(3))
    told, asked = st.sampled_from(reported + both), st.sampled_from(served + served + both)
    states = st.sampled_from([State.ACCEPTED, State.ACCEPTED, State.ACTIVE, State.FAILED, State.NEEDS_ANSWER])
    corrections = {}
    for prompt in draw(st.lists(told, min_size=1, max_size=3)):
        one = correction(
            prompt,
            draw(st.sampled_from(["Xanadu", "Lima"])),
            state=draw(states),
            chat=chat,
            equivalents=tuple(draw(st.lists(told, max_size=3))),
            locality=tuple(draw(st.lists(asked, max_size=3))),
        )
        corrections[one.id] = one
    answers = st.sampled_from(["It is Rome, as it was.", "Nobody knows that.", "Lima."])
    prompts = [*_ALWAYS, served[0], *draw(st.lists(asked, max_size=8))]
    records = [traffic(prompt, draw(answers), chat=chat) for prompt in prompts]
    return World(list(corrections.values()), records)
