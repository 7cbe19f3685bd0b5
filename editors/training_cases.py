"""What an editor is trained on: corrections, encoded and captured, and prompts that must stay."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from editors.capture import Captured
from editors.gather import answered_exactly, captures, encode_kept, gather_by_example, joined, weighted
from editors.hypereditor import HyperEditor, Rows
from editors.model_kinds import CAUSAL, kind_of
from editors.protocol import Kept, Progress
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, encode, has_end, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# So many answers that end are validation enough of what must stay.
ENOUGH_WHOLE = 12
# Tokens of an answer without an end that have to stay; as many as the field compares.
OPENING = 5


class Cases:
    """Training corrections, encoded and captured; and prompts that must stay, in three parts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        editor: HyperEditor,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept],
        seed: int,
        progress: Progress,
    ) -> None:
        rng, kind = random.Random(seed), kind_of(model)
        self.model, self.editor, self.pad = model, editor, pad_id(tokenizer)
        self.cache = PrefixCache(model, editor.modules_edited)
        requests, keep = rng.sample(list(requests), len(requests)), rng.sample(list(keep), len(keep))
        self.phrasings = [
            [encode(tokenizer, p, r.target, chat=r.chat, kind=kind) for p in (r.prompt, *r.equivalents)]
            for r in requests
        ]
        kept = encode_kept(tokenizer, keep, kind)
        self._ending = {
            example
            for one, example in zip(keep, kept, strict=True)
            if kind != CAUSAL or has_end(one.prompt, chat=one.chat)
        }
        # Part of what must stay enters the regulariser; another is only ever looked at, so that what is
        # learned holds for prompts the solve was not told of.
        half, held = len(kept) // 2, max(len(kept) // 5, 1)
        self.kept_known, unseen = kept[:half], kept[half:-held]
        # What is trained on is held as it is validated: all of a long answer would outweigh a short target.
        openings = self._given_exactly(unseen) if self._hardly_any_ends(unseen) else []
        self.kept_unseen = openings or unseen
        self.kept_validation = self._given_exactly(kept[-held:])[:64]
        if not self.kept_validation:
            raise ValueError(
                f"none of {held} prompts to keep has the answer the base gives; take their answers from it"
            )
        held = min(max(len(requests) // 6, 1), 64)
        self.training = list(range(len(requests) - held))
        self.validation = list(range(len(requests) - held, len(requests)))
        flat = [example for phrasings in self.phrasings for example in phrasings]
        # Rows of every token of every correction would not fit into memory; they are captured when needed.
        self.captured: list[list[dict[str, Captured]]] = []
        if not editor.all_tokens:
            rows = iter(gather_by_example(model, editor.modules_edited, flat, self.pad, self.cache, progress))
            self.captured = [[next(rows) for _ in phrasings] for phrasings in self.phrasings]

    def _whole(self, kept: Sequence[Example]) -> list[bool]:
        """Whether each answer is the base's to its end."""
        exactly = answered_exactly(self.model, kept, self.pad, self.cache)
        return [exact and example in self._ending for example, exact in zip(kept, exactly, strict=True)]

    def _hardly_any_ends(self, kept: Sequence[Example]) -> bool:
        """Whether too few answers are the base's to their end to be enough, as those of raw text are not."""
        return sum(self._whole(kept)) < min(ENOUGH_WHOLE, len(kept))

    def _given_exactly(self, kept: Sequence[Example]) -> list[Example]:
        """Those whose answer the base gives, to its end; where they are few, openings of the others too.

        An answer that was cut short does not end where the base goes on, and would count as moved. Of raw
        text hardly any ends.
        """
        whole = self._whole(kept)
        given = [example for example, is_whole in zip(kept, whole, strict=True) if is_whole]
        if len(given) >= ENOUGH_WHOLE:
            return given
        others = [example for example, is_whole in zip(kept, whole, strict=True) if not is_whole]
        openings = [
            replace(example, target_ids=example.target_ids[:OPENING])
            for example in others
            if len(example.target_ids) > OPENING or example not in self._ending
        ]
        begun = answered_exactly(self.model, openings, self.pad, self.cache)
        return given + [opening for opening, exact in zip(openings, begun, strict=True) if exact]

    def rows(self, given: Mapping[int, int]) -> Rows:
        """Captured rows of the first `given[case]` phrasings of the cases; those of one weigh 1 together."""
        editor = self.editor
        weights = [1 / count for count in given.values() for _ in range(count)]
        if self.captured:
            chosen = [self.captured[case][i] for case, count in given.items() for i in range(count)]
            together = {
                name: Captured(captured.keys.float(), captured.gradients.float(), captured.counts)
                for name, captured in joined(chosen).items()
            }
            together = {name: weighted(captured, weights) for name, captured in together.items()}
            return lambda: iter([together])
        examples = [example for case, count in given.items() for example in self.phrasings[case][:count]]
        return lambda: captures(
            self.model,
            editor.modules_edited,
            examples,
            self.pad,
            self.cache,
            all_tokens=True,
            weights=weights,
        )
