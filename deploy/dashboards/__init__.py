"""Grafana dashboards as code: `python -m deploy.dashboards` writes grafana/dashboards/; see docs/dashboards.md."""
