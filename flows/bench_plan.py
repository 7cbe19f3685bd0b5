"""What a bench measures: methods, corrections and sizes, from what the user named."""

from __future__ import annotations

import platform
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editors.catalogue import EDITORS
from editors.overrides import normalise_prompt
from editors.requests import EditRequest
from flows.bench_report import Column
from flows.edit import editor_for
from tasks.apply import kind_warning, open_any_editor
from tasks.formats import read_requests
from tasks.models import ModelFolder
from tasks.placement import device_of
from tasks.prompt_check import PromptCheck, askable
from tasks.records import UserError
from tasks.trial import Case

# Up to here one draw of corrections says little, and another costs little.
SMALL = 10
SIZES = (1, 10, 100, 1000)


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        model: any reference that `tasks.models.resolve` knows.
        data: edit data in any format of `tasks.formats`.
        out: folder for the results; what is there already is not measured again.
        methods: names of editors, or folders of trained ones; none for all of the catalogue that differ.
        sizes: numbers of corrections in one batch.
        sequence: number of corrections one after another; 0 for none.
        repeats: disjoint draws that a batch of at most ten corrections is averaged over.
        minutes: most minutes for one method at one size.
        give_equivalents: phrasings of each correction that the method is given; the others are held out.
        judged: most held-out phrasings, and most locality prompts, that are asked for each correction.
        chat: prompts are chat turns, or raw text.
        device: where the model is put, or `auto`.
        seed: of the order in which corrections are drawn.
    """

    model: str
    data: Path
    out: Path
    methods: tuple[str, ...] = ()
    sizes: tuple[int, ...] = SIZES
    sequence: int = 100
    repeats: int = 10
    minutes: float = 20.0
    give_equivalents: int = 0
    judged: int = 4
    chat: bool = False
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A method's label, what opens it or why nothing does, and what its trained editor says of itself."""

    label: str
    editor: str = ""
    digest: str = ""
    reason: str = ""
    training_seconds: float | None = None
    trained: bool = False
    warning: str = ""


