"""The fake engine as a process, with a child that ignores SIGTERM: for tests of supervision.

`python -m tests.support.fake_vllm --uds PATH`; options of a real vLLM are accepted and ignored.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", type=Path)
    parser.add_argument("--fail", default="")
    parser.add_argument("--start-after", type=float, default=0.0)
    parser.add_argument("--live", type=float, default=600.0)
    options, _ = parser.parse_known_args()
    subprocess.Popen([sys.executable, "-c", STUBBORN])
    print("INFO 11-23 13:05:58 [fake.py:1] starting", flush=True)
    time.sleep(options.start_after)
    if options.fail:
        print(f"ValueError: {options.fail}", flush=True)
        sys.exit(1)
    from tests.support.fake_engine import FakeEngine  # slow to import: what went before has been said by now

    FakeEngine(options.uds).start()
    time.sleep(options.live)


if __name__ == "__main__":
    main()
