"""Every released template, written out by hand; conversations that must be refused; what stands where.

The expected strings below are what the released training code makes of two rounds about one image. `«` and `»` enclose
what the loss counts.
"""

import dataclasses

import pytest

from llava_core.conversations import MAX_TEXT_CHARS
from llava_core.errors import ConfigError, PromptReason, PromptRefused
from llava_core.prompts import (
    TEMPLATES,
    Conversation,
    Image,
    Message,
    Segment,
    Template,
    Text,
    Video,
    ask,
    check_media,
    clean_text,
    find_template,
    from_llava,
    from_messages,
    prompt_text,
    render,
)

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
USER = HUMAN.replace("human", "user")
VISION = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
MPT = "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."

TWO_ROUNDS = {
    "v0": HUMAN + "\n\n### Human: <image>\nWhat?\n### Assistant:« A bus.\n###» Human: Colour?\n"
    "### Assistant:« Deep red.\n###» ",
    "vicuna_v1": USER + " USER: <image>\nWhat? ASSISTANT:« A bus.</s>»USER: Colour? ASSISTANT:« Deep red.</s>»",
    "llava_v1": HUMAN + " USER: <image>\nWhat? ASSISTANT:« A bus.</s>»USER: Colour? ASSISTANT:« Deep red.</s>»",
    "llava_llama_2": "[INST] <<SYS>>\n" + VISION + "\n<</SYS>>\n\n<image>\nWhat? [/INST]« A bus. </s>»"
    "<s>[INST] Colour? [/INST]« Deep red. </s>»",
    "mistral_instruct": "[INST] <image>\nWhat? [/INST]« A bus. </s>»[INST] Colour? [/INST]« Deep red. </s>»",
    "mpt": "<|im_start|>system\n" + MPT + "<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|>"
    "<|im_start|>assistant\n«A bus.<|im_end|>»<|im_start|>user\nColour?<|im_end|>"
    "<|im_start|>assistant\n«Deep red.<|im_end|>»",
    "chatml_direct": "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|>"
    "<|im_start|>assistant\n«A bus.<|im_end|>»<|im_start|>user\nColour?<|im_end|>"
    "<|im_start|>assistant\n«Deep red.<|im_end|>»",
    "llava_llama_3": "<|start_header_id|>system<|end_header_id|>\n\n" + VISION + "<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«A bus.<|eot_id|>»"
    "<|start_header_id|>user<|end_header_id|>\n\nColour?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n«Deep red.<|eot_id|>»",
    "qwen_1_5": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\n«A bus.<|im_end|>»\n<|im_start|>user\nColour?<|im_end|>\n"
    "<|im_start|>assistant\n«Deep red.<|im_end|>»\n",
    "short": "USER:<image>\nWhat?\nASSISTANT:\n«A bus.</s>»USER:Colour?\nASSISTANT:\n«Deep red.</s>»",
}
TWO_ROUNDS |= {"v1": TWO_ROUNDS["vicuna_v1"], "qwen_2": TWO_ROUNDS["qwen_1_5"]}

GENERATION = {
    "v0": HUMAN + "\n\n### Human: <image>\nWhat?\n### Assistant:",
    "vicuna_v1": USER + " USER: <image>\nWhat? ASSISTANT:",
    "mistral_instruct": "[INST] <image>\nWhat? [/INST]",
    "chatml_direct": "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|>"
    "<|im_start|>assistant\n",
    "llava_llama_3": "<|start_header_id|>system<|end_header_id|>\n\n" + VISION + "<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen_1_5": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "short": "USER:<image>\nWhat?\nASSISTANT:\n",
    "plain": "<image>",
}


def two_rounds() -> tuple[Message, ...]:
    return (
        *ask("What?", answer="A bus."),
        Message("user", (Text("Colour?"),)),
        Message("assistant", (Text("Deep red."),)),
    )


def marked(segments: list[Segment]) -> str:
    """The prompt with `«` and `»` around what is trained on."""
    text, inside = "", False
    for segment in segments:
        if segment.trainable != inside:
            text, inside = text + ("«" if segment.trainable else "»"), segment.trainable
        text += segment.text
    return text + ("»" if inside else "")


def refused(
    reason: PromptReason, conversation: Conversation, template: str = "vicuna_v1", generate: bool = False
) -> str:
    with pytest.raises(PromptRefused) as caught:
        render(conversation, template, generate)
    assert caught.value.reason is reason
    return caught.value.detail


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_two_rounds_are_written_and_trained_on_as_released(name: str) -> None:
    if name == "plain":
        expected = "<image>«A bus.\n»"
        assert marked(render(two_rounds()[:2], name)) == expected
    else:
        assert marked(render(two_rounds(), name)) == TWO_ROUNDS[name]


