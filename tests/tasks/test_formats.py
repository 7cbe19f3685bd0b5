import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.build import build
from tasks.formats import holds_prompts, read_prompts, read_requests
from tasks.records import UserError, correction_id
from tests.tasks.test_build import CORRECTIONS

ZSRE = {
    "subject": "UniFirst",
    "src": "What is the product made by UniFirst?",
    "rephrase": "What will be the product of UniFirst?",
    "alt": "unmanned aircraft",
    "answers": ["uniform"],
    "loc": "nq question: who sang queen of the night",
    "loc_ans": "Diana",
}
FLAT = {
    "case_id": 2,
    "prompt": "Ada Byron, the",
    "target_new": "piano",
    "ground_truth": "guitar",
    "subject": "Ada Byron",
    "rephrase_prompt": "Ada Byron is incredible at",
    "locality_prompt": "John Lennon performs on the",
}
ROME = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Ada Byron",
    },
    "paraphrase_prompts": ["It rained. Ada Byron spoke", "Ada Byron, a native"],
    "neighborhood_prompts": ["The mother tongue of Jean Rey is"],
}
OWN = {
    "prompt": "Who wrote Emma?",
    "target": "Austen",
    "rephrases": ["Emma's author?"],
    "locality": ["Who wrote She?"],
}


def write_lines(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize(
    ("record", "prompt", "target", "equivalents", "locality", "subject"),
    [
        (OWN, OWN["prompt"], "Austen", ("Emma's author?",), ("Who wrote She?",), None),
        (ZSRE, ZSRE["src"], ZSRE["alt"], (ZSRE["rephrase"],), ("who sang queen of the night",), "UniFirst"),
        (
            FLAT,
            "Ada Byron, the",
            "piano",
            (FLAT["rephrase_prompt"],),
            (FLAT["locality_prompt"],),
            "Ada Byron",
        ),
        (
            ROME,
            "The mother tongue of Ada Byron is",
            "English",
            tuple(ROME["paraphrase_prompts"]),
            ("The mother tongue of Jean Rey is",),
            "Ada Byron",
        ),
    ],
)
@pytest.mark.parametrize("as_lines", [True, False])
def test_each_format_is_known_by_its_keys(
    tmp_path, record, prompt, target, equivalents, locality, subject, as_lines
):
    path = tmp_path / ("data.jsonl" if as_lines else "data.json")
    path.write_text(json.dumps(record) if as_lines else json.dumps([record], indent=1))
    (request,), rejected = read_requests(path, chat=True)
    assert rejected == []
    assert request.id == correction_id(prompt, target, chat=True)
    assert (request.prompt, request.target, request.subject) == (prompt, target, subject)
    assert (request.equivalents, request.locality) == (equivalents, locality)
    assert request.chat
    assert not read_requests(path, chat=False)[0][0].chat


def test_formats_may_be_mixed(tmp_path):
    path = write_lines(tmp_path / "data.jsonl", OWN, "", ZSRE, FLAT, ROME)
    requests, rejected = read_requests(path, chat=False)
    assert len(requests) == 4
    assert rejected == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not valid JSON"),
        ('"a string"', "not a JSON object"),
        ("[1]", "not a JSON object"),
        ({"question": "?"}, "no known format"),
        ({"prompt": " ", "target": "x"}, "prompt is empty"),
        ({"prompt": "Who?", "target": ""}, "target is empty"),
        ({"prompt": "Who?", "target": None}, "target is not text"),
        ({"prompt": 3, "target": "x"}, "prompt is not text"),
        ({"prompt": "Who?", "target": "x", "rephrases": [1]}, "rephrases are not texts"),
        ({"prompt": "Who?", "target": "x", "locality": {"a": 1}}, "locality are not texts"),
        ({"prompt": "Who?", "target": "x", "subject": 5}, "subject is not text"),
        ({"requested_rewrite": {"prompt": "{} is"}}, "missing"),
        ({"requested_rewrite": "text"}, "wrong type"),
        (OWN, "same correction as data.jsonl:1"),
        ({**OWN, "target": " Austen "}, "same correction as data.jsonl:1"),
    ],
)
def test_one_bad_line_is_named_and_the_rest_is_read(tmp_path, line, reason):
    path = write_lines(tmp_path / "data.jsonl", OWN, line, ZSRE)
    requests, (rejected,) = read_requests(path, chat=True)
    assert [r.prompt for r in requests] == [OWN["prompt"], ZSRE["src"]]
    assert rejected.source == "data.jsonl:2"
    assert reason in rejected.reason


def test_lines_that_contradict_each_other_are_all_rejected(tmp_path):
    path = write_lines(tmp_path / "data.jsonl", OWN, ZSRE, {"prompt": "who wrote  EMMA?", "target": "Bronte"})
    requests, rejected = read_requests(path, chat=True)
    assert [r.prompt for r in requests] == [ZSRE["src"]]
    assert [r.source for r in rejected] == ["data.jsonl:1", "data.jsonl:3"]
    assert "data.jsonl:3 ('Bronte')" in rejected[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.json", '[{"prompt": "Who?"', "not valid JSON"),
        ("data.jsonl", '{"question": "Who?"}', "no known format"),
        ("data.jsonl", "", "is empty"),
        ("data.json", "[]", "is empty"),
        ("data.yaml", "a: b", "not .json or .jsonl"),
        ("data.txt", "Who?", "without targets"),
        ("data.jsonl", b"\xff\xfe\x00", "UTF-8"),
        ("data.jsonl", None, "there is no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_the_users_mistake(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_requests(path, chat=True)


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "prompt",
                        "target",
                        "src",
                        "alt",
                        "target_new",
                        "requested_rewrite",
                        "locality",
                        "subject",
                    ]
                ),
                inner,
            )
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_no_content_breaks_the_reader(tmp_path_factory, entry):
    path = write_lines(tmp_path_factory.mktemp("data") / "data.jsonl", OWN, json.dumps(entry))
    requests, rejected = read_requests(path, chat=True)
    assert len(requests) + len(rejected) == 2
    assert all(r.prompt.strip() and r.target.strip() for r in requests)


