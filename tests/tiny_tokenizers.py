"""Tokenizers for tests: small ones made here, and real ones from the shared data where it is present.

byte_level   byte-level BPE, as Qwen's; with `bos`, as Llama 3's
metaspace    SentencePiece-like BPE with byte fallback, as Llama's and Mistral's
unigram      SentencePiece-like Unigram whose vocabulary has `</s>` as an ordinary piece
"""

import gzip
import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, CLIPTokenizerFast, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
"""Special tokens of the templates that not every tokenizer has."""

_CORPUS = [
    "USER: What is in the picture? ASSISTANT: A red bus and two cats.</s>",
    "system\nYou are a helpful assistant.\nuser\nassistant\n",
    "### Human: Where is the tall tower?\n### Assistant: It stands behind the river.\n### ",
    "[INST] Read the sign, please. [/INST] It says: do not enter!",
] * 5


def byte_level(bos: bool = False, media: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 400 tokens with `<s>`, `</s>` and the chat tokens; `bos` puts `<s>` before a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(_CORPUS, trainer)
    return _finished(core, bos, media)


def metaspace(scheme: str = "first", media: bool = True) -> PreTrainedTokenizerFast:
    """BPE on `▁` for spaces; `scheme` "first" is Llama's `legacy=False`, "always" its `legacy=True`."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    # Split while merges are learnt, so that none crosses a space, as in SentencePiece; whole texts afterwards.
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(parts)
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=specials, show_progress=False)
    core.train_from_iterator([text.replace("\n", " ") for text in _CORPUS], trainer)
    state = json.loads(core.to_str())
    # The trainer makes every byte an added token; in a SentencePiece vocabulary bytes are ordinary pieces.
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    core = Tokenizer.from_str(json.dumps(state))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return _finished(core, True, media)


def unigram(media: bool = True) -> PreTrainedTokenizerFast:
    """Unigram over characters, with `</s>` and `<s>` among the pieces that it may find in text."""
    characters = sorted({char for text in _CORPUS for char in text.replace(" ", "▁")} | set("▁<>|/_image"))
    pieces = [("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0), *((char, -4.0) for char in characters)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace()
    return _finished(core, True, media)


def _finished(core: Tokenizer, bos: bool, media: bool) -> PreTrainedTokenizerFast:
    core.add_special_tokens([AddedToken(name, normalized=False) for name in ("<s>", "</s>", *CHAT_TOKENS)])
    if media:
        core.add_special_tokens([AddedToken(name, normalized=False) for name in ("<image>", "<video>")])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def mistral(folder: Path, legacy: bool) -> PreTrainedTokenizerBase:
    """Mistral's own SentencePiece model, with the chat tokens added."""
    shutil.copy(SHARED / "mistral" / "tokenizer.model.v1", folder / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True, "add_eos_token": False}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return _with_chat_tokens(AutoTokenizer.from_pretrained(str(folder)))


def gpt2(folder: Path) -> PreTrainedTokenizerBase:
    """GPT-2's byte-level BPE, with the chat tokens added."""
    shutil.copy(SHARED / "gpt2_bpe" / "encoder.json", folder / "vocab.json")
    shutil.copy(SHARED / "gpt2_bpe" / "vocab.bpe", folder / "merges.txt")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    return _with_chat_tokens(AutoTokenizer.from_pretrained(str(folder)))


def neox(folder: Path) -> PreTrainedTokenizerBase:
    """GPT-NeoX's byte-level BPE, whose runs of spaces are added tokens that are not special."""
    file = SHARED / "gptneox20b_hf_tokenizer_json" / "20B_tokenizer.json"
    return _with_chat_tokens(PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>"))


def clip(folder: Path) -> PreTrainedTokenizerBase:
    """CLIP's BPE, which lower-cases and marks ends of words."""
    with gzip.open(SHARED / "openai_CLIP" / "clip" / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    alphabet = _byte_characters()
    pieces = [*alphabet, *(char + "</w>" for char in alphabet), *("".join(merge.split()) for merge in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    return _with_chat_tokens(CLIPTokenizerFast.from_pretrained(str(folder)))


def _byte_characters() -> list[str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _with_chat_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    names = [name for name in ("<s>", "</s>", *CHAT_TOKENS) if name not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names], special_tokens=True)
    return tokenizer
