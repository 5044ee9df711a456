"""A service's own registry: every kind of metric, in both formats, and nothing shared between two of them."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from gateway.service_metrics import ServiceMetrics
from monitors import conventions


def test_the_conventions_are_what_is_exposed() -> None:
    metrics, other = ServiceMetrics(), ServiceMetrics()
    made = (conventions.GUARD_VERDICTS, conventions.GUARD_DURATION, conventions.GUARD_WAITING)
    counter, histogram, gauge = (metrics.made(metric) for metric in made)
    other.made(conventions.GUARD_VERDICTS)
    counter.labels("user", "safe").inc()
    histogram.observe(0.2)
    gauge.set(3)
    for accept, parse in (("", plain), ("application/openmetrics-text; version=1.0.0", openmetrics)):
        body, content_type = metrics.exposition(accept)
        found = {sample.name: sample for family in parse(body.decode()) for sample in family.samples}
        assert content_type.startswith(accept.partition(";")[0] or "text/plain")
        assert found[made[2].full_name].value == 3
        assert found[made[1].full_name + "_sum"].value == 0.2
        assert sum(s.value for n, s in found.items() if n.startswith(made[0].full_name) and not n.endswith("_created")) == 1
    assert b'verdict="safe"' not in other.exposition("")[0]
