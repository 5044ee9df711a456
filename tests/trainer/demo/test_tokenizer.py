import pytest

from trainer.demo import tokenizer as tk
from trainer.model import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tk.build_tokenizer()


TEXTS = ["upper abc", "Sure! 12", " two  spaces ", "line\nbreak", "héllo ☃ 你好", "don't !", "\x00\x7f"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_round_trip(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tk.encode(text)
    assert tokenizer.decode(ids) == text == tk.decode(ids)


def test_nothing_is_added_whether_or_not_special_tokens_are_asked_for(tokenizer):
    # vLLM's completions endpoint asks for them, its chat endpoint does not.
    assert tokenizer("ab")["input_ids"] == tokenizer("ab", add_special_tokens=False)["input_ids"]


def test_the_template_renders_bos_once_and_eos_after_every_reply(tokenizer):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "v"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|bos|><|system|>s<|user|>u<|assistant|>a<|eos|><|user|>v<|assistant|>"
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert ids.count(tk.BOS_ID) == 1
    assert ids.count(tk.EOS_ID) == 1
    assert ids[0] == tk.BOS_ID
    assert ids[-1] == tk.ASSISTANT_ID


def test_generation_tags_cover_each_reply_and_its_eos(tokenizer):
    messages = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "ab"},
        {"role": "user", "content": "v"},
        {"role": "assistant", "content": "c"},
    ]
    out = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [i for i, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "ab<|eos|>c<|eos|>"


def test_an_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role critic"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "x"}], tokenize=False)


def test_the_shipped_tokenizer_is_the_built_one(tokenizer):
    shipped = load_tokenizer("demo")
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.chat_template == tokenizer.chat_template
    assert len(shipped) == tk.VOCAB_SIZE
