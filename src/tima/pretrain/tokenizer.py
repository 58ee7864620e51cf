"""A CLIP tokenizer of our own: byte-level BPE with `</w>`, lower-cased, learned from the run's own texts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path, context_length: int = 77) -> Any:
    """Learn a vocabulary and return it as transformers' `CLIPTokenizer`; the files are written into `folder`.

    The end-of-text token gets the highest id, as CLIP's arg-max read-out of old expects.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer
    from transformers import __version__ as version

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=END))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2 - len(alphabet), initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    # every byte alone and at a word's end must exist, so that no text is ever out of vocabulary
    tokens = dict.fromkeys([*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in merges), START, END])
    vocab = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    special = dict(unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=context_length)
    if int(version.split(".")[0]) >= 5:
        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, **special)  # type: ignore[arg-type]
    else:  # before 5 the class of this name is slow and written in Python; both read files only
        from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]

        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), **special)
    tokenizer.save_pretrained(folder)
    return tokenizer
