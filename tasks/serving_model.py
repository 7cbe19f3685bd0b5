"""The code of every registered version: MLflow runs this file to serve it (`mlflow models serve`).

A version holds a delta and a reference to its base. The base is found again from the reference, its converted
form in MENDFLOW_HOME, and both digests are checked before the first answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow


class CorrectedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Base plus delta, answering prompts greedily; overrides answer first."""

    def load_context(self, context: Any) -> None:
        """Find and verify the base, and apply the delta.

        Raises:
            UserError: the base cannot be found, or a digest is not the registered one.
        """
        from tasks.models import VERSION_FOLDER, load, load_overrides, version_model

        folder = version_model(Path(context.artifacts[VERSION_FOLDER]))
        self.model, self.tokenizer = load(folder)
        self.overrides = load_overrides(folder)

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """One answer a prompt; `params` may hold `chat` (default true) and `max_new_tokens` (default 48)."""
        from editors.generation import generate_greedy
        from tasks.models import SERVING_DEFAULTS

        options: dict[str, Any] = {**SERVING_DEFAULTS, **(params or {})}

        def generate(prompts: list[str]) -> list[str]:
            return generate_greedy(self.model, self.tokenizer, prompts, **options)

        return list(self.overrides.answer(model_input, generate, chat=options["chat"]))


mlflow.models.set_model(CorrectedModel())
