"""Answers of a language model: a majority over samples, where enough of them agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.answering.protocol import Answered, Progress
from tasks.answering.vote import majority
from tasks.models import ModelFolder, load, resolve
from tasks.prompt_check import PromptCheck
from tasks.records import Correction

TOKENS = 32
ABSTAINS = "unknown"
ASK = f"Answer in as few words as possible. If you do not know the answer, say only: {ABSTAINS}."
COMPLETE = (
    "Complete the text with as few words as possible, and give only these words. If you do not know them, "
    f"say only: {ABSTAINS}."
)


class MajorityOfModel:
    """A Hugging Face text-generation model, asked several times.

    Args:
        ref: any reference to a model.
        samples: answers to each report.
        agreement: share of them that has to say the same.
        temperature: of the samples.
        device: `auto` for CUDA where there is one, else `cpu`.
        cache: where conversions of models are kept.
    """

    repeats = True

    def __init__(
        self,
        ref: str,
        *,
        samples: int,
        agreement: float,
        temperature: float,
        device: str = "auto",
        cache: Path | None = None,
    ) -> None:
        self.name = (
            f"model {ref} ({samples} samples at temperature {temperature:g}, {agreement:.0%} agreeing)"
        )
        self._ref, self._device, self._cache = ref, device, cache
        self._samples, self._agreement = samples, agreement
        self._temperature = temperature

    def answer(self, waiting: Sequence[Correction], progress: Progress) -> list[Answered]:
        """The majority's answer to each prompt where it is large enough.

        Raises:
            UserError: there is no such model, or it cannot be loaded.
        """
        folder = resolve(self._ref, cache=self._cache)
        check = PromptCheck.of(folder)
        texts = [_asking(one, chat=check.takes_chat) for one in waiting]
        faults = [check.fault(text, chat=check.takes_chat) for text in texts]
        sampled = self._sampled(folder, [t for t, f in zip(texts, faults, strict=True) if not f], progress)
        each = iter(sampled)
        return [Answered(note=fault) if fault else self._agreed(next(each)) for fault in faults]

    def _sampled(self, folder: ModelFolder, texts: Sequence[str], progress: Progress) -> list[list[str]]:
        import torch

        from editors.generation import generate_sampled

        if not texts:
            return []
        model, tokenizer = load(folder)
        if self._device == "auto" and torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]
        answers = generate_sampled(
            model,
            tokenizer,
            texts,
            chat=PromptCheck.of(folder).takes_chat,
            samples=self._samples,
            temperature=self._temperature,
            max_new_tokens=TOKENS,
            progress=lambda done, total: progress(done, total, "sampling answers"),
        )
        return [[text.strip().partition("\n")[0].strip() for text in of_one] for of_one in answers]

    def _agreed(self, samples: Sequence[str]) -> Answered:
        vote = majority(samples, ABSTAINS)
        told = f"{vote.agreeing} of {vote.samples} samples agree"
        # Divided, and not multiplied: 0.55 times 20 is a little more than 11.
        if vote.answer and vote.agreeing / vote.samples >= self._agreement:
            return Answered(vote.answer, told)
        return Answered(note=told)


def _asking(correction: Correction, *, chat: bool) -> str:
    """What the model is given: as a chat turn where it takes them, else as text to go on with."""
    prompt = correction.prompt.strip()
    if chat:
        return f"{ASK if correction.chat else COMPLETE}\n\n{prompt}"
    return f"{ASK}\n\nQuestion: {prompt}\nAnswer:" if correction.chat else prompt
