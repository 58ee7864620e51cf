"""Every attack in every library under one call: `run(model, images, labels, eps, budget, seed, batch) -> adversarial images`.

Settings are made equal by hand: the libraries' defaults differ. Shapes: `N` images, `C` channels or classes, `H, W` pixels.
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import tima
from tima import attacks

Run = Callable[[nn.Module, Tensor, Tensor, float, dict[str, Any], int, int], Tensor]
PACKAGES = {
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}
NORM = {"l_inf": "Linf", "l_2": "L2"}


def version(library: str) -> str:
    name = library.split()[0]
    return tima.__version__ if name == "tima" else importlib.metadata.version(PACKAGES[name])


# ours ----------------------------------------------------------------------------------------------------------------


def ours(attack: str, norm: str = "l_inf", **fixed: Any) -> Run:
    """As the evaluation calls it: one generator an image, an image leaves as soon as it is broken."""

    def run(
        model: nn.Module, image: Tensor, label: Tensor, eps: float, budget: dict[str, Any], seed: int, batch: int
    ) -> Tensor:
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(len(label))]
        words: dict[str, Any] = {"stop_when_broken": True, "norm": norm, **fixed, **budget}
        return attacks.find_attack(attack)(model, image, label, eps, generator=generators, batch_size=batch, **words)

    return run


# the others ----------------------------------------------------------------------------------------------------------


def autoattack_of(stages: list[str] | None) -> Run:
    """pyautoattack, the authors' code packaged: `standard`, or one of its stages with another budget."""

    def run(
        model: nn.Module, image: Tensor, label: Tensor, eps: float, budget: dict[str, Any], seed: int, batch: int
    ) -> Tensor:
        from pyautoattack import AutoAttack

        logging.getLogger("auto-attack").setLevel(logging.ERROR)
        if stages is None:
            attack = AutoAttack(model, norm="Linf", eps=eps, seed=seed, version="standard")
        else:
            attack = AutoAttack(model, norm="Linf", eps=eps, seed=seed, version="custom", attacks=stages)
            attack.apgd.n_restarts = 1
            attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = budget.get("steps", 100)
            attack.square.n_queries = budget.get("queries", 5000)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = budget.get("targets", 9)
        if attack.attacks_to_run is None:
            attack.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]
        attack.verbose = False
        return attack.run_standard_evaluation(image, label, batch_size=batch)[0]

    return run


def torchattack(name: str, make: Callable[[float, dict[str, Any], int], dict[str, Any]]) -> Run:
    def run(
        model: nn.Module, image: Tensor, label: Tensor, eps: float, budget: dict[str, Any], seed: int, batch: int
    ) -> Tensor:
        import torchattacks

        torch.manual_seed(seed)
        attack = getattr(torchattacks, name)(model, **make(eps, budget, seed))
        return torch.cat([attack(x, y) for x, y in zip(image.split(batch), label.split(batch), strict=True)])

    return run


def foolbox_attack(name: str, make: Callable[[float, dict[str, Any]], dict[str, Any]], minimal: bool = False) -> Run:
    def run(
        model: nn.Module, image: Tensor, label: Tensor, eps: float, budget: dict[str, Any], seed: int, batch: int
    ) -> Tensor:
        import foolbox

        torch.manual_seed(seed)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=str(image.device))
        attack = getattr(foolbox.attacks, name)(**make(eps, budget))
        parts = []
        for x, y in zip(image.split(batch), label.split(batch), strict=True):
            raw, clipped, _ = attack(wrapped, x, y, epsilons=None if minimal else eps)
            parts.append(raw if minimal else clipped)
        return torch.cat(parts).detach()

    return run


def art_attack(name: str, make: Callable[[float, dict[str, Any]], dict[str, Any]]) -> Run:
    def run(
        model: nn.Module, image: Tensor, label: Tensor, eps: float, budget: dict[str, Any], seed: int, batch: int
    ) -> Tensor:
        import numpy as np

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import art.attacks.evasion as evasion
            from art.estimators.classification import PyTorchClassifier

            np.random.seed(seed)
            torch.manual_seed(seed)
            classes = model(image[:1]).shape[1]
            estimator = PyTorchClassifier(
                model,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(image.shape[1:]),
                nb_classes=classes,
                clip_values=(0.0, 1.0),
                device_type="cpu",
            )
            attack = getattr(evasion, name)(estimator, **make(eps, budget), batch_size=batch)
            if "verbose" in attack.attack_params:
                attack.set_params(verbose=False)
            return torch.from_numpy(attack.generate(image.numpy(), label.numpy())).float()

    return run


def _pgd_size(eps: float, budget: dict[str, Any]) -> float:
    return float(budget.get("step_size") or 2.5 * eps / budget["steps"])


