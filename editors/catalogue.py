"""The editors by name: where each is written, and whether it is trained and holds what must stay."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editors.protocol import Editor


@dataclass(frozen=True)
class Entry:
    """One editor: its class as `module:Class`, imported when it is first used, and what it takes.

    `trained`: whether it is trained before it edits. `keeps`: whether its delta, at the defaults, depends on
    the prompts that must stay. `without_kept`: the editor that it is the same as where there are none.
    `between_edits`: what its published form keeps from one edit to the next, and this one, which solves all
    corrections together, does not.

    A class that is not trained makes a ready editor when it is called without arguments. One that is has
    `untrained(model, config=None)`, is trained by `editors.training.fit`, and has `save` and `load`.
    """

    where: str
    trained: bool = False
    keeps: bool = True
    without_kept: str = ""
    between_edits: str = ""

    def editor_class(self) -> Any:
        """The class itself."""
        module, _, name = self.where.partition(":")
        return getattr(import_module(module), name)


# A line for each editor; its key is the class's `name`.
EDITORS = {
    "alphaedit": Entry("editors.alphaedit:AlphaEdit", between_edits="the keys of earlier edits (K_p)"),
    "finetune": Entry("editors.finetune:Finetune", without_kept="finetune-m"),
    "finetune-linf": Entry("editors.finetune:BoundedFinetune", keeps=False),
    "finetune-m": Entry("editors.finetune:PlainFinetune", keeps=False),
    "lora": Entry("editors.lora:Lora"),
    "malmen": Entry("editors.malmen:Malmen", trained=True),
    "memit": Entry("editors.memit:Memit"),
    "memit-joint": Entry("editors.joint_memit:JointMemit"),
    "mend": Entry("editors.mend:Mend", trained=True, keeps=False),
    "override": Entry("editors.override:OverrideEditor", keeps=False),
    "patcher": Entry("editors.patcher:Patcher"),
    "rome": Entry("editors.rome:Rome"),
    "ultraedit": Entry(
        "editors.ultraedit:UltraEdit", keeps=False, between_edits="the statistics of all edits so far"
    ),
}


def entry(name: str) -> Entry:
    """The entry of an editor.

    Raises:
        ValueError: there is no editor of that name.
    """
    if name not in EDITORS:
        raise ValueError(f"there is no editor {name!r}; there are {listed()}")
    return EDITORS[name]


def make(name: str, **settings: Any) -> Editor:
    """An editor that is not trained, at its defaults but for the settings that are given.

    Raises:
        ValueError: there is no editor of that name, it has to be trained first, or has no such setting.
    """
    found = entry(name)
    if found.trained:
        raise ValueError(f"the editor {name!r} has to be trained; name the folder of a trained one")
    made = found.editor_class()
    editor: Editor = made(configured(name, made().config, **settings)) if settings else made()
    return editor


def configured(name: str, config: Any, **settings: Any) -> Any:
    """The configuration of an editor with other settings.

    Raises:
        ValueError: it has no such setting.
    """
    known = {field.name for field in fields(config)}
    for setting in settings:
        if setting not in known:
            with_it = [f"`{other}`" for other in sorted(EDITORS) if setting in _settings_of(other)]
            raise ValueError(
                f"the editor {name!r} has no setting {setting!r}: leave it out, or name one of "
                f"{', '.join(with_it)}"
            )
    return replace(config, **settings)


def _settings_of(name: str) -> set[str]:
    found = EDITORS[name].editor_class()
    config = found.config_class() if EDITORS[name].trained else found().config
    return {field.name for field in fields(config)}


def is_trained(name: str) -> bool:
    """Whether `name` is that of an editor that is trained before it edits; false for what is no editor."""
    return name in EDITORS and EDITORS[name].trained


def no_such(name: str) -> str:
    """That there is no editor of this name, with the nearest names and all, for a person to read."""
    near = get_close_matches(name.lower(), EDITORS)
    meant = f" (nearest: {', '.join(f'`{one}`' for one in near)})" if near else ""
    return f"there is no editor {name!r}{meant}: name the folder of a trained one, or one of {listed()}"


def listed(*, trained: bool | None = None) -> str:
    """The names, for a person to read: all of them, or those that are (or are not) trained."""
    names = [name for name, found in sorted(EDITORS.items()) if trained in (None, found.trained)]
    return ", ".join(f"`{name}`" for name in names[:-1]) + (" and " if names[1:] else "") + f"`{names[-1]}`"
