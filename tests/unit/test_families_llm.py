"""Rows of text → packed sequences, and the order in which a fit sees them, without any model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayapp.config.training import LlmConfig
from rayapp.errors import DataError, UserError
from rayapp.families.base import ENCODED, FAMILIES, family
from rayapp.families.llm.order import Place, steps
from rayapp.families.llm.packing import Packed, pack, segments
from rayapp.families.llm.prompt import Example, example, prompt_tokens
from rayapp.families.llm.rows import Pack, lengths_of, tokenise
from rayapp.schemas.model import Feature
from rayapp.schemas.prompt import Message, Prompt

END = 0


class Letters:
    """A tokenizer of one token a character; `$` ends a turn and `>` begins the answer."""

    eos_token_id = END

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> str:
        said = "".join(f"{m['role'][0]}>{m['content']}$\n" for m in conversation)
        return said + ("a>" if options["add_generation_prompt"] else "")

    def encode(self, text: str, **options: Any) -> list[int]:
        assert options == {"add_special_tokens": False}
        return [END if letter == "$" else ord(letter) for letter in text]


class Rewriting(Letters):
    """A template that spells a finished chat otherwise."""

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> str:
        return f"{len(conversation)}" + super().apply_chat_template(conversation, **options)


class Endless(Letters):
    """A template that does not end a turn."""

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> str:
        return super().apply_chat_template(conversation, **options).removesuffix("$\n")


def text_of(tokens: Sequence[int]) -> str:
    return "".join("$" if token == END else chr(token) for token in tokens)


PROMPT = Prompt(name="p", system="be brief", user='say {x} in {"json": {y}}')
PLAIN = Prompt(name="p", system=None, user="{x}")


def test_a_prompt_shows_its_features_and_leaves_other_braces() -> None:
    assert PROMPT.places == {"x", "y"}
    (system, user) = PROMPT.messages({"x": "{y}", "y": None})
    assert system == {"role": "system", "content": "be brief"}
    assert user == {"role": "user", "content": 'say {y} in {"json": }'}
    assert len(PLAIN.messages({"x": 1})) == 1


def test_only_the_answer_and_its_end_are_learned() -> None:
    one = example(Letters(), PLAIN.messages({"x": "hi"}), "yes")
    assert text_of(one.tokens) == "u>hi$\na>yes$"
    assert text_of(one.tokens[one.num_prompt_tokens :]) == "yes$"
    asked = prompt_tokens(Letters(), PLAIN.messages({"x": "hi"}))
    assert asked == one.tokens[: one.num_prompt_tokens]


def test_an_answer_always_ends() -> None:
    one = example(Endless(), [{"role": "user", "content": "hi"}], "yes")
    assert text_of(one.tokens[one.num_prompt_tokens :]) == "yes$"


def test_a_template_that_rewrites_is_refused() -> None:
    with pytest.raises(DataError, match="does not put an answer behind its prompt"):
        example(Rewriting(), [{"role": "user", "content": "hi"}], "yes")


def test_rows_become_tokens_by_their_features() -> None:
    table = pa.table({"n": [1, 2], "answer": ["a", "bc"]})
    features = (Feature(name="x", expression="n + 1"),)
    made = tokenise(Letters(), PLAIN, features, "answer", table)
    assert [text_of(tokens) for tokens in made.column("tokens").to_pylist()] == [
        "u>2$\na>a$",
        "u>3$\na>bc$",
    ]
    assert lengths_of(made).to_pydict() == {"prompt": [7, 7], "answer": [2, 3]}
    packed = Packed.from_columns(Pack(9)(made))
    assert text_of(packed.tokens_NL[0]) == "u>2$\na>a$"
    assert len(packed) == 1, "the longer row is left out"
    assert len(Packed.from_columns(Pack(9)(made.slice(0, 0)))) == 0


examples = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 8)).map(
        lambda n: Example(list(range(100, 100 + n[0])) + list(range(200, 200 + n[1])), n[0])
    ),
    min_size=1,
    max_size=200,
)


@given(examples)
def test_packing_keeps_every_example_whole(given_examples: list[Example]) -> None:
    packed = pack(given_examples, 20, pad_token=7)
    found = []
    for tokens_L, positions_L, is_answer_L, segment_L in zip(
        packed.tokens_NL,
        packed.positions_NL,
        packed.is_answer_NL,
        segments(packed.positions_NL),
        strict=True,
    ):
        for segment in range(1, int(segment_L[-1]) + 1):
            inside = segment_L == segment
            assert positions_L[inside].tolist() == list(range(int(inside.sum())))
            if is_answer_L[inside].any():
                tokens = tokens_L[inside].tolist()
                num_prompt_tokens = int(np.flatnonzero(is_answer_L[inside])[0])
                assert is_answer_L[inside][num_prompt_tokens:].all()
                found.append((tokens, num_prompt_tokens))
            else:
                assert (tokens_L[inside] == 7).all()
    assert sorted(found) == sorted((list(e.tokens), e.num_prompt_tokens) for e in given_examples)
    held = sum(len(one.tokens) for one in given_examples)
    assert len(packed) <= max(1, 2 * held / 20 + 1)


def test_an_example_longer_than_a_sequence_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="11 tokens"):
        pack([Example(list(range(11)), 3)], 10, 0)


def numbered(count: int) -> Packed:
    tokens_NL = np.arange(count, dtype=np.int32)[:, None]
    return Packed(tokens_NL, np.zeros_like(tokens_NL), np.ones((count, 1), np.bool_))


def source(packed: Packed) -> Iterator[Packed]:
    for start in range(0, len(packed), 3):
        yield packed.take(slice(start, start + 3))


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 25))
def test_a_resumed_order_is_the_rest_of_the_whole_one(
    num_sequences: int, batch_size: int, done: int
) -> None:
    rows = numbered(num_sequences)
    whole = steps(lambda: source(rows), batch_size, 7, Place())
    before = [next(whole) for _ in range(done)]
    place = before[-1][1] if before else Place()
    resumed = steps(lambda: source(rows), batch_size, 7, place)
    for _ in range(5):
        (expected, at), (found, also_at) = next(whole), next(resumed)
        assert expected.tokens_NL.tolist() == found.tokens_NL.tolist()
        assert at == also_at
        assert len(found) == batch_size


def test_each_pass_has_every_sequence_in_another_order() -> None:
    seen = steps(lambda: source(numbered(10)), 5, 7, Place())
    first, second = (
        [int(t) for _ in range(2) for t in next(seen)[0].tokens_NL[:, 0]] for _ in range(2)
    )
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_no_rows_is_refused() -> None:
    with pytest.raises(DataError, match="yielded none"):
        next(steps(lambda: iter(()), 2, 7, Place()))


def test_a_language_model_has_no_scores(tmp_path: Any) -> None:
    assert set(FAMILIES) - set(ENCODED) == {"llm"}
    with pytest.raises(UserError, match="not asked for scores"):
        family("llm").load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 1e-3),
        ({"method": "qlora"}, 1e-3),
        ({"method": "full"}, 2e-5),
        ({"method": "full", "learning_rate": 1e-4}, 1e-4),
    ],
)
def test_steps_that_move_every_weight_are_smaller(settings: dict[str, Any], rate: float) -> None:
    config = LlmConfig.model_validate({"base_model": "tiny", "prompt": "p"} | settings)
    assert config.model_dump()["learning_rate"] == rate
