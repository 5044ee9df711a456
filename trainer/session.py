"""The process around a training run: repeatable arithmetic, quiet libraries, nothing sent anywhere."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from adapters.errors import ConfigError, TrainingError, UnderstudyError
from trainer.model import first_line


def no_telemetry() -> None:
    """Keeps TRL from reporting its use, also if huggingface_hub was imported before."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fixes what makes torch's results differ from run to run; puts it back afterwards.

    The number of threads is part of it: the order of floating-point sums depends on it. 0 keeps torch's number.
    """
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads or before)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())  # some CUDA kernels have no such variant
    torch.utils.deterministic.fill_uninitialized_memory = False  # it fills every buffer with NaN: half of DPO's time
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@contextlib.contextmanager
def training_session(threads: int = 0) -> Iterator[None]:
    """Telemetry off, libraries quiet, arithmetic repeatable, for the time of one run."""
    no_telemetry()
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    trl_logger = logging.getLogger("trl")
    level = trl_logger.level
    trl_logger.setLevel(logging.ERROR)
    try:
        with reproducible(threads), warnings.catch_warnings():
            libraries = r"(torch|transformers|peft|trl|accelerate)\b"
            warnings.filterwarnings("ignore", category=UserWarning, module=libraries)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        trl_logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Turns what libraries raise in the middle of a run into one line. `folder`: the run directory.

    Raises TrainingError for a full disk, memory that ran out, and everything else that training raises.
    """
    try:
        yield
    except UnderstudyError:
        raise
    except Exception as error:
        if _is_full(error):
            raise TrainingError(f"the disk of {folder} is full: free space, then go on with --resume") from error
        if type(error).__name__ == "OutOfMemoryError":
            raise TrainingError(
                f"out of GPU memory ({first_line(error)}): lower trainer.per_device_train_batch_size or max_length"
            ) from error
        if os.environ.get("UNDERSTUDY_DEBUG", "0") not in ("", "0"):
            raise
        raise TrainingError(f"training failed: {type(error).__name__}: {first_line(error)}") from error


def world_size() -> int:
    """How many processes take part (torchrun's WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """True in the process that writes files and publishes (torchrun's rank 0)."""
    return int(os.environ.get("RANK", "0")) == 0


def check_processes(wanted: int) -> None:
    """Raises ConfigError when not exactly `wanted` processes were started (0: any number is right).

    `accelerate launch --cpu --num_processes 2` starts one process without a word: hence the check.
    """
    if wanted and world_size() != wanted:
        raise ConfigError(
            f"processes = {wanted}, but {world_size()} take part: start with "
            f"`torchrun --nproc_per_node {wanted} --no-python understudy train …`"
        )


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error) or "unexpected pos" in str(error):  # safetensors; torch's writer
            return True
        error = error.__cause__ or error.__context__
    return False
