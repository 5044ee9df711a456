"""`python -m deploy.dashboards`: writes grafana/dashboards/*.json. A test fails when a file is out of date."""

from __future__ import annotations

from pathlib import Path

from deploy.dashboards import objectives, quality, rollout, safety, serving, training
from deploy.dashboards.board import Board
from deploy.dashboards.render import to_json

FOLDER = Path(__file__).resolve().parent.parent.parent / "grafana" / "dashboards"


def boards() -> dict[str, Board]:
    """file name → dashboard."""
    modules = {
        "serving": serving, "rollout": rollout, "quality": quality, "safety": safety, "slo": objectives,
        "training": training,
    }  # fmt: skip
    return {f"{name}.json": module.board() for name, module in modules.items()}


def main() -> None:
    """Write every dashboard, and remove what is none."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = boards()
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, board in wanted.items():
        (FOLDER / name).write_text(to_json(board), encoding="utf-8")
        print(f"grafana/dashboards/{name}")


if __name__ == "__main__":
    main()