# attack -> library -> how to run it. The names in brackets say how one library is called twice.
RUNS: dict[str, dict[str, Run]] = {
    "standard": {"tima": ours("autoattack"), "pyautoattack": autoattack_of(None)},
    "apgd-ce": {
        "tima": ours("apgd", loss="ce"),
        "pyautoattack": autoattack_of(["apgd-ce"]),
        "torchattacks": torchattack("APGD", lambda e, b, s: dict(eps=e, steps=b["steps"], seed=s, loss="ce")),
        "art": art_attack(
            "AutoProjectedGradientDescent",
            lambda e, b: dict(eps=e, eps_step=2 * e, max_iter=b["steps"], nb_random_init=1, loss_type="cross_entropy"),
        ),
    },
    "apgd-dlr": {
        "tima": ours("apgd", loss="dlr"),
        "pyautoattack": autoattack_of(["apgd-dlr"]),
        "torchattacks": torchattack("APGD", lambda e, b, s: dict(eps=e, steps=b["steps"], seed=s, loss="dlr")),
    },
    "apgd-t": {
        "tima": ours("apgd", loss="dlr_targeted"),
        "pyautoattack": autoattack_of(["apgd-t"]),
        "torchattacks": torchattack("APGDT", lambda e, b, s: dict(eps=e, steps=b["steps"], seed=s, n_classes=b["targets"] + 1)),
    },
    "fab-t": {
        "tima": ours("fab"),
        "pyautoattack": autoattack_of(["fab-t"]),
        "torchattacks": torchattack(
            "FAB", lambda e, b, s: dict(eps=e, steps=b["steps"], seed=s, multi_targeted=True, n_classes=b["targets"] + 1)
        ),
    },
    "square": {
        "tima": ours("square", rescale=False),
        "pyautoattack": autoattack_of(["square"]),
        "torchattacks": torchattack("Square", lambda e, b, s: dict(eps=e, n_queries=b["queries"], seed=s, resc_schedule=False)),
        "art": art_attack("SquareAttack", lambda e, b: dict(eps=e, max_iter=b["queries"], p_init=0.8, nb_restarts=1)),
    },
    "pgd": {
        "tima": ours("pgd", keep_best=False, stop_when_broken=False),
        "tima (best iterate)": ours("pgd"),
        "torchattacks": torchattack("PGD", lambda e, b, s: dict(eps=e, alpha=_pgd_size(e, b), steps=b["steps"])),
        "foolbox": foolbox_attack("LinfPGD", lambda e, b: dict(abs_stepsize=_pgd_size(e, b), steps=b["steps"])),
        "art": art_attack(
            "ProjectedGradientDescentPyTorch",
            lambda e, b: dict(eps=e, eps_step=_pgd_size(e, b), max_iter=b["steps"], num_random_init=1),
        ),
    },
    "fgsm": {
        "tima": ours("fgsm", keep_best=False, stop_when_broken=False),
        "torchattacks": torchattack("FGSM", lambda e, b, s: dict(eps=e)),
        "foolbox": foolbox_attack("LinfFastGradientAttack", lambda e, b: dict(random_start=False)),
        "art": art_attack("FastGradientMethod", lambda e, b: dict(eps=e, eps_step=e)),
    },
    "mi-fgsm": {
        "tima": ours("mi-fgsm", keep_best=False, stop_when_broken=False),
        "torchattacks": torchattack("MIFGSM", lambda e, b, s: dict(eps=e, alpha=e / b["steps"], steps=b["steps"], decay=1.0)),
        "foolbox": foolbox_attack(
            "LinfMomentumIterativeFastGradientMethod", lambda e, b: dict(abs_stepsize=e / b["steps"], steps=b["steps"])
        ),
        "art": art_attack("MomentumIterativeMethod", lambda e, b: dict(eps=e, eps_step=e / b["steps"], max_iter=b["steps"])),
    },
    "cw": {
        "tima": ours("cw", norm="l_2", stop_when_broken=False),
        "foolbox": foolbox_attack(
            "L2CarliniWagnerAttack",
            lambda e, b: dict(binary_search_steps=b["searches"], steps=b["steps"], stepsize=b["step_size"]),
            minimal=True,
        ),
        # ART's has a line search inside every step: thirty times the passes, so no comparison at equal budget
    },
}
NORMS = {"cw": "l_2"}
BUDGETS: dict[str, dict[str, Any]] = {
    "standard": {},
    "apgd-ce": {"steps": 50},
    "apgd-dlr": {"steps": 50},
    "apgd-t": {"steps": 25, "targets": 9},
    "fab-t": {"steps": 25, "targets": 9},
    "square": {"queries": 500},
    "pgd": {"steps": 10},
    "fgsm": {},
    "mi-fgsm": {"steps": 10},
    "cw": {"searches": 4, "steps": 30, "step_size": 0.02},
}
