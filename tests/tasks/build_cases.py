"""Corrections and traffic that datasets are built of."""

from datetime import UTC, datetime

from tasks.records import Correction, State, TrafficRecord, correction_id

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
