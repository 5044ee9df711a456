"""What of a stream has left for the client, and how to end it there: as valid events of the endpoint, with usage."""

from __future__ import annotations

import orjson

from gateway.data_plane.exchange import Exchange
from gateway.data_plane.screening.refusals import (
    FILTERED,
    base,
    choices,
    incomplete,
    named_usage,
    openai_usage,
)
from gateway.data_plane.screening.said import Fields, Heard, index_of, listed
from gateway.data_plane.sse import Usage

DONE = b"data: [DONE]\n\n"


class Outline:
    """One stream's. `heard` is called for each event as it comes, `left` as it leaves, in the same order."""

    def __init__(self, exchange: Exchange, message: str) -> None:
        self._exchange = exchange
        self._name = exchange.request.endpoint.name
        self._message = message
        self._base: Fields = {}
        self._begun: set[int] = set()  # choices of which something has left
        self._started = False  # message_start or response.created has left
        self._open = -1  # the block of /v1/messages that has begun and not ended; -1: none
        self._blocks = 0
        self._sequence = -1

    def heard(self, heard: Heard) -> None:
        """Remember what all events of the stream repeat: id, model, time."""
        if self._base or not heard.fields:
            return
        if self._name in ("chat", "completions"):
            kept = ("id", "object", "created", "model", "system_fingerprint")
            self._base = {key: heard.fields[key] for key in kept if key in heard.fields}
        else:
            part = heard.fields.get("message" if self._name == "messages" else "response")
            self._base = dict(part) if isinstance(part, dict) else {}

    def left(self, heard: Heard) -> None:
        """An event has been sent."""
        self._begun.update(index for index in heard.choices)
        self._sequence = max(self._sequence, heard.sequence)
        if heard.kind in ("message_start", "response.created"):
            self._started = True
        elif heard.kind == "content_block_start":
            self._open, self._blocks = heard.index, self._blocks + 1
        elif heard.kind == "content_block_stop":
            self._open = -1

    # -- endings ------------------------------------------------------------------------------------------------

    def refuse(self, choice: int) -> bytes:
        """The end of one choice of a chat or completion."""
        said: Fields = {"text": ""}
        if self._name == "chat":
            role = {} if choice in self._begun else {"role": "assistant", "content": ""}
            first = self._chunk(choice, {"delta": {**role, "refusal": self._message}}, None)
            return first + self._chunk(choice, {"delta": {}}, FILTERED)
        return self._chunk(choice, said, FILTERED)

    def refuse_all(self, blocked: set[int], usage: Usage) -> bytes:
        """The end of the stream; choices in `blocked` have ended before."""
        if self._name == "messages":
            return self._end_message(usage)
        if self._name == "responses":
            return self._end_response(usage)
        ends = [self.refuse(index) for index in range(choices(self._exchange)) if index not in blocked]
        return b"".join(ends) + self.end(usage)

    def end(self, usage: Usage) -> bytes:
        """Usage, where the client asked for it, and the end marker of chats and completions."""
        options = self._exchange.request.fields.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage") is True:
            fields = {**self._fields(), "choices": [], "usage": openai_usage(usage)}
            return b"data: %b\n\n" % orjson.dumps(fields) + DONE
        return DONE

    def _chunk(self, choice: int, said: Fields, reason: str | None) -> bytes:
        one = {"index": choice, **said, "logprobs": None, "finish_reason": reason}
        return b"data: %b\n\n" % orjson.dumps({**self._fields(), "choices": [one]})

    def _fields(self) -> Fields:
        if not self._base:
            kind = {"object": "chat.completion.chunk"} if self._name == "chat" else {}
            self._base = base(self._exchange) | kind
        return self._base

    def _end_message(self, usage: Usage) -> bytes:
        events: list[Fields] = []
        if not self._started:
            message = {**self._fields(), "stop_reason": None, "usage": {"input_tokens": usage.input_tokens or 0}}
            message["usage"]["output_tokens"] = 0
            events.append({"type": "message_start", "message": message})
        if self._open >= 0:
            events.append({"type": "content_block_stop", "index": self._open})
        if self._message and not self._blocks:
            block = {"type": "text", "text": ""}
            said = {"type": "text_delta", "text": self._message}
            events += [
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": said},
                {"type": "content_block_stop", "index": 0},
            ]
        end = {"stop_reason": "refusal", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": end, "usage": named_usage(usage, "messages")})
        return _events([*events, {"type": "message_stop"}])

    def _end_response(self, usage: Usage) -> bytes:
        events: list[Fields] = []
        fields = self._fields()
        if not self._started:
            fresh = {**fields, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
            events.append({"type": "response.created", "response": fresh})
            events.append({"type": "response.in_progress", "response": fresh})
        events.append({"type": "response.incomplete", "response": incomplete(fields, self._message, usage)})
        numbered = [{**event, "sequence_number": self._sequence + 1 + place} for place, event in enumerate(events)]
        return _events(numbered)


def without(event: bytes, fields: Fields, blocked: set[int]) -> bytes:
    """An event of a chat or completion without the choices that are blocked; empty when nothing is left."""
    given = listed(fields.get("choices"))
    kept = [choice for choice in given if index_of(choice) not in blocked]
    if len(kept) == len(given):
        return event
    return b"data: %b\n\n" % orjson.dumps({**fields, "choices": kept}) if kept else b""


def _events(events: list[Fields]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)
