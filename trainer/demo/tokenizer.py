"""The demo base's tokenizer: one token per byte, in the transformers fast format.

A byte-level BPE without merges: every printable ASCII character is one token, and any
other text still encodes without an unknown token. The chat template renders BOS and EOS
itself and there is no post-processor, so nothing is added twice: not by vLLM's completions
endpoint (which asks for special tokens), not by its chat endpoint (which does not), not by
a trainer. Tokenise rendered chats with `add_special_tokens=False` all the same.
"""

from typing import Any

SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|eos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|reserved|>",
)
PAD_ID, BOS_ID, EOS_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(6)
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] in ['system', 'developer'] %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'tool' %}<|tool|>{{ message['content'] }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Renders BOS once and EOS after every assistant turn; `{% generation %}` marks what is trained."""


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, by byte value.

    Source: GPT-2's `bytes_to_unicode` (printable Latin-1 bytes stand for themselves, the
    others are moved above U+0100 in order).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet, moved = [], 0
    for byte in range(256):
        if byte in printable:
            alphabet.append(chr(byte))
        else:
            alphabet.append(chr(0x100 + moved))
            moved += 1
    return alphabet


def build_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` of 264 tokens: 8 special ones, then the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *byte_alphabet()])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL_TOKENS[BOS_ID],
        eos_token=SPECIAL_TOKENS[EOS_ID],
        pad_token=SPECIAL_TOKENS[PAD_ID],
        model_max_length=256,
        # Token by token, decoding must give back what was said: spaces before "!" included.
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(text: str) -> list[int]:
    """Token ids of plain text without special tokens; equals the fast tokenizer's, without loading it."""
    return [len(SPECIAL_TOKENS) + byte for byte in text.encode()]


def decode(ids: list[int]) -> str:
    """The text of `ids` without special tokens; bytes that are no UTF-8 become U+FFFD."""
    offset = len(SPECIAL_TOKENS)
    return bytes(i - offset for i in ids if i >= offset).decode(errors="replace")
