"""Whether a model can be asked a prompt, from its rendering and its positions, without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from editors.requests import EditRequest, encode
from tasks.models import ModelFolder
from tasks.records import Rejected, UserError
from tasks.weights import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptCheck:
    """A model's tokenizer, and how many tokens the model takes (None: any number)."""

    tokenizer: PreTrainedTokenizerBase
    positions: int | None

    @classmethod
    def of(cls, folder: ModelFolder) -> Self:
        """The check for a model.

        Raises:
            UserError: the model's configuration or tokenizer cannot be read.
        """
        from transformers import AutoConfig, AutoTokenizer

        try:
            with quiet():
                options = {"local_files_only": True, "trust_remote_code": False}
                config = AutoConfig.from_pretrained(folder.path, **options)
                tokenizer = AutoTokenizer.from_pretrained(folder.path, **options)
        except Exception as error:
            raise UserError(
                f"{folder.ref} cannot be read ({' '.join(str(error).split())[:200]}); fetch its files again"
            ) from error
        return cls(tokenizer, getattr(config.get_text_config(), "max_position_embeddings", None))

    @property
    def takes_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.tokenizer.chat_template)

    def tokens(self, answer: str) -> int:
        """How many tokens a text is."""
        with quiet():
            return len(self.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def fault(self, prompt: str, answer: str = "", *, chat: bool) -> str:
        """Why the model cannot be asked the prompt and give the answer, with the remedy; empty if it can."""
        if chat and not self.takes_chat:
            return "the model has no chat template; give the prompt as raw text (--text)"
        try:
            with quiet():
                example = encode(self.tokenizer, prompt, answer, chat=chat)
        except ValueError as error:
            return str(error)
        # The last token of an answer is predicted, and never read.
        tokens = len(example.prompt_ids) + len(example.target_ids) - 1
        if self.positions is not None and tokens > self.positions:
            return (
                f"prompt and answer are {tokens} tokens long, the model takes {self.positions}; "
                "give a shorter prompt"
            )
        return ""


def askable(
    requests: Sequence[EditRequest], check: PromptCheck, source: str
) -> tuple[list[EditRequest], list[Rejected]]:
    """The requests without what the model cannot be asked, and what was left out of them with the reason."""
    kept, rejected = [], []
    for request in requests:
        faults = {text: check.fault(text, chat=request.chat) for text in request.locality}
        # With the target it is longer: that fault counts for a text that is both.
        faults |= {
            text: check.fault(text, request.target, chat=request.chat)
            for text in (request.prompt, *request.equivalents)
        }
        rejected += _rejected(faults, source)
        if not faults[request.prompt]:
            kept.append(
                replace(
                    request,
                    equivalents=tuple(text for text in request.equivalents if not faults[text]),
                    locality=tuple(text for text in request.locality if not faults[text]),
                )
            )
    return kept, rejected


def askable_prompts(
    prompts: Sequence[str], check: PromptCheck, source: str, *, chat: bool
) -> tuple[list[str], list[Rejected]]:
    """The prompts that the model can be asked, and the others with the reason."""
    faults = {text: check.fault(text, chat=chat) for text in prompts}
    return [text for text in prompts if not faults[text]], _rejected(faults, source)


def _rejected(faults: Mapping[str, str], source: str) -> list[Rejected]:
    return [
        Rejected(source=f"{source}, {text[:40]!r}", reason=fault) for text, fault in faults.items() if fault
    ]
