"""The guard's prompt, from the checkpoint's own chat template; nothing is written by hand where a template exists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from adapters.errors import ConfigError
from monitors.llama_guard.conversation import Message, Turn, alternating, turns
from monitors.llama_guard.taxonomy import check_categories

Role = Literal["user", "assistant"]

LEAD = "\n\n"
"""What a Llama Guard generates first; the verdict's first token comes after it."""

_BLOCK = re.compile(r"(<BEGIN UNSAFE CONTENT CATEGORIES>\n).*?(\n\s*<END UNSAFE CONTENT CATEGORIES>)", re.DOTALL)
_LISTED = re.compile(r"^\s*(S[1-9][0-9]?): *(.+?)\.? *$", re.MULTILINE)
_FORGED_TURN = re.compile(r"^(\s*(?:User|Agent)):", re.MULTILINE)
_FORGED_MARK = re.compile(r"<(?=(?:BEGIN|END) )")
_PROBES = ("qzvx", "jwkq")  # texts that no template contains


class Template:
    """One checkpoint's chat template. Raises ConfigError when there is none, or it is no Llama Guard's."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the guard's checkpoint has no chat template: a Llama Guard brings one")
        self._tokenizer = tokenizer
        special = {*tokenizer.all_special_tokens, *(str(token) for token in tokenizer.get_added_vocab())}
        words = sorted((re.escape(word) for word in special if len(word) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(words) or r"(?!)")
        # Llama Guard 3 1B takes a list of parts, the 8B a string (vllm #9294); what does not suit it renders nothing.
        self._parts = next((parts for parts in (False, True) if self._shows_texts(parts)), None)
        if self._parts is None:
            raise ConfigError("the guard's chat template shows no conversation: is this a Llama Guard checkpoint?")
        self.categories = dict(_LISTED.findall(self._listed(self._apply([Turn("user", _PROBES[0])], None))))
        """The taxonomy that the template itself lists: code → name."""
        if not self.categories:
            raise ConfigError("the guard's chat template lists no categories such as 'S1: Violent Crimes.'")

    def render(self, found: Sequence[Turn], categories: Mapping[str, str] | None = None) -> str:
        """The whole prompt for alternating turns; the last one is judged. `categories` replaces the template's own."""
        text = self._apply([Turn(turn.who, self.harmless(turn.text)) for turn in found], categories)
        if categories is not None and dict(_LISTED.findall(self._listed(text))) != dict(categories):
            listed = "\n".join(f"{code}: {name}." for code, name in categories.items())
            text = _BLOCK.sub(lambda block: block[1] + listed + block[2], text, count=1)  # the template knew no others
        return text

    def wanted(self, categories: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
        """Categories to ask for, code → name: as given, or those of the template by their codes. Raises ConfigError."""
        if not isinstance(categories, Mapping):
            if unknown := [code for code in categories if code not in self.categories]:
                raise ConfigError(f"category {unknown[0]!r}: this guard's own are {', '.join(self.categories)}")
            categories = {code: self.categories[code] for code in categories}
        if not categories:
            raise ConfigError("categories: at least one is needed")
        return check_categories(categories)

    def harmless(self, text: str) -> str:
        """`text` such that it cannot end the conversation it stands in: no special tokens, markers, forged turns."""
        text = self._special.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)
        return _FORGED_TURN.sub(r"\1 :", _FORGED_MARK.sub("< ", text))

    def _shows_texts(self, parts: bool) -> bool:
        said = [Turn("user", _PROBES[0]), Turn("assistant", _PROBES[1])]
        try:
            text = self._apply(said, None, parts)
        except Exception:  # templates raise jinja's errors, and Python's for content of the other kind
            return False
        return all(probe in text for probe in _PROBES)

    def _apply(self, found: Sequence[Turn], categories: Mapping[str, str] | None, parts: bool | None = None) -> str:
        as_parts = self._parts if parts is None else parts
        messages = [
            {"role": turn.who, "content": [{"type": "text", "text": turn.text}] if as_parts else turn.text}
            for turn in found
        ]
        options: dict[str, Any] = {} if categories is None else {"categories": dict(categories)}
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))

    @staticmethod
    def _listed(text: str) -> str:
        block = _BLOCK.search(text)
        if block is None:
            raise ConfigError("the guard's chat template has no <BEGIN UNSAFE CONTENT CATEGORIES>: no Llama Guard's")
        return block[0]


def render(
    messages: Sequence[Message], role: Role, categories: Mapping[str, str] | Sequence[str] | None, tokenizer: Any
) -> str:
    """The prompt by which a Llama Guard judges the last message of `role` in OpenAI-shaped `messages`.

    role "user" judges a prompt: what the agent said after it is left out. "assistant" judges an answer: both are given.
    `categories`: code → name, or some of the template's own codes, or None for all of them. `tokenizer` is the
    checkpoint's, as transformers loads it. Raises ValueError when there is nothing of `role` to judge, Unreadable for
    content that is no text, and ConfigError for an unfit template or category.
    """
    if role not in ("user", "assistant"):
        raise ValueError(f"role must be 'user' or 'assistant', not {role!r}")
    template = Template(tokenizer)
    wanted = None if categories is None else template.wanted(categories)
    return template.render(alternating(turns(messages), role), wanted)
