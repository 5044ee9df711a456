from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.engine_metrics import parse_metrics

# As vLLM 0.32 writes them.
REAL = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79543911357e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="base",reason="capacity"} 1.0
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.7954392098260913e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a@1,b@2",waiting_lora_adapters="c@3"} 1.79543921e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="d@4",waiting_lora_adapters=""} 1.795439200e+09
"""


def test_the_newest_set_of_adapters_counts():
    found = parse_metrics(REAL)
    assert found.boot == "1.79543911357e+09"
    assert found.running == 3
    assert found.max_loras == 2
    assert found.adapters == {"a@1", "b@2", "c@3"}
    assert found.uses("c@3") and not found.uses("d@4")


def test_an_idle_engine_uses_nothing_whatever_the_last_set_was():
    idle = REAL.replace('"base"} 2.0', '"base"} 0.0').replace('"base"} 1.0', '"base"} 0.0')
    assert not parse_metrics(idle).uses("a@1")


def test_nothing_known():
    found = parse_metrics("")
    assert (found.boot, found.running, found.adapters, found.max_loras) == ("", 0, frozenset(), 0)


@given(st.text(alphabet='vllm:num_requests_running lora_info{}="\\,\n0123.eNaN', max_size=300))
def test_any_text_can_be_read(text):
    parse_metrics(text)
    parse_metrics("vllm:lora_requests_info" + text)
    parse_metrics("vllm:num_requests_running " + text)
