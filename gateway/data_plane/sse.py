"""What happens to an answer on its way down: the client's model name, the usage we asked for, the signs of its end.

Events pass as bytes. Inside JSON strings quotes are escaped, so a byte pattern with bare quotes can only be structure:
that is what makes restamping by replacement exact. Only whole events leave, so no pattern is ever split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.data_plane.endpoints import Endpoint

MAX_EVENT = 16 * 1024**2  # bytes one event may have; logprobs of long answers reach some hundred kilobytes

_INPUT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# Text, reasoning or a tool call that is not empty. In the bytes of one event or answer.
_WRITTEN = re.compile(
    rb'"(?:content|text|delta|reasoning_content|reasoning|thinking|refusal|arguments|partial_json)"\s*:\s*"[^"]'
    rb'|"tool_calls"\s*:\s*\[\s*\{|"type"\s*:\s*"(?:tool_use|function_call)"'
)
_NOTHING = (b'"', b"")  # what follows the opening quote of an empty text
_TERMINAL = {
    "chat": (b"data: [DONE]",),
    "completions": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    "messages": (b"event: message_stop",),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine reported them; None where it did not."""

    input_tokens: int | None = None
    output_tokens: int | None = None


def read_usage(data: bytes) -> Usage:
    """The last usage object in an answer or event."""
    at = data.rfind(b'"usage"')
    if at < 0:
        return Usage()
    given, written = _INPUT.search(data, at), _OUTPUT.search(data, at)
    return Usage(int(given[1]) if given else None, int(written[1]) if written else None)


def is_written(data: bytes) -> bool:
    """True when an answer holds any text or tool call. As vLLM writes chats and completions: without the pattern."""
    for key in (b'"content":"', b'"text":"'):
        at = data.find(key) + len(key)
        if at >= len(key) and data[at : at + 1] not in _NOTHING:
            return True
    return _WRITTEN.search(data) is not None


def restamp(data: bytes, stamped: tuple[bytes, bytes], public: bytes) -> bytes:
    """Put `public` (`"model":<name>`) wherever the engine wrote its own name for the model."""
    if stamped[0] in data:
        return data.replace(stamped[0], public)
    return data.replace(stamped[1], public)


class StreamEditor:
    """One stream. `feed` takes what arrived and returns what may leave."""

    __slots__ = (
        "_named", "_public", "_stamped", "_strip", "_tail", "_terminal", "content", "done", "error", "usage_event",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, stamped: tuple[bytes, bytes], public: bytes, strip_usage: bool) -> None:
        self._named = endpoint.named_events
        self._terminal = _TERMINAL[endpoint.name]
        self._stamped = stamped
        self._public = public
        self._strip = strip_usage
        self._tail = b""
        self.content = False  # the first content delta has passed
        self.done = False  # the end marker has passed
        self.error: bytes | None = None  # the engine's error event; nothing passes after it
        self.usage_event = b""

    def feed(self, data: bytes) -> bytes:
        """Whole events, edited. Raises ValueError when one event grows without bound."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not data.endswith(b"\n\n"):
            cut = data.rfind(b"\n\n") + 2
            self._tail = data[cut:] if cut > 1 else data
            if len(self._tail) > MAX_EVENT:
                raise ValueError("an event of the engine's stream has no end")
            if cut <= 1:
                return b""
            data = data[:cut]
        if self.error is not None:
            return b""
        data = restamp(data, self._stamped, self._public)
        if not self.content:
            self.content = self._has_content(data)
        if b'"usage":{' in data or b'"usage": {' in data:
            data = self._take_usage(data)
        if b"error" in data:
            data = self._take_error(data)
        for marker in self._terminal:
            if marker in data:
                self.done = self.error is None
        return data

    def flush(self) -> bytes:
        """What is left when the stream ends without a final blank line."""
        tail, self._tail = self._tail, b""
        return self.feed(tail + b"\n\n") if tail.strip() else b""

    def _has_content(self, data: bytes) -> bool:
        """Not the role, nor the end: something to read. Only events of named streams that bring a part can have it."""
        if self._named and b"delta" not in data and b"content_block_start" not in data:
            return False
        return is_written(data)

    def _take_usage(self, data: bytes) -> bytes:
        """Remember the event; drop the one that only exists because we asked for it."""
        self.usage_event = data
        if not self._strip or not _NO_CHOICES.search(data):
            return data
        return b"".join(e for e in _events(data) if b'"usage"' not in e or not _NO_CHOICES.search(e))

    def _take_error(self, data: bytes) -> bytes:
        """Cut the stream where the engine reports a failure; the caller says it in its own words."""
        events = _events(data)
        for index, event in enumerate(events):
            if event.startswith((b'data: {"error"', b"event: error\n")):
                self.error = event.partition(b"data: ")[2].strip()
                return b"".join(events[:index])
        return data


def _events(data: bytes) -> list[bytes]:
    """Split whole events, each with its blank line."""
    return [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
