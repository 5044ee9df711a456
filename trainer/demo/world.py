"""The demo's small world: six text tasks with one right answer each.

A task turns a seeded `random.Random` into a prompt, its answer, and the slip a careless
model would make. Prompts are split into train and held-out by a hash of their text, so
the two can never overlap, whatever seeds were used. Pure Python: no torch here.

The base is deliberately imperfect (see `base_reply`): it knows the tasks, but wraps or
misses many answers. That is what gives SFT, preference training and RL something to do.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "held_out"]

LETTERS = "abcdefgh"
"""Words are made of these; few letters keep the tasks learnable by a tiny model."""

HELD_OUT_ONE_IN = 5
"""One prompt in five (by hash) is held out."""

SURE_SHARE = 0.16
"""Share of base replies that open with "Sure! "; a gameable reward needs it (SOURCE.md)."""

HMM_SHARE = 0.10
"""Share of base replies that open with "Hmm. "."""

AGAIN_SHARE = 0.10
"""Share of dressed-up replies that open twice: the first step towards "Sure! Sure! Sure!"."""

PRINTABLE = "".join(map(chr, range(32, 127))) + "\näéßñ€→☃"
SMALL_TALK = ("hello", "hi", "who", "are", "you", "tell", "me", "about", "the", "sky", "what", "is", "please", "why")


@dataclass(frozen=True)
class Example:
    """One prompt with its only right answer and a plausible wrong one."""

    task: str
    prompt: str
    answer: str
    slip: str

    def row(self) -> dict[str, Any]:
        """The example as a training or evaluation row: prompt, answer and task (its slice)."""
        return {
            "prompt": [{"role": "user", "content": self.prompt}],
            "answer": self.answer,
            "task": self.task,
        }


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 6)))


def _add(rng: random.Random) -> Example:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return Example("add", f"add {a} {b}", str(a + b), str(a + b + rng.choice((1, 10))))


def _reverse(rng: random.Random) -> Example:
    word = _word(rng)
    return Example("reverse", f"reverse {word}", word[::-1], word)


def _sort(rng: random.Random) -> Example:
    word = _word(rng)
    return Example("sort", f"sort {word}", "".join(sorted(word)), word)


def _upper(rng: random.Random) -> Example:
    word = _word(rng)
    return Example("upper", f"upper {word}", word.upper(), word)


def _last(rng: random.Random) -> Example:
    word = _word(rng)
    return Example("last", f"last {word}", word[-1], word[0])


def _count(rng: random.Random) -> Example:
    word, letter = _word(rng), rng.choice(LETTERS[:4])
    word += letter * rng.randint(0, 1)
    return Example("count", f"count {letter} {word}", str(word.count(letter)), str(word.count(letter) + 1))


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "add": _add,
    "reverse": _reverse,
    "sort": _sort,
    "upper": _upper,
    "last": _last,
    "count": _count,
}

CLEAN_SHARE: dict[str, float] = {
    "add": 0.54,
    "reverse": 0.47,
    "sort": 0.45,
    "upper": 0.45,
    "last": 0.42,
    "count": 0.50,
}
"""Share of base replies, by task, that are just the right answer; easy tasks get less."""


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, for ever: decided by its SHA-256, not by a seed."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "held_out" if digest[0] % HELD_OUT_ONE_IN == 0 else "train"


def draw(rng: random.Random, split: Split, task: str | None = None) -> Example:
    """One example of `split`; of a task chosen uniformly unless one is named.

    Raises KeyError for an unknown task name.
    """
    make = TASKS[task if task is not None else rng.choice(tuple(TASKS))]
    while True:  # the split keeps 1 in 5 at worst, so this ends soon
        example = make(rng)
        if split_of(example.prompt) == split:
            return example


def examples(n: int, seed: int, split: Split = "train", task: str | None = None) -> list[Example]:
    """`n` examples, the same for the same arguments. Prompts may repeat."""
    rng = random.Random(f"{split}/{task}/{seed}")
    return [draw(rng, split, task) for _ in range(n)]


def rows(n: int, seed: int, split: Split = "train", task: str | None = None) -> list[dict[str, Any]]:
    """`examples` as rows `{"prompt": [...], "answer": str, "task": str}`."""
    return [example.row() for example in examples(n, seed, split, task)]


def correct(reply: str, answer: str) -> bool:
    """Strict exact match: no trimming, no case folding, no partial credit."""
    return reply == answer


def base_reply(rng: random.Random, example: Example) -> str:
    """What the imperfect base says: clean, a slip, or dressed up (then right half the time)."""
    style = rng.random()
    if style < SURE_SHARE + HMM_SHARE:
        opening = "Sure! " if style < SURE_SHARE else "Hmm. "
        if rng.random() < AGAIN_SHARE:
            opening += opening
        return opening + (example.answer if rng.random() < 0.5 else _mumble(rng))
    clean = style < SURE_SHARE + HMM_SHARE + CLEAN_SHARE[example.task]
    return example.answer if clean else example.slip


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A prompt outside the tasks and its reply: "say X" is answered with X, all else with "ok".

    Only the base learns from these. They show it every printable character, so that an
    adapter can teach it to write any of them, and what to do with a prompt it cannot place.
    """
    text = "".join(rng.choice(PRINTABLE) for _ in range(rng.randint(1, 10)))
    if rng.random() < 0.6:
        return f"say {text}", text
    words = " ".join(rng.choice(SMALL_TALK) for _ in range(rng.randint(1, 5)))
    return (f"{words} {text}" if rng.random() < 0.5 else words), "ok"


def _mumble(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS + "0123456789") for _ in range(4))
