"""The pass meter against counts worked out by hand, and TIMA's scale of training."""

import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder

from tima.config import TrainRecipe
from tima.methods import Step
from tima.methods.tima import Tima, TimaConfig
from tima.models import encode_classes
from tima.study.passes import measured
from tima.train import train


def test_passes_are_those_of_the_methods_page(tokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=32, classes=4), tmp_path / "toy" / "train")
    common = dict(model=str(tmp_path / "model"), data=str(tmp_path / "toy"), steps=3, batch_size=8, held_out_classes=0)
    common |= dict(val_samples=8, val_attack_steps=1, precision="fp32")
    # docs/method.md, cost of a step: attack K + 1 forward and K backward, outer 1 and 1, teacher 1 forward; texts each step
    expected = {  # method: passes forward, backward, texts
        "tecoa": (3 + 1, 2 + 1, 0),
        "tima": (3 + 1 + 1, 2 + 1, 4),
        "ft-clean": (1, 1, 0),
        "tga-zsr": (3 + 3, 2 + 2, 0),  # outer: adversarial and clean image, student; teacher 1
    }
    for method, (forwards, backwards, texts) in expected.items():
        with measured() as meter:
            train(TrainRecipe(method=method, **common), tmp_path / method, progress=False)
        record = meter.record()
        assert record["steps_measured"] == 3 and record["images_per_step"] == 8
        assert record["texts_per_step"] == texts
        assert 0 < meter.fastest <= meter.seconds
        assert (record["forwards_per_step"], record["backwards_per_step"]) == (8 * forwards, 8 * backwards), method
    with measured() as meter:  # no hook is left behind
        pass
    train(TrainRecipe(method="ft-clean", **common), tmp_path / "again", progress=False)
    assert meter.record() == {}


def test_logit_scale_replaces_the_models_own_in_losses_and_attack(tiny_clip) -> None:  # type: ignore[no-untyped-def]
    clean = torch.rand(5, 3, tiny_clip.image_size, tiny_clip.image_size)
    adv, label = (clean + 0.05).clamp(0, 1), torch.tensor([0, 1, 2, 1, 0])
    text_CD = encode_classes(tiny_clip, ["cat", "dog", "tree"])
    settings = dict(w_takd=0.0, w_mhe=0.0, w_iakd=0.0, m0=0.1, kappa=0.0, text_tower="none")
    method = Tima(TimaConfig(logit_scale=30.0, **settings))
    found = method.losses(Step(tiny_clip, None, clean, adv, label, text_CD, text_CD))
    cosine_BC = (tiny_clip.encode_image(adv) @ text_CD.T).double()
    logits_BC = 30 * (cosine_BC + 0.1 * (1 - torch.eye(3, dtype=torch.float64)[label]))
    expected = (logits_BC.logsumexp(1) - logits_BC.gather(1, label[:, None])[:, 0]).mean()
    torch.testing.assert_close(found["tam"].double(), expected, rtol=1e-5, atol=1e-5)
    attacked_BC = method.attack_output(tiny_clip, text_CD)(adv)
    torch.testing.assert_close(attacked_BC.double(), 30 * cosine_BC, rtol=1e-5, atol=1e-5)
    plain = Tima(TimaConfig(**settings)).attack_output(tiny_clip, text_CD)(adv)
    torch.testing.assert_close(plain.double(), tiny_clip.logit_scale.double() * cosine_BC, rtol=1e-5, atol=1e-5)
