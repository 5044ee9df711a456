"""What an engine's metrics say about its speed."""

from __future__ import annotations

import pytest

from adapters.errors import EngineUnavailable
from gateway.capacity.watch import read, seen_between, watch

TEXT = """\
# HELP vllm:generation_tokens_total x
vllm:generation_tokens_total{engine="0",model_name="base"} %d.0
vllm:num_requests_running{engine="0",model_name="base"} 8.0
vllm:request_prompt_tokens_sum{engine="0"} %d.0
vllm:request_prompt_tokens_count{engine="0"} %d.0
vllm:request_generation_tokens_sum{engine="0"} %d.0
vllm:time_to_first_token_seconds_sum{engine="0"} %f
vllm:time_to_first_token_seconds_count{engine="0"} %d.0
vllm:request_queue_time_seconds_sum{engine="0"} %f
vllm:request_queue_time_seconds_count{engine="0"} %d.0
process_start_time_seconds 1.0
"""


def test_two_readings_by_hand():
    first, last = read(TEXT % (100, 50, 1, 100, 0.5, 1, 0.1, 1)), read(TEXT % (4100, 5050, 21, 4100, 4.5, 21, 2.1, 21))
    seen = seen_between(first, last, running=8.0, seconds=10.0)
    assert (seen.point.concurrency, seen.point.tokens_per_second) == (8.0, 400.0)
    assert seen.point.first_token == pytest.approx(0.2 - 0.1)  # without the time in the queue
    assert (seen.rps, seen.input_tokens, seen.output_tokens) == (2.0, 250.0, 200.0)


def test_engines_of_one_server_are_added():
    assert read('vllm:x{engine="0"} 1\nvllm:x{engine="1"} 2.5\n') == {"x": 3.5}


def test_an_idle_engine_says_nothing():
    reading = read(TEXT % (100, 50, 1, 100, 0.5, 1, 0.1, 1))
    with pytest.raises(EngineUnavailable, match="while it is busy"):
        seen_between(reading, reading, 0.0, 10.0)


async def test_no_engine_is_one_line():
    with pytest.raises(EngineUnavailable, match="shows no metrics"):
        await watch("http://127.0.0.1:1", 0.1)
