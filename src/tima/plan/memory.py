"""Memory of one device, in GB (10^9 bytes), by what it is for. Read off `models/lean.py` and torch's rules of what is kept."""

from tima.bench.towers import Tower
from tima.objective import PROMPTS
from tima.plan.work import StepWork


def memory_parts(step: StepWork, *, sharded: int, saving: bool, fused: bool, precision: str) -> dict[str, float]:
    """Weights, gradients, optimiser (AdamW), teacher, activations.

    Args:
        sharded: devices that share weights, gradients and optimiser (FSDP); 1: each has all (DDP).
        saving: gradient checkpointing: the inputs of layers are kept, and one layer is worked out again at a time, also in the
            attack.
        fused: attention that keeps no `N x N` weights (GPUs); False: plain attention.
        precision: of activations; weights and optimiser are fp32.
    """
    image, text = step.image, step.shape.text
    parameters, size = float(image.parameters + text.parameters), 2 if precision == "bf16" else 4
    outer = max(step.passes.get("outer forward", 0.0), 1.0) * kept(image, saving=saving, fused=fused) * step.batch
    attack = kept(image, saving=saving, fused=fused, weights=False) * step.batch if step.attack_steps else 0.0
    # plain attention also on GPUs (`models/lean_text.py`); a long list goes through in pieces (`objective.py`)
    texts = kept(text, saving=saving, fused=False) * min(step.texts_backward, PROMPTS)
    shadow = image.parameters * 2 if precision == "bf16" else 0  # a copy in bf16
    copies = 2 if sharded == 1 else 1  # one for the attack, one that gradients go through (`models/lean.py`); else autocast's
    parts = {
        "weights": parameters * 4 / sharded + copies * shadow,
        "gradients": step.trained * 4 / sharded,
        "optimiser": step.trained * 8 / sharded,
        "teacher": parameters * 4 + shadow if step.passes.get("teacher forward") else 0.0,
        # the attack's are freed before the outer step's are made; those of the texts are there all the while
        "activations": (max(outer, attack) + texts) * size,
        "images and logits": 4.0 * step.pixels * 4 + 24.0 * step.batch * step.classes,
    }
    return {name: value / 1e9 for name, value in parts.items()}


def kept(tower: Tower, *, saving: bool, fused: bool, weights: bool = True) -> float:
    """Numbers an image (or text) leaves behind for the backward pass; left out is what norms keep, two a token.

    Args:
        weights: gradients reach them, for which each product keeps what it read; False: the attack's.
    """
    n, w, m = tower.tokens, tower.width, tower.mlp
    # plain attention keeps its weights, the fused kernel its output, which the next product has read anyway
    attended = (0 if weights else n * w) if fused else tower.heads * n * n
    # inputs of both norms, q, k and v, input of the activation; for gradients of weights also what the four products read
    layer = n * (5 * w + m) + attended + (n * (3 * w + m) if weights else 0)
    last = n * (4 if weights else 3) * w if tower.last_token_only else layer
    first = n * w + (max(n - 1, 0) * tower.patch if weights else 0)  # the norm before the layers, and the patches
    return float(first + (tower.layers * n * w + layer if saving else (tower.layers - 1) * layer + last))
