"""What happens to an answer on its way down: the client's model name, the usage we asked for, the signs of its end.

Events pass as bytes. Inside JSON strings quotes are escaped, so a byte pattern with bare quotes can only be structure:
that is what makes restamping by replacement exact. Only whole events leave, so no pattern is ever split.

Here `find` is used where `in` would read better: `bytes in bytes` first makes and drops an exception (CPython 3.11),
which costs as much as the search (docs/profile.md).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.data_plane.endpoints import Endpoint
from gateway.data_plane.framing import size_line

MAX_EVENT: Final = 16 * 1024**2  # bytes one event may have; logprobs of long answers reach some hundred kilobytes

_INPUT: Final = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_OUTPUT: Final = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
# As vLLM writes it: one match in place of two searches.
_VLLM_USAGE: Final = re.compile(
    rb'"usage":\{"prompt_tokens":(\d{1,9}),"total_tokens":\d{1,9},"completion_tokens":(\d{1,9})'
)
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# Text, reasoning or a tool call that is not empty. In the bytes of one event or answer.
_WRITTEN: Final = re.compile(
    rb'"(?:content|text|delta|reasoning_content|reasoning|thinking|refusal|arguments|partial_json)"\s*:\s*"[^"]'
    rb'|"tool_calls"\s*:\s*\[\s*\{|"type"\s*:\s*"(?:tool_use|function_call)"'
)
_BLANK: Final = re.compile(rb"(?<=\n\n)|(?<=\n\r\n)")  # behind a blank line
_ERROR: Final = re.compile(rb'(?:^|\n)(?:data: \{"error"|event: error\r?\n)')
_CHOICES: Final = b',"choices":['
_GOES_ON: Final = b'"finish_reason":null'
_LF: Final = 10  # `in` finds a number as fast as it should
_NOTHING: Final = (b'"', b"")  # what follows the opening quote of an empty text
_TERMINAL: Final = {
    "chat": (b"data: [DONE]",),
    "completions": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    "messages": (b"event: message_stop",),
}


class Usage:
    """Token counts as the engine reported them; None where it did not. Never changed."""

    __slots__ = ("input_tokens", "output_tokens")

    def __init__(self, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and (
            self.input_tokens == other.input_tokens and self.output_tokens == other.output_tokens
        )

    __hash__ = None  # type: ignore[assignment]  # compared by tests, never a key


def read_usage(data: bytes) -> Usage:
    """The last usage object in an answer or event."""
    at = data.rfind(b'"usage"')
    if at < 0:
        return Usage()
    both = _VLLM_USAGE.match(data, at)
    if both is not None:
        return Usage(int(both[1]), int(both[2]))
    given, written = _INPUT.search(data, at), _OUTPUT.search(data, at)
    return Usage(int(given[1]) if given else None, int(written[1]) if written else None)


def is_written(data: bytes) -> bool:
    """True when an answer holds any text or tool call. As vLLM writes chats and completions: without the pattern."""
    at = data.find(b'"content":"')
    if at >= 0 and data[at + 11 : at + 12] not in _NOTHING:
        return True
    at = data.find(b'"text":"')
    if at >= 0 and data[at + 8 : at + 9] not in _NOTHING:
        return True
    return _WRITTEN.search(data) is not None


def restamp(data: bytes, stamped: tuple[bytes, bytes], public: bytes) -> bytes:
    """Put `public` (`"model":<name>`) wherever the engine wrote its own name for the model."""
    return data.replace(stamped[0], public).replace(stamped[1], public)


class StreamEditor:
    """One stream. `feed` takes what arrived and returns what may leave."""

    __slots__ = (
        "_after", "_before", "_behind", "_framed", "_length", "_named", "_public", "_stamped", "_strip", "_tail",
        "_terminal", "content", "done", "error", "usage_event",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, stamped: tuple[bytes, bytes], public: bytes, strip_usage: bool) -> None:
        self._named = endpoint.named_events
        self._terminal = _TERMINAL[endpoint.name]
        self._stamped = stamped
        self._public = public
        self._strip = strip_usage
        self._tail = b""
        self._before = b""  # how the events of this stream begin, up to their choices; see _learn
        self._after = b""  # the same with the public name
        self._behind = b""  # how they end, from the reason to finish on
        self._framed = b""  # the same with the end of a chunk
        self._length = 0  # of `_before`; 0: it is not known
        self.content = False  # the first content delta has passed
        self.done = False  # the end marker has passed
        self.error: bytes | None = None  # the engine's error event; nothing passes after it
        self.usage_event = b""

    def feed(self, data: bytes) -> bytes:
        """Whole events, edited. Raises ValueError when one event grows without bound."""
        length = self._length
        if length and data.startswith(self._before) and data.endswith(self._behind):
            stop = len(data) - len(self._behind)
            middle = data[length:stop]
            if length <= stop and _LF not in middle:
                return self._after + middle + self._behind  # one more delta like the one before: most of a stream
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not data.endswith(b"\n\n"):
            cut = _end(data)
            self._tail = data[cut:]
            self._before, self._length = b"", 0  # the rest is to come: nothing may overtake it
            if len(self._tail) > MAX_EVENT:
                raise ValueError("an event of the engine's stream has no end")
            if not cut:
                return b""
            data = data[:cut]
        return self._edit(data) if self.error is None else b""

    def delta(self, data: bytes, at: int) -> bytes:
        """One whole chunk, framed again, when its body (`data[at:-2]`) is one more delta; empty when it has to be fed.

        The same question as at the top of `feed`, of bytes that need not be taken apart and put together for it.
        """
        start, stop = at + self._length, len(data) - len(self._framed)
        if start > stop or start == at or not data.endswith(self._framed) or data[at:start] != self._before:
            return b""
        middle = data[start:stop]
        if _LF in middle:
            return b""
        return size_line(len(self._after) + len(data) - start - 2) + self._after + middle + self._framed

    def flush(self) -> bytes:
        """What is left when the stream ends without a final blank line."""
        tail, self._tail = self._tail, b""
        return self.feed(tail + b"\n\n") if tail.strip() else b""

    def _edit(self, data: bytes) -> bytes:
        given, data = data, restamp(data, self._stamped, self._public)
        if not self.content:
            self.content = self._has_content(data)
        has_usage = data.find(b'"usage":{') >= 0 or data.find(b'"usage": {') >= 0
        if has_usage:
            data = self._take_usage(data)
        if data.find(b"error") >= 0:
            data = self._take_error(data)
        if self.error is None and not self.done:
            self.done = any(_begins(data, marker) for marker in self._terminal)
        if self.content and not (has_usage or self.done or self._tail or self.error):
            self._learn(given)
        return data

    def _learn(self, event: bytes) -> None:
        """An event that is nothing but a delta: those that begin and end with the same bytes need no second look.

        All chunks of a stream of vLLM are alike up to the choices (id, object, created, model) and behind the text.
        A report of usage comes after the choices: an event with one ends in other bytes.
        """
        named = self._stamped[0] + _CHOICES
        at, end = event.find(named), event.rfind(_GOES_ON)
        if at < 0 or end < at or self._named or not event.startswith(b"data: {") or event.find(b"\n") != len(event) - 2:
            return
        self._length = at + len(named)
        self._before = event[: self._length]
        self._after = event[:at] + self._public + _CHOICES
        self._behind = event[end:]
        self._framed = self._behind + b"\r\n"

    def _has_content(self, data: bytes) -> bool:
        """Not the role, nor the end: something to read. Only events of named streams that bring a part can have it."""
        if self._named and data.find(b"delta") < 0 and data.find(b"content_block_start") < 0:
            return False
        return is_written(data)

    def _take_usage(self, data: bytes) -> bytes:
        """Remember the event; drop the one that only exists because we asked for it."""
        self.usage_event = data
        if not self._strip or not _NO_CHOICES.search(data):
            return data
        return b"".join(e for e in split_events(data) if b'"usage"' not in e or not _NO_CHOICES.search(e))

    def _take_error(self, data: bytes) -> bytes:
        """Cut the stream where the engine reports a failure; the caller says it in its own words."""
        events = split_events(data)
        for index, event in enumerate(events):
            if _ERROR.search(event):
                self.error = event.partition(b"data: ")[2].strip()
                self._before, self._length = b"", 0
                return b"".join(events[:index])
        return data


def _begins(data: bytes, marker: bytes) -> bool:
    """True when a line begins with `marker`. A text may quote it, but inside JSON there are no line ends."""
    return data.startswith(marker) or data.find(b"\n" + marker) >= 0


def _end(data: bytes) -> int:
    """Where the last whole event ends; 0: there is none. vLLM's lines end in LF, those of others may end in CRLF."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\n\r\n")
    return max(lf + 2 if lf >= 0 else 0, crlf + 3 if crlf >= 0 else 0)


def split_events(data: bytes) -> list[bytes]:
    """Split whole events, each with its blank line."""
    return _BLANK.split(data)[:-1]
