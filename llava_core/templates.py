"""Prompt templates of every released LLaVA family, character for character as its training code wrote them.

    start of prompt │ user turn                    │ answer
    system block    │ user_open  text  user_close  │ answer_open │ answer_lead  text  answer_close │ answer_tail
                    │                              │             └──────── trained on ─────────┘

The text before an answer ends without a space, because SentencePiece and byte-level BPE both make the space a part of
the answer's first token; it is `answer_lead`.

What this does *not* do: put a conversation into a template (`prompts.render`), tokenise (`labels`).

Source: `llava/conversation.py` and `llava/train/train.py` of haotian-liu/LLaVA@c121f04 and LLaVA-VL/LLaVA-NeXT@df17966.
"""

import dataclasses
from dataclasses import dataclass

from llava_core.config import check_choice
from llava_core.errors import ConfigError

SYSTEM_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SYSTEM_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SYSTEM_VISION = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
SYSTEM_MPT = (
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One way to write a conversation down. Every string is the template's own, so special tokens in it are parsed."""

    name: str
    """Key in `TEMPLATES`."""
    system: str = ""
    """System message used where the conversation has none; empty for none."""
    system_open: str = ""
    """Before the system message; left out together with an empty one."""
    system_close: str = ""
    """After the system message."""
    system_inside: bool = False
    """The system block stands inside the first user turn, after `user_open` (Llama 2)."""
    start: str = ""
    """Between system block and first user turn."""
    user_open: str = ""
    """Before a user's text."""
    user_open_next: str | None = None
    """The same from the second user turn on; None where it does not differ."""
    user_close: str = ""
    """After a user's text."""
    answer_open: str = ""
    """Before an answer; what a prompt for generation ends with."""
    answer_lead: str = ""
    """First characters of an answer, trained on with it."""
    answer_close: str = ""
    """End of turn, trained on."""
    answer_tail: str = ""
    """After the end of turn, not trained on."""
    trim: bool = False
    """Texts are stripped of surrounding whitespace, as the Llama-3 chat template does."""
    media_only: bool = False
    """Of the user's turn only the images are kept, and there is one round (stage-1 alignment)."""
    stop: str
    """What ends an answer in generated text."""

    def __post_init__(self) -> None:
        if self.stop.strip() not in self.answer_close and not self.media_only:
            raise ConfigError(f"template {self.name}: stop {self.stop!r} is not in answer_close {self.answer_close!r}")


def _vicuna(name: str, system: str) -> Template:
    return Template(
        name=name,
        system=system,
        system_close=" ",
        user_open="USER: ",
        user_close=" ",
        answer_open="ASSISTANT:",
        answer_lead=" ",
        answer_close="</s>",
        stop="</s>",
    )


def _chatml(name: str, system: str, newline: str) -> Template:
    """ChatML; `newline` after each `<|im_end|>` is what tells Qwen's from MPT's and Yi's."""
    return Template(
        name=name,
        system=system,
        system_open="<|im_start|>system\n",
        system_close=f"<|im_end|>{newline}",
        user_open="<|im_start|>user\n",
        user_close=f"<|im_end|>{newline}",
        answer_open="<|im_start|>assistant\n",
        answer_close="<|im_end|>",
        answer_tail=newline,
        stop="<|im_end|>",
    )


def _llama_2(name: str, system: str, bos: str) -> Template:
    """`[INST]` with the system block inside; `bos` before each later round (the first is the tokenizer's)."""
    return Template(
        name=name,
        system=system,
        system_open="<<SYS>>\n",
        system_close="\n<</SYS>>\n\n",
        system_inside=True,
        user_open="[INST] ",
        user_open_next=f"{bos}[INST] ",
        user_close=" [/INST]",
        answer_lead=" ",
        answer_close=" </s>",
        stop="</s>",
    )


def _llama_3(name: str, system: str) -> Template:
    """Headers of Llama 3. `<|begin_of_text|>` is left to the tokenizer, so that it never comes twice."""
    return Template(
        name=name,
        system=system,
        system_open="<|start_header_id|>system<|end_header_id|>\n\n",
        system_close="<|eot_id|>",
        user_open="<|start_header_id|>user<|end_header_id|>\n\n",
        user_close="<|eot_id|>",
        answer_open="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer_close="<|eot_id|>",
        trim=True,
        stop="<|eot_id|>",
    )


_V0 = Template(
    # As `_add_speaker_and_signal` trained it; the `###`-only spelling of `get_prompt` was never trained on.
    name="v0",
    system=SYSTEM_HUMAN,
    system_close="\n\n",
    start="### ",
    user_open="Human: ",
    user_close="\n",
    answer_open="### Assistant:",
    answer_lead=" ",
    answer_close="\n###",
    answer_tail=" ",
    stop="###",
)
_VICUNA_V1 = _vicuna("vicuna_v1", SYSTEM_USER)
_QWEN = _chatml("qwen_1_5", "You are a helpful assistant.", "\n")

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        _V0,
        _VICUNA_V1,
        dataclasses.replace(_VICUNA_V1, name="v1"),
        _vicuna("llava_v1", SYSTEM_HUMAN),
        _llama_2("llava_llama_2", SYSTEM_VISION, "<s>"),
        _llama_2("mistral_instruct", "", ""),
        _chatml("mpt", SYSTEM_MPT, ""),
        _chatml("chatml_direct", "Answer the questions.", ""),
        _llama_3("llava_llama_3", SYSTEM_VISION),
        _QWEN,
        dataclasses.replace(_QWEN, name="qwen_2"),
        # Ours, for models whose vocabulary has no room for a system message.
        Template(
            name="short",
            user_open="USER:",
            user_close="\n",
            answer_open="ASSISTANT:\n",
            answer_close="</s>",
            stop="</s>",
        ),
        Template(name="plain", answer_close="\n", media_only=True, stop="\n"),
    )
}
"""The released templates by the name that their `--version` had, and "short", our own; "v1" is "vicuna_v1", as there,
not "llava_v1"."""


def find_template(name: str) -> Template:
    """The template of a name.

    Raises:
        ConfigError: no such template.

    Example:
        >>> find_template("vicuna_v1").answer_open
        'ASSISTANT:'
    """
    check_choice("model", "template", name, tuple(TEMPLATES))
    return TEMPLATES[name]
