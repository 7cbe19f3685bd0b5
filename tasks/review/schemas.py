"""What reviewers are asked of every item, as label schemas of MLflow's."""

from __future__ import annotations

from typing import Any

from tasks.review.questions import MOST_REWORDINGS

# The names of the assessments that answers become, as reviewers read them.
RIGHT = "Should this correction be made?"
WANTED = "What should the model have said?"
MEANING = "Which rewordings mean something else?"

_PAGE = 100


def schemas(place: str) -> list[str]:
    """The ids of an experiment's questions, made where they are missing; the last one is shown first."""
    from mlflow.genai import label_schemas
    from mlflow.genai.label_schemas import InputCategorical, InputPassFail, InputText

    wanted: dict[str, tuple[str, Any, str]] = {
        MEANING: (
            "feedback",
            InputCategorical([str(n) for n in range(1, MOST_REWORDINGS + 1)], multi_select=True),
            "By their numbers; none, where all mean the same. Those will not be taught.",
        ),
        WANTED: (
            "expectation",
            InputText(),
            "Only where no answer is shown that it should have given, or another one is right.",
        ),
        RIGHT: (
            "feedback",
            InputPassFail(positive_label="Yes", negative_label="No"),
            "No closes it, unless you write another answer; say why.",
        ),
    }
    there = {one.name: one.schema_id for one in label_schemas.list_label_schemas(place, max_results=_PAGE)}
    for name, (kind, given, instruction) in wanted.items():
        if name not in there:
            made = label_schemas.create_label_schema(
                name,
                type=kind,  # type: ignore[arg-type]
                input=given,
                instruction=instruction,
                enable_comment=name == RIGHT,
                experiment_id=place,
            )
            there[name] = made.schema_id
    return [str(there[name]) for name in wanted]
