"""The tokenizer of the toy models: a byte-level BPE of 320 tokens, trained on generated problems.

Digits stay single tokens. All 256 bytes are in the vocabulary, so any text (a real AIME problem, an emoji, a
NUL byte) is encoded and decoded without loss, only less compactly.
"""

from __future__ import annotations

from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.toy.tasks import DOMAINS, generate

PAD: Final = "<|endoftext|>"  # id 0
START: Final = "<|im_start|>"  # id 1
EOS: Final = "<|im_end|>"  # id 2
VOCABULARY: Final = 320

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same ids every time. Pads on the left, as batched generation needs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = [
        f"user\n{problem.prompt}\nassistant\n{problem.trace}"
        for domain in DOMAINS
        for problem in generate(domain, "train", 1000)
    ]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
