import errno
import os
import urllib.request

import pytest
import torch

from adapters.errors import ConfigError, TrainingError
from tests.support.network import recorded
from trainer.session import check_processes, guarded, is_first, no_telemetry, reproducible, training_session, world_size


def test_telemetry_is_off_even_if_the_hub_library_was_loaded_before(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    no_telemetry()
    assert constants.HF_HUB_DISABLE_TELEMETRY
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_attempts_to_reach_the_network_would_be_seen():
    with recorded() as attempts, pytest.raises(OSError, match="no network"):
        urllib.request.urlopen("http://example.invalid:81/", timeout=2)
    assert attempts == ["example.invalid:81"]


def test_arithmetic_is_put_back_as_it_was():
    threads = torch.get_num_threads()
    with training_session(1):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    with reproducible(0):
        assert torch.get_num_threads() == threads


def raised(error):
    with pytest.raises(TrainingError) as caught, guarded("runs/a"):
        raise error
    return str(caught.value)


def test_what_libraries_raise_is_one_line():
    full = "the disk of runs/a is full: free space, then go on with --resume"
    assert raised(OSError(errno.ENOSPC, "No space left on device")) == full
    wrapped = RuntimeError("write failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert raised(wrapped) == full
    assert raised(ValueError("bad\nthing")) == "training failed: ValueError: bad"
    assert raised(torch.OutOfMemoryError("CUDA out of memory. Tried")).startswith("out of GPU memory (CUDA out of memory")
    assert raised(TrainingError("mine")) == "mine"


def test_the_number_of_processes_is_what_was_asked_for(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert (world_size(), is_first()) == (1, True)
    check_processes(0)
    check_processes(1)
    with pytest.raises(ConfigError, match="processes = 2, but 1 take part: start with `torchrun --nproc_per_node 2"):
        check_processes(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    check_processes(2)
    assert not is_first()