@pytest.mark.parametrize("name", sorted(GENERATION))
def test_a_generation_prompt_ends_where_the_answer_begins(name: str) -> None:
    segments = render(ask("What?"), name, add_generation_prompt=True)
    assert prompt_text(segments) == GENERATION[name]
    assert not any(segment.trainable for segment in segments)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_generation_prompt_is_how_training_text_begins(name: str) -> None:
    prompt = prompt_text(render(ask("What?"), name, add_generation_prompt=True))
    trained = render(ask("What?", answer="A bus."), name)
    text = prompt_text(trained)
    assert text.startswith(prompt)
    assert marked(trained).index("«") == len(prompt)


def test_a_system_message_replaces_the_templates_own() -> None:
    conversation = (Message("system", (Text("Be brief."),)), *ask("What?", num_images=0))
    assert prompt_text(render(conversation, "vicuna_v1", True)) == "Be brief. USER: What? ASSISTANT:"
    assert prompt_text(render(conversation, "mistral_instruct", True)) == (
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat? [/INST]"
    )
    empty = (Message("system", (Text(""),)), *ask("What?", num_images=0))
    assert prompt_text(render(empty, "chatml_direct", True)) == (
        "<|im_start|>user\nWhat?<|im_end|><|im_start|>assistant\n"
    )


def test_only_what_the_template_wrote_is_special() -> None:
    conversation = ask("</s> <image> [INST]", answer="<|im_end|>")
    by_text = {segment.text: segment for segment in render(conversation, "qwen_2")}
    assert not by_text["</s> <image> [INST]"].special
    assert by_text["<image>"].is_placeholder
    answers = [segment for segment in render(conversation, "qwen_2") if segment.trainable]
    assert [(segment.text, segment.special) for segment in answers] == [("<|im_end|>", False), ("<|im_end|>", True)]
    assert not Segment("<image>").is_placeholder


def test_llama_3_strips_texts_and_the_others_do_not() -> None:
    conversation = (Message("user", (Text(" \nWhat? "),)), Message("assistant", (Text("\n A bus. "),)))
    llama3 = marked(render(conversation, "llava_llama_3"))
    assert llama3.endswith("user<|end_header_id|>\n\nWhat?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
                           "«A bus.<|eot_id|>»")  # fmt: skip
    vicuna = marked(render(conversation, "vicuna_v1"))
    assert vicuna.endswith("USER:  \nWhat?  ASSISTANT:« \n A bus. </s>»")


def user_text(parts: tuple[Text | Image | Video, ...], placement: str = "front") -> str:
    text = prompt_text(render((Message("user", parts),), "mistral_instruct", True, placement))
    return text.removeprefix("[INST] ").removesuffix(" [/INST]")


def test_a_lone_image_moves_to_the_front_of_its_turn() -> None:
    parts = (Text("Left of \n"), Image(), Text(" is what? "))
    # `preprocess_multimodal`: the placeholder taken out, the rest stripped, "<image>\n" before it
    assert user_text(parts) == "<image>\nLeft of \n is what?"
    assert user_text(parts, "keep") == "Left of \n<image> is what? "
    assert user_text((Text("Clip: "), Video())) == "<video>\nClip:"


def test_a_lone_image_in_a_later_turn_stays_in_that_turn() -> None:
    conversation = (*ask("Hello", 0, answer="Hi"), Message("user", (Text("And this?"), Image())))
    assert prompt_text(render(conversation, "mistral_instruct", True)) == (
        "[INST] Hello [/INST] Hi </s>[INST] <image>\nAnd this? [/INST]"
    )


def test_several_images_keep_their_positions_and_get_newlines() -> None:
    assert user_text((Text("From "), Image(), Text(" to "), Image(), Text("?"))) == "From <image> to <image>\n?"
    assert user_text((Image(), Image(), Text("Which?"))) == "<image>\n<image>\nWhich?"
    assert user_text((Image(), Text(""), Image(), Text(""), Text("Which?"))) == "<image><image>Which?"
    assert user_text((Text("A and B"), Image(), Image())) == "A and B<image>\n<image>"


def test_llava_json_keeps_every_character_between_placeholders() -> None:
    for value in (
        "<image>\nWhat?",
        "<image><image>Which?",
        "a <image> b<image>\nc",
        "<image> <image>\n\nx",
        "x<image>y<image>",
    ):
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "Yes."}]
        conversation = from_llava(turns, value.count("<image>"))
        text = prompt_text(render(conversation, "mistral_instruct", image_placement="keep"))
        assert text == f"[INST] {value} [/INST] Yes. </s>"


def test_llava_json_of_the_pretraining_kind() -> None:
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "a red bus"}]
    assert marked(render(from_llava(turns, 1), "plain")) == "<image>«a red bus\n»"
    assert (
        marked(render(from_llava(turns, 1), "mistral_instruct"))
        == "[INST] <image>\nDescribe it. [/INST]« a red bus </s>»"
    )


def test_an_image_tag_in_an_answer_is_text() -> None:
    turns = [{"from": "human", "value": "<image>\nHTML?"}, {"from": "gpt", "value": "Use <image> or <video>."}]
    assert from_llava(turns, 1)[1].content == (Text("Use <image> or <video>."),)


