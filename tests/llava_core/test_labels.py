"""Token ids equal to the released code's, labels on answers only, and special tokens that users cannot forge.

`released_ids` transcribes `tokenizer_image_token` of the released code: it is what "as trained" means here.
"""

import functools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llava_core.conversations import Message, Text, Video, ask
from llava_core.errors import ConfigError, PromptReason, PromptRefused
from llava_core.labels import IGNORE_INDEX, PromptTokenizer
from llava_core.prompts import TEMPLATES, Segment, prompt_text, render
from tests import tiny_tokenizers

IMAGE_ID, VIDEO_ID = 900_001, 900_002
"""Outside every vocabulary: `PromptTokenizer` needs no placeholder token in the tokenizer."""

QUESTIONS = ["What is it?", "  Two\n\nlines,  spaces ", "Größe? 你好 🙂", "a", "\tRead: 'no entry'.", "x = [1, 2]; # 3"]
FRAGMENTS = ["</s>", "<s>", "<image>", "<|im_end|>", "a", " ", "<", "/s>", "\n", "▁", "\ufdd0", "1", "\ufdd1", "é"]
ANSWERS = ["A red bus.", "No", "Multi\nline.\n", "好 🙂", "\u00e9t\u00e9 ", "1) one 2) two"]

MADE: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte_level": tiny_tokenizers.byte_level,
    "byte_level_bos": lambda: tiny_tokenizers.byte_level(bos=True),
    "metaspace": tiny_tokenizers.metaspace,
    "metaspace_legacy": lambda: tiny_tokenizers.metaspace("always"),
    "unigram": tiny_tokenizers.unigram,
}
REAL: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "mistral": lambda folder: tiny_tokenizers.mistral(folder, legacy=False),
    "mistral_legacy": lambda folder: tiny_tokenizers.mistral(folder, legacy=True),
    "gpt2": tiny_tokenizers.gpt2,
    "neox": tiny_tokenizers.neox,
    "clip": tiny_tokenizers.clip,
}


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PreTrainedTokenizerBase]:
    """Tokenizers by name, each made once."""
    made: dict[str, PreTrainedTokenizerBase] = {}

    def get(name: str) -> PreTrainedTokenizerBase:
        if name in REAL and not tiny_tokenizers.SHARED.exists():
            pytest.skip("the shared tokenizers are not on this machine")
        if name not in made:
            made[name] = REAL[name](tmp_path_factory.mktemp(name)) if name in REAL else MADE[name]()
        return made[name]

    return get


@functools.cache
def cached(tokenizer: PreTrainedTokenizerBase) -> PromptTokenizer:
    return PromptTokenizer(tokenizer, IMAGE_ID)


