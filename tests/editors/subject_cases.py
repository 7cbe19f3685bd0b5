"""One small job for the editors that write at the subject, and these editors, quick to run."""

from __future__ import annotations

from collections.abc import Callable

from editors.alphaedit import AlphaEdit, AlphaEditConfig
from editors.joint_memit import JointMemit, JointMemitConfig
from editors.memit import Memit, MemitConfig
from editors.protocol import Kept
from editors.requests import EditRequest
from editors.rome import Rome, RomeConfig
from editors.subject_editing import SubjectEditor
from editors.value_optimisation import ValueConfig
from tests.editors.tools import PROMPTS

REQUESTS = [
    EditRequest("egypt", "What is the capital of Egypt?", "Lima", ("Name Egypt's capital.", "Which one?")),
    EditRequest("peru", "On which continent is Peru?", "The yen", subject="Peru"),
    EditRequest("japan", "The currency used in Japan is", "Paris", chat=False),
]
KEPT = [Kept("What is the capital of France?", "Paris."), Kept("The currency of Brazil is", "x", chat=False)]
TEXT = [*PROMPTS, "The quick brown fox jumps over the lazy dog.", "Who goes to Peru goes to South America."]
QUICK = ValueConfig(steps=8, rate=0.3, clamp=3.0, prefixes=2, prefix_tokens=4)
MAKE: dict[str, Callable[..., SubjectEditor]] = {
    "rome": lambda statistics=None, value=QUICK, **s: Rome(RomeConfig(value=value, **s), statistics),
    "memit": lambda statistics=None, value=QUICK, **s: Memit(MemitConfig(value=value, **s), statistics),
    "alphaedit": lambda statistics=None, value=QUICK, **s: AlphaEdit(
        AlphaEditConfig(value=value, **s), statistics
    ),
    "memit-joint": lambda statistics=None, value=QUICK, **s: JointMemit(
        JointMemitConfig(value=value, **{"steps": 8, **s}), statistics
    ),
}
TWO_LAYERS = {"llama": r"layers\.[01]\.mlp\.down_proj", "gpt2": r"h\.[01]\.mlp\.c_proj"}
