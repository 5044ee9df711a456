"""What processes tell each other, in two real ones over gloo."""

import json
import subprocess
import sys

from tests.support.tree import ROOT
from trainer import ranks

PROGRAM = """
import json, sys
import torch.distributed as dist
from trainer import ranks
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
said = [ranks.gathered([rank, rank + 10]), ranks.shared(f"from {rank}")]
ranks.barrier()
ranks.leave()
said.append(ranks.gathered([rank]))
print(json.dumps(said))
"""


def test_one_process_talks_to_itself():
    assert ranks.gathered((1, 2)) == [1, 2]
    assert ranks.shared("x") == "x"
    ranks.barrier()
    ranks.leave()


def test_two_processes_gather_in_order_share_the_first_s_and_part(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [json.loads(process.communicate(timeout=240)[0]) for process in running]
    assert said == [[[0, 10, 1, 11], "from 0", [0]], [[0, 10, 1, 11], "from 0", [1]]]
