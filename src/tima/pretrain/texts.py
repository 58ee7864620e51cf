"""The texts a picture can be paired with while the image tower learns: its class name or caption, and broader words.

Shapes: `N` pictures, `K` concepts (a class name, a caption or a broader word), `T` templates, `M` broader words of a concept,
`W` prompts, `B` pairs of a batch, `D` embedding width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tima.config import load_yaml
from tima.errors import RecipeError
from tima.models.hugging_face import HuggingFaceEncoder
from tima.pretrain.sources import Pairs

BUILTIN = Path(__file__).with_name("broader.yaml")


def read_broader(path: str | None) -> dict[str, list[str]]:
    """Class name -> the words it is a kind of, from a YAML file of `word: [class names]`; `builtin` is ours.

    Raises:
        RecipeError: no such file, or not a mapping of words to lists of names.
    """
    if path is None:
        return {}
    file = BUILTIN if path == "builtin" else Path(path)
    if not file.is_file():
        raise RecipeError(f"broader: there is no file {path}. Name a YAML file of `word: [class names]`, or `builtin`.")
    above: dict[str, list[str]] = {}
    for word, names in load_yaml(file).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RecipeError(f"broader {path}: '{word}' needs a list of class names, as in `dog: [golden retriever]`.")
        for name in names:
            above.setdefault(name, []).append(str(word))
    return above


@dataclass
class TextTable:
    """Every prompt's embedding, and which concepts are true of which picture."""

    prompt_WD: Tensor
    prompt_KT: Tensor  # row of `prompt_WD` for each concept in each template; a caption is the same in all
    own_N: Tensor  # the concept each picture came with
    broader_KM: Tensor  # concepts that are true wherever this one is; -1 fills

    def draw(self, rows_B: Tensor, broader_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One text a picture: `embedding B x D` and `true B x B`, whether text `j` is true of picture `i`.

        Args:
            broader_share: how often a picture that has broader words speaks through one of them.
        """
        template_B = torch.randint(self.prompt_KT.shape[1], (len(rows_B),), generator=generator)
        own_B = self.own_N[rows_B]
        said_B, broader_BM = own_B, self.broader_KM[own_B]
        if broader_share > 0 and broader_BM.shape[1]:
            count_B = (broader_BM >= 0).sum(1)
            chance_2B = torch.rand(2, len(rows_B), generator=generator)
            pick_B = (chance_2B[1] * count_B).long().clamp(max=broader_BM.shape[1] - 1)
            wider_B = broader_BM.gather(1, pick_B[:, None])[:, 0]
            said_B = torch.where((chance_2B[0] < broader_share) & (count_B > 0), wider_B, own_B)
        true_BB = (own_B[:, None] == said_B[None, :]) | (broader_BM[:, None, :] == said_B[None, :, None]).any(-1)
        return self.prompt_WD[self.prompt_KT[said_B, template_B]], true_BB


@torch.no_grad()
def encode_texts(
    student: HuggingFaceEncoder, pairs: Pairs, templates: list[str], broader: dict[str, list[str]] | None = None
) -> TextTable:
    """Encode each prompt once: the text tower is locked while the image tower learns (LiT, Zhai et al. 2022)."""
    concepts: dict[str, int] = {}
    prompts: dict[str, int] = {}
    rows: list[list[int]] = []

    def concept(text: str, free: bool) -> int:
        if text not in concepts:
            concepts[text] = len(concepts)
            said = [text if free else template.replace("{c}", text) for template in templates]
            rows.append([prompts.setdefault(prompt, len(prompts)) for prompt in said])
        return concepts[text]

    own = [concept(text, free) for text, free in zip(pairs.text_N, pairs.is_caption_N, strict=True)]
    captions = {text for text, free in zip(pairs.text_N, pairs.is_caption_N, strict=True) if free}
    wider = {concepts[name]: words for name, words in (broader or {}).items() if name in concepts and name not in captions}
    above = {own_concept: [concept(word, False) for word in words] for own_concept, words in wider.items()}
    broader_KM = torch.full((len(concepts), max(map(len, above.values()), default=0)), -1)
    for own_concept, found in above.items():
        broader_KM[own_concept, : len(found)] = torch.tensor(found)
    listed = list(prompts)
    encoded = [student.encode_text(listed[i : i + 256]) for i in range(0, len(listed), 256)]
    return TextTable(torch.cat(encoded), torch.tensor(rows), torch.tensor(own), broader_KM)
