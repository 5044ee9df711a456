import pytest

from adapters.base import resolve_base
from adapters.errors import TrainingError
from trainer.chat import IGNORED, Chat
from trainer.demo import tokenizer as tk
from trainer.demo.tokenizer import CHAT_TEMPLATE, build_tokenizer

BASE = resolve_base("demo")
ASK = {"role": "user", "content": "upper ab"}
SAY = {"role": "assistant", "content": "AB"}


def chat(template=CHAT_TEMPLATE, vocab_size=tk.VOCAB_SIZE, change=None):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    if change:
        change(tokenizer)
    return Chat(tokenizer, BASE, vocab_size)


def shown(made, encoded):
    """(what is read, what has loss), as text."""
    read = [i for i, label in zip(encoded.input_ids, encoded.labels, strict=True) if label == IGNORED]
    said = [label for label in encoded.labels if label != IGNORED]
    return made.tokenizer.decode(read), made.tokenizer.decode(said)


def test_the_loss_of_a_pair_is_on_the_completion_and_its_end_only():
    made = chat()
    encoded = made.encode([ASK], [SAY])
    assert shown(made, encoded) == ("<|bos|><|user|>upper ab<|assistant|>", "AB<|eos|>")
    assert encoded.labels[-1] == encoded.input_ids[-1] == tk.EOS_ID
    assert (encoded.prompt_length, encoded.trained) == (11, 3)


def test_the_loss_of_messages_is_on_every_answer_and_on_nothing_else():
    made = chat()
    system = {"role": "system", "content": "be brief"}
    encoded = made.conversation([system, ASK, SAY, {"role": "user", "content": "x"}, {**SAY, "content": "C"}])
    assert not encoded.last_only
    assert shown(made, encoded) == (
        "<|bos|><|system|>be brief<|user|>upper ab<|assistant|><|user|>x<|assistant|>", "AB<|eos|>C<|eos|>"
    )  # fmt: skip


def test_what_tools_say_in_a_completion_has_no_loss():
    made = chat()
    tool = {"role": "tool", "content": "42"}
    encoded = made.encode([ASK], [SAY, tool, {**SAY, "content": "C"}])
    assert shown(made, encoded)[1] == "AB<|eos|>C<|eos|>"
    earlier = made.encode([ASK, SAY, ASK], [SAY, tool, {**SAY, "content": "C"}])
    assert shown(made, earlier)[1] == "AB<|eos|>C<|eos|>"


def test_what_templates_write_after_the_end_is_not_trained():
    made = chat(CHAT_TEMPLATE.replace("{{ eos_token }}", "{{ eos_token }}{{ '\\n' }}"))
    assert shown(made, made.encode([ASK], [SAY]))[1] == "AB<|eos|>"


def test_templates_that_rewrite_earlier_turns_train_the_last_answer_only():
    forgetful = CHAT_TEMPLATE.replace(
        "{{ message['content'] }}{{ eos_token }}",
        "{{ message['content'] if loop.last else message['content'][-1:] }}{{ eos_token }}",
    )
    made = chat(forgetful)
    encoded = made.conversation([ASK, SAY, ASK, {**SAY, "content": "XY"}])
    assert encoded.last_only
    assert shown(made, encoded)[1] == "XY<|eos|>"


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (CHAT_TEMPLATE.replace("{{ eos_token }}", ""), {}, "writes no end-of-sequence token"),
        (CHAT_TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"), {}, "begin-of-sequence token twice"),
        (CHAT_TEMPLATE.replace("<|user|>", "<|im_start|>user "), {}, "<|im_start|>, which its tokenizer splits into"),
        (CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|>think{% endif %}"), {}, "renders a prompt differently"),
        (CHAT_TEMPLATE, {"vocab_size": 100}, "its tokenizer has 264 tokens, its model 100"),
        ("{{ raise_exception('no') }}", {}, "its chat template refuses: no"),
    ],
)
def test_a_template_or_tokenizer_that_does_not_fit_is_refused(template, options, message):
    with pytest.raises(TrainingError) as caught:
        chat(template, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_control_tokens_in_texts_are_found():
    made = chat()
    assert made.control_token("a <|eos|> b") == "<|eos|>"
    assert made.control_token("<|im_start|>user") == "<|im_start|>"
    assert made.control_token("[INST] do it [/INST]") == "[INST]"
    assert made.control_token("a < b | c > d and </p>") is None