def listed_names(text: str) -> tuple[str, ...]:
    """The parts of `a,b,c`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def listed_numbers(text: str) -> tuple[int, ...]:
    """The numbers of `1,10,100`.

    Raises:
        UserError: a part is no number.
    """
    try:
        return tuple(int(part) for part in listed_names(text))
    except ValueError as error:
        raise UserError(f"{text!r} are not numbers; write them as 1,10,100") from error


def default_sizes(device: str) -> tuple[int, ...]:
    """The numbers of corrections in one batch that are measured on a device if none are named."""
    return (*SIZES, 10_000) if device_of(device).startswith("cuda") else SIZES


def check(what: BenchSettings) -> None:
    """Refuse what cannot be measured at all.

    Raises:
        UserError: no size or one below 1, or a file where the results should go.
    """
    if not what.sizes and not what.sequence:
        raise UserError("nothing is to be measured; give --sizes, or --sequence")
    if min(what.sizes, default=1) < 1:
        raise UserError("a size in --sizes is below 1; give numbers of corrections")
    if what.out.is_file():
        raise UserError(f"{what.out} is a file; name a folder for the results")


def cases_of(what: BenchSettings, base: ModelFolder) -> list[Case]:
    """All corrections of the file that the model can be asked, in the order in which they are drawn.

    Raises:
        UserError: the file cannot be read, or holds none.
    """
    requests, rejected = read_requests(what.data, chat=what.chat)
    if any(request.chat != what.chat for request in requests):
        raise UserError(
            f"{what.data} holds {'raw text' if what.chat else 'chat turns'}; "
            f"say {'--text' if what.chat else '--chat'}"
        )
    requests, unaskable = askable(requests, PromptCheck.of(base), what.data.name)
    if not requests:
        first = (*rejected, *unaskable)
        raise UserError(
            f"{what.data} holds no usable correction: {first[0].reason if first else 'it is empty'}"
        )
    random.Random(what.seed).shuffle(requests)
    given = what.give_equivalents
    return [
        Case(replace(r, equivalents=r.equivalents[:given], locality=()), r.equivalents[given:], r.locality)
        for r in requests
    ]


def draw_of(cases: Sequence[Case], judged: int) -> tuple[Case, ...]:
    """The cases of one draw. What one corrects is no locality of another."""
    corrected = {normalise_prompt(p) for case in cases for p in (*_given(case.request), *case.held_out)}
    return tuple(
        replace(
            case,
            held_out=case.held_out[:judged],
            locality=tuple(p for p in case.locality if normalise_prompt(p) not in corrected)[:judged],
        )
        for case in cases
    )


def _given(request: EditRequest) -> tuple[str, ...]:
    return (request.prompt, *request.equivalents)


def columns_of(what: BenchSettings, available: int) -> tuple[list[Column], list[str]]:
    """The columns that the data suffice for, and a note on every one they do not."""
    wanted = [
        Column(size, min(max(what.repeats, 1), available // size) if size <= SMALL else 1)
        for size in sorted(set(what.sizes))
    ]
    wanted += [Column(what.sequence, 1, sequence=True)] if what.sequence else []
    notes = [
        f"{column.title}: left out, the file holds {available} usable corrections"
        for column in wanted
        if column.size > available
    ]
    return [column for column in wanted if column.size <= available], notes


def announced(methods: int, columns: Sequence[Column], known: int, minutes: float) -> str:
    """How many cells are to be measured, and the most minutes that they may take, for a person to read."""
    sizes = [c.title + (f" (over {c.draws} draws)" if c.draws > 1 else "") for c in columns]
    cells = methods * len(columns)
    left = cells - known
    before = f", {known} of them measured before" if known else ""
    hours = f" ({left * minutes / 60:.1f} hours)" if left * minutes > 120 else ""
    return (
        f"methods: {methods}; at {', '.join(sizes) or 'no size'}; cells: {cells}{before}, {left} to measure, "
        f"each for {minutes:g} minutes at most: at most {left * minutes:g} minutes{hours} in all"
    )


def method_of(name: str, base: ModelFolder, home: Path, chats: Collection[bool]) -> Method:
    """The method of that name; one of the catalogue that is not trained for this base says so.

    It also says where corrections, each a chat turn or not, are of a kind that it was not trained on.

    Raises:
        UserError: the name is neither in the catalogue nor the folder of an editor for this base.
    """
    folder = Path(name)
    label = name if name in EDITORS else folder.name
    try:
        opened = open_any_editor(where := editor_for(name, base, home, chat=all(chats)), base)
    except UserError as error:
        if name not in EDITORS:
            raise
        return Method(label, reason=str(error), trained=EDITORS[name].trained)
    manifest: Mapping[str, Any] = getattr(opened, "manifest", {})
    seconds = manifest.get("training_seconds")
    return Method(
        label if name in EDITORS else f"{opened.name} ({label})",
        where,
        opened.digest(),
        training_seconds=seconds,
        trained=EDITORS[opened.name].trained,
        warning=kind_warning(opened, chats),
    )


def methods_of(named: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods to measure, and a note on each that is left out.

    Those that were named; without names all of the catalogue, less those that are the same as another one
    where nothing is given that must stay, as nothing is here.
    """
    if named:
        return list(named), []
    same = {name: found.without_kept for name, found in sorted(EDITORS.items()) if found.without_kept}
    notes = [f"{name}: left out, given nothing that must stay it is {other}" for name, other in same.items()]
    return [name for name in sorted(EDITORS) if name not in same], notes


def machine_of(device: str) -> dict[str, Any]:
    """What the times depend on besides what is measured: the device's name, threads on a CPU, and torch."""
    import torch

    if device.startswith("cuda"):
        return {"name": torch.cuda.get_device_name(device), "threads": None, "torch": torch.__version__}
    return {"name": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    """The CPU's name as Linux tells it, or else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def heading_of(
    what: BenchSettings, base: ModelFolder, available: int, machine: Mapping[str, Any]
) -> list[str]:
    """What every table has to say about itself, a line each."""
    count = machine["threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    given = f"{what.give_equivalents} equivalent phrasings given" if what.give_equivalents else ""
    # A folder by its own name: where it lies says something of one machine only.
    model = Path(what.model).name if Path(what.model).exists() else base.ref
    return [
        f"Model {model}, weights {base.digest[:12]}",
        f"{what.data.name}, {available} usable corrections, {'chat' if what.chat else 'text'}, "
        + (f"{given}, the others held out" if given else "no equivalent phrasing given, all held out"),
        f"{machine['name']}{threads}; torch {machine['torch']}; seed {what.seed}; "
        f"at most {what.minutes:g} minutes a cell",
    ]
