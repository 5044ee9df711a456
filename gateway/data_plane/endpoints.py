"""The allow-list: which engine paths are reachable, and how each speaks. Nothing else of the engine is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine path. Metric label `endpoint` is `name`."""

    name: str
    path: str
    id_prefix: str  # what the engine puts before the request id in the answer's id
    id_in_body: bool  # the engine takes the id from body.request_id instead of X-Request-Id
    usage_option: bool  # stream_options.include_usage exists
    done_marker: bytes  # a stream that ends without it was cut short
    named_events: bool  # SSE events carry an `event:` line
    streams: bool = True


CHAT: Final = Endpoint("chat", "/v1/chat/completions", "chatcmpl-", False, True, b"data: [DONE]", False)
COMPLETIONS: Final = Endpoint("completions", "/v1/completions", "cmpl-", False, True, b"data: [DONE]", False)
RESPONSES: Final = Endpoint("responses", "/v1/responses", "resp_", True, False, b"event: response.completed", True)
MESSAGES: Final = Endpoint("messages", "/v1/messages", "chatcmpl-", False, False, b"event: message_stop", True)
EMBEDDINGS: Final = Endpoint("embeddings", "/v1/embeddings", "embd-", False, False, b"", False, streams=False)

ENDPOINTS: Final = {endpoint.path: endpoint for endpoint in (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)}
