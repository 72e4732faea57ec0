"""What a conversation must be to be trained on, asked by the probe and again by whoever writes shards.

Without torch, so that probes start without it. What this does *not* do: tokenise (`llava_core.processor`).
"""

import json

from llava_core.config import ModelConfig
from llava_core.conversations import Conversation, from_llava
from llava_core.errors import PromptReason, PromptRefused
from llava_core.prompts import render


def check_conversation(text: str, num_images: int, model: ModelConfig) -> Conversation:
    """Hold a conversation to what training needs: roles in turns, an answer last, a place for each image.

    Args:
        text: canonical JSON of `{"from", "value"}`.
        num_images: images of the row.
        model: whose template it has to fit.

    Raises:
        PromptRefused: BAD_CONVERSATION, TOKEN_MISMATCH, EMPTY_TEXT or TOO_LONG.
    """
    conversation = from_llava(json.loads(text), num_images)
    if not conversation or conversation[-1].role != "assistant":
        raise PromptRefused(PromptReason.BAD_CONVERSATION, "the last turn is not the assistant's")
    render(conversation, model.template)
    return conversation
