"""Memory of one device, in GB (10^9 bytes), by what it is for. Read off `models/lean.py` and torch's rules of what is kept."""

from tima.bench.towers import Tower
from tima.plan.work import StepWork


def memory_parts(step: StepWork, *, sharded: int, saving: bool, fused: bool, precision: str) -> dict[str, float]:
    """Weights, gradients, optimiser (AdamW), teacher, activations.

    Args:
        sharded: devices that share weights, gradients and optimiser (FSDP); 1: each has all (DDP).
        saving: gradient checkpointing: the inputs of layers are kept, and one layer is worked out again at a time.
        fused: attention that keeps no `N x N` weights (GPUs); False: plain attention.
        precision: of activations; weights and optimiser are fp32.
    """
    image, text = step.image, step.shape.text
    parameters, size = float(image.parameters + text.parameters), 2 if precision == "bf16" else 4
    outer = max(step.passes.get("outer forward", 0.0), 1.0) * kept(image, saving=saving, fused=fused) * step.batch
    attack = kept(image, saving=False, fused=fused, weights=False) * step.batch if step.attack_steps else 0.0
    texts = kept(text, saving=saving, fused=fused) * step.texts_backward
    shadow = image.parameters * 2 if precision == "bf16" else 0
    parts = {
        "weights": parameters * 4 / sharded + shadow,
        "gradients": step.trained * 4 / sharded,
        "optimiser": step.trained * 8 / sharded,
        "teacher": parameters * 4 if step.passes.get("teacher forward") else 0.0,
        # the attack's are freed before the outer step's are made; those of the texts are there all the while
        "activations": max(outer, attack) * size + texts * 4,
        "images and logits": 4.0 * step.pixels * 4 + 24.0 * step.batch * step.classes,
    }
    return {name: value / 1e9 for name, value in parts.items()}


def kept(tower: Tower, *, saving: bool, fused: bool, weights: bool = True) -> float:
    """Numbers an image (or text) leaves behind for the backward pass."""
    n, w, m = tower.tokens, tower.width, tower.mlp
    scores = 0 if fused else 2 * tower.heads * n * n
    # inputs of both norms, q, k and v, input of the activation; for gradients of weights also what each product read
    layer = n * (5 * w + 2 * m) + scores + (n * (3 * w + m) if weights else 0)
    return float(tower.layers * n * w + layer if saving else tower.layers * layer)