def pararel(folder, patterns, tuples):
    (folder / "patterns").mkdir()
    (folder / "tuples").mkdir()
    write_lines(folder / "patterns" / "P1.jsonl", *({"pattern": text} for text in patterns))
    write_lines(folder / "tuples" / "P1.jsonl", *tuples)
    return folder


def fact(subject, value):
    return {"sub_label": subject, "obj_label": value, "uuid": "1"}


def test_pararel_patterns_that_end_with_the_object_make_prompts(tmp_path):
    folder = pararel(
        tmp_path,
        [
            "[X] is a [Y] by training.",
            "the job of [X] is [Y] .",
            "[X] works as a [Y].",
            "[X] works as an [Y].",
            "[Y], [X]",
        ],
        [fact("Ada", "poet"), fact("Bo", "actor"), fact("Cy", "poet"), "{broken", fact("Di", "")],
    )
    requests, rejected = read_requests(folder, chat=False)
    ada, bo, cy = sorted(requests, key=lambda r: r.subject)
    assert {ada.prompt, *ada.equivalents} == {"The job of Ada is", "Ada works as a"}
    assert {bo.prompt, *bo.equivalents} == {"The job of Bo is", "Bo works as an"}
    assert ada.target == "poet"
    assert ada.locality == (ada.prompt.replace("Ada", "Bo"),)
    assert cy.locality == (cy.prompt.replace("Cy", "Bo"),)
    assert [r.source for r in rejected] == ["tuples/P1.jsonl:4", "tuples/P1.jsonl:5"]


def test_a_folder_without_usable_patterns_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="end with"):
        read_requests(pararel(tmp_path, ["[Y] employs [X]."], [fact("Ada", "poet")]), chat=False)


def test_a_folder_of_something_else_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="neither"):
        read_requests(tmp_path, chat=False)


def test_a_built_dataset_is_read_back(tmp_path):
    dataset = build(CORRECTIONS, [], tmp_path, seed=0)
    assert read_requests(tmp_path, chat=True) == (dataset.requests(), [])


def test_prompts_come_from_plain_lines_or_json_without_targets(tmp_path):
    plain = write_lines(tmp_path / "prompts.txt", "  Who wrote Emma? ", "", "Tell me a story.")
    assert holds_prompts(plain)
    assert read_prompts(plain, chat=False) == (["Who wrote Emma?", "Tell me a story."], [])
    rows = [
        {"prompt": " Fix this:\n\nx = 1\n"},
        {"prompt": "Who wrote Emma?", "chat": True, "user": "ann"},
        {"prompt": "who wrote  Emma?"},
        {"prompt": "Who wrote Hamlet?", "chat": False},
        {"prompt": " "},
        {"prompt": 3},
        {"prompt": "\ud800"},
        {"text": "Who wrote Faust?"},
        [],
        "not JSON",
    ]
    lines = write_lines(tmp_path / "prompts.jsonl", *rows)
    assert holds_prompts(lines)
    prompts, rejected = read_prompts(lines, chat=True)
    assert prompts == ["Fix this:\n\nx = 1", "Who wrote Emma?"]
    assert [(one.source, one.reason.partition(";")[0]) for one in rejected] == [
        ("prompts.jsonl:4", "its chat is false"),
        ("prompts.jsonl:5", "its prompt is empty"),
        ("prompts.jsonl:6", "its prompt is not text"),
        ("prompts.jsonl:7", "its prompt holds half of a surrogate pair, which is no text"),
        ("prompts.jsonl:8", "its prompt is not text"),
        ("prompts.jsonl:9", "not a JSON object"),
        ("prompts.jsonl:10", "not valid JSON (Expecting value at column 1)"),
    ]
    for row in (ZSRE, {"prompt": "Who wrote Emma?", "target": None}):
        assert not holds_prompts(write_lines(tmp_path / "data.jsonl", row, {"prompt": "Who?"}))
    assert not holds_prompts(write_lines(tmp_path / "data.jsonl", {"text": "Who?"}))
    assert not holds_prompts(tmp_path)


def test_a_target_longer_than_the_ledger_takes_is_left_out_with_its_reason(tmp_path):
    path = tmp_path / "edits.jsonl"
    rows = [{"prompt": f"p{words}", "target": "word " * words} for words in (64, 65)]
    path.write_text("\n".join(map(json.dumps, rows)))
    requests, rejected = read_requests(path, chat=False)
    assert [request.prompt for request in requests] == ["p64"]
    assert [one.source for one in rejected] == ["edits.jsonl:2"]
    assert "65 words, more than the limit of 64" in rejected[0].reason