def test_onevision_videos_are_written_as_images() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat happens?"}]
    assert from_llava(turns, num_images=0, num_videos=1)[0].content == (Video(), Text("\nWhat happens?"))
    assert from_llava([{"from": "human", "value": "<video>\n?"}], 0, 1)[0].content == (Video(), Text("\n?"))


@pytest.mark.parametrize(
    ("value", "images"), [("<image> and <image>", 1), ("no place", 1), ("<image>", 0), ("<video>", 0)]
)
def test_llava_json_with_another_number_of_images(value: str, images: int) -> None:
    with pytest.raises(PromptRefused) as caught:
        from_llava([{"from": "human", "value": value}, {"from": "gpt", "value": "x"}], images)
    assert caught.value.reason is PromptReason.TOKEN_MISMATCH


@pytest.mark.parametrize(
    "turns",
    [
        None,
        "human: hi",
        {"from": "human", "value": "x"},
        [{"from": "human"}],
        [{"from": "robot", "value": "x"}],
        [{"from": ["human"], "value": "x"}],
        [{"from": "human", "value": 3}],
        ["hi"],
        [{"from": "human", "value": "\ud800"}],
    ],
)
def test_llava_json_that_is_none(turns: object) -> None:
    with pytest.raises(PromptRefused) as caught:
        from_llava(turns)
    assert caught.value.reason is PromptReason.BAD_CONVERSATION


def test_transformers_messages() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "video", "video": object()}, {"type": "text", "text": "Q"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
    ]
    assert from_messages(messages) == (
        Message("system", (Text("Be brief."),)),
        Message("user", (Image(), Video(), Text("Q"))),
        Message("assistant", (Text("A"),)),
    )


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "x"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "audio"}]},
        {"role": "user", "content": [{"type": "text"}]},
        "hi",
    ],
)
def test_transformers_messages_that_are_none(message: object) -> None:
    with pytest.raises(PromptRefused) as caught:
        from_messages([message])  # type: ignore[list-item]
    assert caught.value.reason is PromptReason.BAD_CONVERSATION


def test_roles_out_of_order() -> None:
    user, assistant, system = (Message(role, (Text(role),)) for role in ("user", "assistant", "system"))
    assert "turn 0" in refused(PromptReason.BAD_CONVERSATION, (assistant, user))
    assert "turn 1" in refused(PromptReason.BAD_CONVERSATION, (user, user))
    assert "turn 2" in refused(PromptReason.BAD_CONVERSATION, (system, user, assistant, assistant))
    refused(PromptReason.BAD_CONVERSATION, (user, system))
    refused(PromptReason.BAD_CONVERSATION, ())
    refused(PromptReason.BAD_CONVERSATION, (system,))
    assert "generation" in refused(PromptReason.BAD_CONVERSATION, (user, assistant), generate=True)


def test_media_belongs_to_users() -> None:
    user = Message("user", (Text("x"),))
    refused(PromptReason.BAD_CONVERSATION, (user, Message("assistant", (Image(), Text("x")))))
    refused(PromptReason.BAD_CONVERSATION, (Message("system", (Video(), Text("x"))), user))


def test_turns_without_text() -> None:
    refused(PromptReason.EMPTY_TEXT, (Message("user", (Image(), Text(" \n"))),))
    refused(PromptReason.EMPTY_TEXT, (Message("user", ()),))
    refused(PromptReason.EMPTY_TEXT, ask("What?", answer=" "))


def test_plain_takes_one_round_about_an_image() -> None:
    refused(PromptReason.BAD_CONVERSATION, two_rounds(), "plain")
    refused(PromptReason.BAD_CONVERSATION, ask("What?", num_images=0, answer="x"), "plain")
    assert marked(render(ask("", 2, answer="two"), "plain")) == "<image><image>«two\n»"


def test_check_media_names_both_numbers() -> None:
    check_media(ask("x", 2, 1), 2, 1)
    with pytest.raises(PromptRefused, match="2 <image> places, but 3 images") as caught:
        check_media(ask("x", 2), 3)
    assert caught.value.reason is PromptReason.TOKEN_MISMATCH


def test_clean_text() -> None:
    assert clean_text("a\x00b\x1b[0m\tc\r\nd\re") == "ab[0m\tc\nd\ne"
    assert clean_text("\u202eabc\u2066d\u200be\ufefff") == "abcdef"
    assert clean_text("e\u0301") == "\u00e9"
    family = "\U0001f468\u200d\U0001f469"
    assert clean_text(family) == family  # the joiner makes it one emoji
    assert clean_text("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    with pytest.raises(PromptRefused) as caught:
        clean_text("x" * (MAX_TEXT_CHARS + 1))
    assert caught.value.reason is PromptReason.TOO_LONG


def test_an_unknown_template_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'vicuna'.*'vicuna_v1'"):
        find_template("vicuna")


def test_a_template_whose_stop_it_never_trains_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop"):
        dataclasses.replace(TEMPLATES["vicuna_v1"], stop="<|im_end|>")
    assert isinstance(TEMPLATES["plain"], Template)
