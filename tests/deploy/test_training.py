"""The shipped configurations of distributed training: whatever can be checked of them without a GPU."""

from __future__ import annotations

import pytest
import yaml

from tests.support.tree import ROOT

FOLDER = ROOT / "deploy" / "training"


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize(("name", "section"), [("fsdp.yaml", "fsdp_config"), ("deepspeed.yaml", "deepspeed_config")])
def test_accelerate_knows_every_key(name, section):
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    config = ClusterConfig.from_yaml_file(str(FOLDER / name))
    assert config.mixed_precision == "bf16" and config.use_cpu is False
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(read(name)[section]) <= known


def test_fsdp_saves_one_whole_adapter():
    assert read("fsdp.yaml")["fsdp_config"]["fsdp_state_dict_type"] == "FULL_STATE_DICT"


def test_the_job_resumes_and_names_only_what_exists():
    job = read("job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "OnFailure"
    container = pod["containers"][0]
    assert "--resume" in container["command"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    from typer.testing import CliRunner

    from gateway.cli import app

    options = [word for word in container["command"] if word.startswith("--")]
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in shown for option in options)
