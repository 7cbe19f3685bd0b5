"""Prompts that are not English: what they are taken for, and the forms they get all the same."""

import re

import pytest

from tasks.rephrase import families_to_hold_out, rephrase, split_by_form, wording
from tasks.rewording.prompts import Prompt

GERMAN = """
Was ist die Hauptstadt von Togo? | Wer hat den Faust geschrieben? | Wo liegt Berlin? | Was ist das?
Wann endete der Zweite Weltkrieg? | Wie hoch ist der Eiffelturm? | Warum ist der Himmel blau?
Welche Farbe hat die Sonne? | Nenne mir die Hauptstadt von Peru. | Die Hauptstadt von Togo ist
Ist Berlin die Hauptstadt von Deutschland? | Erkläre die Photosynthese. | Was in der Bibel steht
In welchem Land liegt Graz? | Was war der Name von Goethes Hund? | Wie viele Planeten hat unser Sonnensystem?
"""
FRENCH = """
Quelle est la capitale du Togo ? | Qui a écrit Les Misérables ? | Où se trouve la tour Eiffel ?
Quand a eu lieu la Révolution française ? | Combien de planètes y a-t-il ? | La capitale du Togo est
Pourquoi le ciel est-il bleu ? | Comment dit-on merci en japonais ? | Explique la photosynthèse.
Donne-moi la capitale du Pérou. | On a combien de doigts ? | Cite trois pays en Europe.
"""
SPANISH = """
¿Cuál es la capital de Togo? | ¿Quién escribió Don Quijote? | ¿Dónde está Machu Picchu?
¿Cuándo terminó la guerra? | ¿Cuántos planetas hay? | Dime la capital de Perú. | La capital de Togo es
Explica la fotosíntesis. | ¿Es Madrid la capital de España? | Cual es la capital de Togo?
Como se llama la capital de Peru? | Por que el cielo es azul?
"""
ITALIAN = """
Qual è la capitale del Togo? | Chi ha scritto la Divina Commedia? | Dove si trova il Colosseo?
Quando finì la guerra? | Quanti pianeti ci sono? | Come si chiama la capitale del Perù?
Perché il cielo è blu? | Spiega la fotosintesi. | La capitale del Togo è | Dimmi la capitale della Francia.
Roma è la capitale dell'Italia? | Quale fiume passa per Roma?
"""
PORTUGUESE = """
Qual é a capital do Togo? | Quem escreveu Os Lusíadas? | Onde fica a Torre de Belém? | A capital do Togo é
Quando terminou a guerra? | Quantos planetas existem? | Como se chama a capital do Peru?
Por que o céu é azul? | Explique a fotossíntese. | Diga-me a capital da França. | Qual a capital do Brasil?
Lisboa e a capital de Portugal?
"""
DUTCH = """
Wat is de hoofdstad van Togo? | Wie heeft de Nachtwacht geschilderd? | Waar ligt Amsterdam?
Wanneer eindigde de oorlog? | Hoeveel planeten zijn er? | Is Amsterdam de hoofdstad van Nederland?
Hoe hoog is de Eiffeltoren? | Waarom is de lucht blauw? | Noem de hoofdstad van Peru.
De hoofdstad van Togo is | Welke kleur heeft de zon? | Was Rembrandt een schilder?
"""
OTHERS = "日本の首都はどこですか？ | Какая столица Того? | Stolica Polski to | Vad heter Sveriges huvudstad?"
CODE = """
def add(a, b): return | import os | import numpy as np | from os import path | SELECT * FROM users
SELECT name FROM users WHERE | const add = (a, b) => a + b | print("what is the capital") | x = foo.bar(baz)
for (let i = 0; i < n; i++) { | #include <stdio.h> | return x + y; | class Foo(Bar): | for i in range(10):
print("The capital of France is | git push --force origin main
"""
ENGLISH = """
Who is Ursula von der Leyen? | Where is Rio de la Plata? | Who wrote La vie est belle? | When did he die?
What is the meaning of "c'est la vie"? | What year did Die Hard come out? | Spell 'necessary'. | Is 91 prime?
What is len([1, 2, 3]) in Python? | What does the function len(x) return? | Compute f(2) for f(x) = x * 2.
Translate "Wo ist der Bahnhof?" into English. | Ludwig van Beethoven was born in | capital of Norway
The function len(x) returns the length of | Fix the bug in `print(x`.
what's up | Shouldn't water boil at 100 degrees? | Frank Lampard, the | Austin College is within
"""


def each(*lists):
    return [prompt.strip() for prompts in lists for prompt in re.split(r"[\n|]", prompts) if prompt.strip()]


FOREIGN = each(GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, DUTCH, OTHERS)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("prompt", [*FOREIGN, *each(CODE), "???", "x"])
def test_no_english_stands_around_what_is_not_english(prompt, chat):
    added = {"1", "a", "re", "fwd", "p", "div", "li", "14", "05", "09", "32", "21", "47"}
    phrasings = rephrase(prompt, chat=chat)
    assert phrasings
    for phrasing in phrasings:
        assert set(wording(phrasing.text).split()) <= set(wording(prompt).split()) | added, phrasing


@pytest.mark.parametrize("prompt", each(ENGLISH))
def test_english_with_names_and_code_in_it_is_english(prompt):
    raw = prompt.endswith((" in", " of", " the", " within"))
    assert Prompt.read(prompt, chat=not raw).kind != "foreign"


@pytest.mark.parametrize("prompt", FOREIGN)
def test_three_forms_of_any_chat_prompt_can_be_held_out_and_others_taught(prompt):
    phrasings = rephrase(prompt, chat=True)
    for seed in ("one", "two", "three"):
        families = families_to_hold_out([phrasings], held_out=3, seed=seed)
        for_editor, held = split_by_form(phrasings, families, held_out=3, seed=seed)
        assert len({p.family for p in held}) == 3
        assert all(wording(p.text) != wording(prompt) for p in held)
        assert len({p.family for p in for_editor}) >= 3


@pytest.mark.parametrize("prompt", ["La capitale du Togo est", "def add(a, b):\n    return"])
def test_what_a_model_continues_still_stops_where_it_did(prompt):
    phrasings = rephrase(prompt, chat=False)
    assert phrasings
    assert all(phrasing.text.endswith(prompt) for phrasing in phrasings)


def test_code_keeps_its_lines_to_itself():
    for phrasing in rephrase("x = [i for i in range(9)]", chat=True):
        assert "x = [i for i in range(9)]" in phrasing.text.splitlines() or phrasing.form == "casual/lower"


def test_a_number_is_put_before_no_row_of_numbers():
    assert "numbered" not in {p.family for p in rephrase("1, 2, 3,", chat=False)}


def test_a_prompt_with_enough_english_forms_gets_no_others():
    families = {p.family for p in rephrase("What is the capital of Chad?", chat=True)}
    assert not families & {"numbered", "stamped", "repeated", "markup", "mail"}
