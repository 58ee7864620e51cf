"""`Modifier`: what combines with any method, through three hooks of the trainer's one loop.

The loop asks, in this order: what trains (`attach`, once), whether the gradient is to be taken at other weights
(`worst_weights`, each step), and what the model looks like that leaves the run (`outgoing`, at every validation). Every hook
has a default that changes nothing. What a modifier learns is in the parameters that `attach` returns, so checkpoints keep it,
and a resumed run needs nothing else.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from torch import nn

from tima.errors import RecipeError
from tima.models import DualEncoder

Params = dict[str, nn.Parameter]


class Modifier:
    """Base of the modifiers.

    Attributes:
        name: the recipe's field.
        lr_scale: learning rates of parameters, relative to the recipe's, where they differ.
        adapters: names of parameters that stand for a difference to the original already, so that the interpolation with the
            original (`mix`) is the modifier's business.
        looks_again: whether `worst_weights` may ever be other than None; the step's adversarial images are then kept for it.
    """

    name: str = ""
    lr_scale: Mapping[str, float] = {}
    adapters: frozenset[str] = frozenset()
    looks_again: bool = False

    def attach(self, student: DualEncoder, params: Params) -> Params:
        """Change the student, once, before training; given what the method trains, return what trains now."""
        return params

    def worst_weights(self, params: Params, step: int) -> AbstractContextManager[None] | None:
        """Weights at which this step's gradient is to be taken instead, while the context lasts; or None.

        Called when `params` hold the gradient of the batch at their own values.
        """
        return None

    def outgoing(self) -> AbstractContextManager[None]:
        """The student as it is validated and saved, while the context lasts; then as before, bit for bit."""
        return nullcontext()


class Modifiers(Modifier):
    """Several as one. They apply in the order given."""

    def __init__(self, members: list[Modifier]) -> None:
        self.members = members
        self.lr_scale, self.adapters = {}, frozenset()
        self.looks_again = any(member.looks_again for member in members)

    def attach(self, student: DualEncoder, params: Params) -> Params:
        """As each member does.

        Raises:
            RecipeError: a method that trains nothing.
        """
        if self.members and not params:
            names = " and ".join(m.name for m in self.members)
            raise RecipeError(f"This method trains nothing, which leaves {names} nothing to do. Leave it out.")
        for member in self.members:
            params = member.attach(student, params)
            self.lr_scale = {**self.lr_scale, **member.lr_scale}
            self.adapters = self.adapters | member.adapters
        return params

    def worst_weights(self, params: Params, step: int) -> AbstractContextManager[None] | None:
        return next((found for m in self.members if (found := m.worst_weights(params, step)) is not None), None)

    @contextmanager
    def outgoing(self) -> Iterator[None]:
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.outgoing())
            yield