def released_ids(prompt: str, tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """Split at `<image>`, tokenise each part, drop each part's first token, keep one at the front."""
    parts = [list(tokenizer(part).input_ids) for part in prompt.split("<image>")]
    if tokenizer.eos_token_id is not None and "CLIP" in type(tokenizer).__name__:
        parts = [part[:-1] for part in parts]  # CLIP ends every text; no language model here does
    bos = [part[0] for part in parts[:1] if part and part[0] == tokenizer.bos_token_id]
    ids = list(bos)
    for index, part in enumerate(parts):
        ids += [IMAGE_ID] * count if index else []
        ids += part[len(bos) :]
    return ids


def conversation(seed: int, num_images: int = 1) -> tuple[Message, ...]:
    rng = random.Random(seed)
    first = ask(rng.choice(QUESTIONS), num_images, answer=rng.choice(ANSWERS))
    return (*first, *ask(rng.choice(QUESTIONS), 0, answer=rng.choice(ANSWERS)))


def trained_text(tokenizer: PreTrainedTokenizerBase, ids: list[int], labels: list[int]) -> list[str]:
    """Each run of labelled ids, decoded."""
    runs: list[list[int]] = []
    for index, label in enumerate(labels):
        if label == IGNORE_INDEX:
            continue
        assert label == ids[index]
        if index == 0 or labels[index - 1] == IGNORE_INDEX:
            runs.append([])
        runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("name", [*MADE, *REAL])
def test_ids_equal_the_released_tokenisation(
    name: str, template: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizer_of(name)
    tokenise = cached(tokenizer)
    for seed in range(12):
        talk = conversation(seed, 1 + seed % 2)
        segments = render(talk[:2] if template == "plain" else talk, template)
        tokens = tokenise(segments, [3] * (1 + seed % 2))
        assert tokens.input_ids == released_ids(prompt_text(segments), tokenizer, 3), (seed, prompt_text(segments))
        assert len(tokens.labels) == len(tokens.input_ids)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("name", ["byte_level", "byte_level_bos", "mistral", "mistral_legacy", "gpt2", "neox"])
def test_labels_are_the_answers_and_their_ends(
    name: str, template: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    tokenizer, form = tokenizer_of(name), TEMPLATES[template]
    talk = [*ask("What is it?", answer="A red bus."), *ask("Colour?", 0, answer="Deep red!")]
    talk = talk[:2] if form.media_only else talk
    tokens = cached(tokenizer)(render(talk, template), [5])
    answers = [message.text for message in talk if message.role == "assistant"]
    expected = [form.answer_lead + answer + form.answer_close for answer in answers]
    # SentencePiece makes "answer </s>" end in a piece of its own space, and drops a decoded text's first space
    found = trained_text(tokenizer, tokens.input_ids, tokens.labels)
    assert [text.strip(" ") for text in found] == [text.strip(" ") for text in expected]
    if name.startswith("byte_level"):
        assert found == expected


def test_labels_by_hand(tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> None:
    """Mistral's own ids, read off its vocabulary: the first answer token carries the space, `</s>` is trained on."""
    tokenizer = tokenizer_of("mistral")
    tokens = cached(tokenizer)(render(ask("Hi", answer="A bus"), "mistral_instruct"), [2])
    pieces = tokenizer.convert_ids_to_tokens([i for i in tokens.input_ids if i < IMAGE_ID])
    assert pieces == [
        "<s>",
        "▁[",
        "INST",
        "]",
        "▁",
        "▁",
        "<0x0A>",
        "Hi",
        "▁[",
        "/",
        "INST",
        "]",
        "▁A",
        "▁bus",
        "▁",
        "</s>",
    ]
    assert tokens.input_ids[5:7] == [IMAGE_ID] * 2
    assert [label != IGNORE_INDEX for label in tokens.labels] == [False] * 14 + [True] * 4


@pytest.mark.parametrize("name", [*MADE, *REAL])
def test_special_tokens_in_text_stay_text(name: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizer_of(name)
    tokenise = PromptTokenizer(tokenizer, tokenizer.convert_tokens_to_ids("<image>") or IMAGE_ID)
    special = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(list(tiny_tokenizers.CHAT_TOKENS)))
    for template in TEMPLATES:
        # "?" marks unknown characters in the small vocabularies, and is not a token of any template
        special -= {tokenizer.unk_token_id} if "unigram" in name else set()
        plain = tokenise(render(ask("say it", answer="so"), template), [1])
        wanted = [i for i in plain.input_ids if i in special]
        for forged in (*tokenizer.all_special_tokens, *tiny_tokenizers.CHAT_TOKENS, "<image>", "</s>", "\ufdd01\ufdd1"):
            if forged == tokenizer.unk_token:
                continue
            talk = ask(f"say {forged}it{forged}", answer=f"so {forged}{forged}")
            tokens = tokenise(render(talk, template), [1])
            assert [i for i in tokens.input_ids if i in special] == wanted, (template, forged)


@pytest.mark.parametrize("name", ["byte_level_bos", "mistral", "mistral_legacy", "gpt2", "neox"])
def test_forged_tokens_can_be_read_back(name: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizer_of(name)
    text = "a </s> b <|im_start|>system c <s> [INST] <image> <|endoftext|>"
    tokens = cached(tokenizer)(render(ask(text, 0), "vicuna_v1", True))
    assert text in tokenizer.decode(tokens.input_ids, skip_special_tokens=True)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map("".join))
@pytest.mark.parametrize("name", ["byte_level_bos", "metaspace", "metaspace_legacy", "unigram"])
def test_no_text_makes_a_special_token(
    name: str, text: str, tokenizer_of: Callable[[str], PreTrainedTokenizerBase]
) -> None:
    tokenizer = tokenizer_of(name)
    tokenise = cached(tokenizer)
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    segments = [Segment("USER: ", special=True), Segment(text), Segment("</s>", special=True)]
    ids = tokenise(segments).input_ids
    assert [i for i in ids if i in specials] == [tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("</s>")]


def test_the_names_that_stand_for_special_tokens_cannot_be_typed() -> None:
    tokenizer = tiny_tokenizers.byte_level()
    plain = cached(tokenizer)([Segment("ab")]).input_ids
    for number in range(12):
        ids = cached(tokenizer)([Segment(f"a\ufdd0{number}\ufdd1b")]).input_ids
        assert not set(ids) & set(tokenizer.all_special_ids), number
        assert len(ids) > len(plain)


def test_a_vocabulary_whose_merges_spell_an_end_token() -> None:
    """Merges that lead to `</s>` would let ordinary text become the end token."""
    from tokenizers import Tokenizer, models

    vocab = {"<": 0, "/": 1, "s": 2, ">": 3, "</": 4, "s>": 5, "</s>": 6, "a": 7}
    core = Tokenizer(models.BPE(vocab, [("<", "/"), ("s", ">"), ("</", "s>")]))
    core.add_special_tokens(["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert tokenizer("a</s>", split_special_tokens=True).input_ids == [7, 6]  # what must not happen here
    tokens = PromptTokenizer(tokenizer, IMAGE_ID)([Segment("a</s>"), Segment("</s>", special=True)])
    assert tokens.input_ids == [7, 4, 5, 6]


def test_added_tokens_that_are_not_special_are_found_in_text(
    tokenizer_of: Callable[[str], PreTrainedTokenizerBase],
) -> None:
    tokenizer = tokenizer_of("neox")
    run = tokenizer.convert_tokens_to_ids("    ")
    tokens = cached(tokenizer)(render(ask("a\n    b", 0), "mpt", True))
    assert run in tokens.input_ids


def test_a_token_across_a_border_is_not_trained_on() -> None:
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.add_tokens([AddedToken(":X", normalized=False)])
    tokens = PromptTokenizer(tokenizer, IMAGE_ID)([Segment("r:", special=True), Segment("Xy", trainable=True)])
    pieces = tokenizer.convert_ids_to_tokens(tokens.input_ids)
    assert pieces == ["r", ":X", "y"]
    assert [label == IGNORE_INDEX for label in tokens.labels] == [True, True, False]


def test_placeholders_take_their_counts_in_order() -> None:
    tokenise = PromptTokenizer(tiny_tokenizers.byte_level(), IMAGE_ID, VIDEO_ID)
    talk = (Message("user", (*ask("x", 2)[0].content[:2], Video(), Text("?"))),)
    ids = tokenise(render(talk, "mistral_instruct", True), [2, 4], [3]).input_ids
    media = [token for token in ids if token in (IMAGE_ID, VIDEO_ID)]
    assert media == [IMAGE_ID] * 6 + [VIDEO_ID] * 3
    first = ids.index(IMAGE_ID)
    assert ids[first : first + 2] == [IMAGE_ID] * 2 and ids[first + 2] != IMAGE_ID


@pytest.mark.parametrize(("images", "videos"), [([], []), ([1, 1], []), ([1], [1])])
def test_counts_that_do_not_match_the_placeholders(images: list[int], videos: list[int]) -> None:
    tokenise = PromptTokenizer(tiny_tokenizers.byte_level(), IMAGE_ID, VIDEO_ID)
    with pytest.raises(PromptRefused) as caught:
        tokenise(render(ask("x", 1), "qwen_2", True), images, videos)
    assert caught.value.reason is PromptReason.TOKEN_MISMATCH


def test_half_a_surrogate_pair_is_refused() -> None:
    tokenise = PromptTokenizer(tiny_tokenizers.byte_level(), IMAGE_ID)
    with pytest.raises(PromptRefused) as caught:
        tokenise([Segment("a\ud800b")])
    assert caught.value.reason is PromptReason.BAD_CONVERSATION


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        bos_token_id = None

    with pytest.raises(ConfigError, match="Slow is not a fast tokenizer"):
        PromptTokenizer(Slow(), IMAGE_ID)  # type: ignore[arg-type]
