"""A module around a model that counts the images sent forward and backward. Shapes: `B` images, `C` channels, `H, W` pixels."""

from torch import Tensor, nn


class Counted(nn.Module):
    """Unlike `tima.attacks.CountedModel` an `nn.Module`, which attack libraries ask for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, image_BCHW: Tensor) -> Tensor:
        self.forwards += len(image_BCHW)
        logits_BC: Tensor = self.model(image_BCHW)
        if logits_BC.requires_grad:
            logits_BC.register_hook(self._count)
        return logits_BC

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
