"""The measurement of what scrapes cost counts what it says."""

from __future__ import annotations

import time

from deploy.bench import scraping
from monitors import conventions as c
from monitors.metrics_server import MetricsServer
from monitors.shared_values import SharedValues


def test_the_scraper_reads_until_it_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(scraping, "EVERY", 0.01)
    values = SharedValues(tmp_path)
    values.counter(c.FAILOVERS, "e").inc()
    server = MetricsServer(tmp_path, 0)
    deadline = time.monotonic() + 60
    with scraping.Scraper(server.port) as scraper:
        while len(scraper.took) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    read = len(scraper.took)
    assert read >= 3 and scraper.size > 50 and all(seconds > 0 for seconds in scraper.took)
    time.sleep(0.05)
    assert len(scraper.took) == read
    server.close()


def test_the_table_shows_medians_and_the_cost_of_one_scrape():
    def round_of(p99, scrapes, parent):
        return {"latency_p50": 0.001, "latency_p99": p99, "per_second": 1000.0, "cpu_per_request": 75e-6, "errors": {},
                "parent_cpu": parent, "scrapes": [0.01] * scrapes, "bytes": 300_000 * bool(scrapes)}  # fmt: skip

    results = {"alone": [round_of(p, 0, 0.0) for p in (0.002, 0.003, 0.009)],
               "scraped": [round_of(0.004, 10, 0.2)]}  # fmt: skip
    head, alone, scraped, size = scraping.table(results).splitlines()
    assert alone.split()[:4] == ["alone", "1.00", "ms", "3.00"] and scraped.split()[0] == "scraped"
    assert "20.0 ms" in scraped and "75 us" in scraped and size.endswith("0.30 MB")
    assert head.startswith("          p50")
