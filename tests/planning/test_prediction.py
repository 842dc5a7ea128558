from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from frtrain.backbones import BACKBONES
from frtrain.commands.composition import group_defaults
from frtrain.planning.job import Job
from frtrain.planning.ledger import total
from frtrain.planning.plain_head import rehearse_plain_head
from frtrain.planning.prediction import (
    AVERAGE,
    BACKBONE_STATE,
    CENTRE_STATE,
    COMPRESSED,
    OPTIMIZING,
    Prediction,
    predict,
)
from frtrain.planning.rehearsal import ACTIVATIONS, CENTRE_GRADIENTS, CENTRES, GRADIENTS, WEIGHTS

FLOAT, D = 4, 16
Make = Callable[..., Job]


def held(prediction: Prediction, moment: str, label: str) -> int:
    return next(found for found in prediction.moments if found.name == moment).held.get(label, 0)


@pytest.fixture(scope="module")
def trainable(job: Make) -> int:
    """Bytes of the small backbone's trainable parameters."""
    network = BACKBONES.build(job().config.backbone)
    return sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)


def test_weights_gradients_and_momentum_are_those_of_all_parameters(job: Make, trainable: int):
    prediction = predict(job("classifier=chunked"))
    assert held(prediction, "optimizer", GRADIENTS) == trainable
    assert held(prediction, "optimizer", BACKBONE_STATE) == trainable
    assert held(prediction, "optimizer", WEIGHTS) == trainable + D * FLOAT  # the last norm's weight is fixed
    for label in (CENTRES, CENTRE_GRADIENTS, CENTRE_STATE):
        assert held(prediction, "optimizer", label) == 1000 * D * FLOAT
    assert held(prediction, "backbone, forward", GRADIENTS) == 0


def test_adam_has_two_numbers_for_each_weight(job: Make, trainable: int):
    prediction = predict(job("classifier=chunked", "optimizer=adamw"))
    assert held(prediction, "optimizer", BACKBONE_STATE) == 2 * trainable
    assert held(prediction, "optimizer", CENTRE_STATE) == 2 * 1000 * D * FLOAT


def test_an_optimizer_that_is_not_fused_copies_decayed_gradients(job: Make):
    fused, not_fused = (predict(job("optimizer.fused=" + how)) for how in ("auto", "false"))
    assert held(fused, "optimizer", OPTIMIZING) == 0
    assert held(not_fused, "optimizer", OPTIMIZING) >= 1000 * D * FLOAT


def test_processes_divide_the_centres_and_what_belongs_to_them(job: Make):
    alone, four = predict(job("identities=40000")), predict(job("identities=40000", "processes=4"))
    assert (alone.engine, four.engine) == ("chunked", "sharded")
    for label in (CENTRES, CENTRE_GRADIENTS, CENTRE_STATE):
        assert held(four, "optimizer", label) * 4 == held(alone, "optimizer", label) == 40000 * D * FLOAT


def test_a_checkpoint_is_copied_by_those_who_write_it(job: Make, trainable: int):
    backbone, centres = 2 * trainable + D * FLOAT, 2 * 40000 * D * FLOAT  # with momentum
    copied = {
        overrides: predict(job("identities=40000", *overrides)).host["checkpoint being written"]
        for overrides in ((), ("processes=2",), ("processes=4", "classifier=chunked"))
    }
    assert copied[()] == backbone + centres
    assert copied["processes=4", "classifier=chunked"] == centres // 2  # one has the centres, one their momentum
    last_layer = max(weight.nbytes for weight in BACKBONES.build(job().config.backbone).parameters())
    assert copied["processes=2",] == max(last_layer, -(-backbone // 2)) + centres // 2
    averaged = predict(job("identities=40000", "processes=4", "trainer.ema_decay=0.99"))
    assert averaged.host["checkpoint being written"] - centres // 4 >= trainable  # all of the average


def test_gradients_are_there_all_the_time_where_they_are_averaged_or_accumulated(job: Make, trainable: int):
    for overrides in (("processes=2",), ("trainer.accumulate=2",)):
        assert held(predict(job(*overrides)), "backbone, forward", GRADIENTS) == trainable


def test_an_average_of_the_weights_is_as_large_as_they_are(job: Make):
    prediction = predict(job("trainer.ema_decay=0.999"))
    assert held(prediction, "optimizer", AVERAGE) == held(prediction, "optimizer", WEIGHTS)


def test_fsdp_divides_what_belongs_to_the_backbone(job: Make):
    ddp, fsdp = (predict(job("processes=4", f"trainer.parallel={how}")) for how in ("ddp", "fsdp"))
    for label in (WEIGHTS, BACKBONE_STATE):
        assert held(fsdp, "optimizer", label) == -(-held(ddp, "optimizer", label) // 4)


def test_compressed_gradients_are_a_copy_of_half_the_size(job: Make, trainable: int):
    prediction = predict(job("processes=2", "trainer.gradient_compression=bf16"))
    assert held(prediction, "backbone, backward", COMPRESSED) == trainable // 2


def test_memory_grows_with_the_identities_and_with_the_batch(job: Make):
    identities = [predict(job(f"identities={count}")).total for count in (1000, 100_000)]
    assert identities == sorted(set(identities))
    batches = [predict(job(f"trainer.batch_size={batch}")).total for batch in (16, 32)]
    assert batches == sorted(set(batches))


def test_on_a_cpu_the_gradient_of_all_centres_is_kept_and_that_of_a_sample_is_made_anew(job: Make):
    gradients = {}
    for engine in ("chunked", "sampled"):
        planned = job(f"classifier={engine}", "identities=300000")
        prediction = predict(replace(planned, target=replace(planned.target, kind="cpu", native_bf16=None)))
        gradients[engine] = [
            held(prediction, moment, CENTRE_GRADIENTS) for moment in ("backbone, forward", "optimizer")
        ]
    whole = 300_000 * D * FLOAT
    assert gradients == {"chunked": [whole, whole], "sampled": [0, whole]}


def test_many_blocks_are_reckoned_as_if_each_had_been_visited(job: Make, monkeypatch: pytest.MonkeyPatch):
    def classify(limit: int) -> Prediction:
        monkeypatch.setattr("frtrain.planning.rehearsal.MOST_BLOCKS", limit)
        monkeypatch.setattr("frtrain.planning.prediction._REHEARSED", {})
        return predict(job("classifier=chunked", "classifier.chunk=100", "classifier.keep_mib=0.1", "identities=2600"))

    one_by_one, reckoned = classify(1000), classify(12)
    for left, right in zip(one_by_one.moments, reckoned.moments, strict=True):
        assert right.total == pytest.approx(left.total, abs=0.002 * left.total + 2 * 16 * 100 * FLOAT)
    assert reckoned.classifier_flops == pytest.approx(one_by_one.classifier_flops, rel=1e-3)


def test_recomputed_blocks_keep_less(job: Make):
    kept, recomputed = (
        predict(job(f"trainer.activation_checkpointing={on}", "trainer.batch_size=64")) for on in ("false", "true")
    )
    of_kept, of_recomputed = (held(found, "classifier, forward", ACTIVATIONS) for found in (kept, recomputed))
    assert of_recomputed < 0.6 * of_kept
    assert recomputed.backbone_flops > 1.2 * kept.backbone_flops


def test_an_auxiliary_loss_of_pairs_is_left_out_and_told(job: Make):
    pytest.importorskip("pytorch_metric_learning")
    planned = job()
    config = planned.config.model_copy(update={"auxiliary": group_defaults("auxiliary", "pairs")})
    assert predict(replace(planned, config=config)).left_out.startswith("auxiliary=pairs")
    assert predict(planned).left_out == ""


def test_the_prediction_is_what_a_step_on_real_tensors_holds(job: Make):
    planned = job("gpu=this", "trainer.accumulate=1", "identities=600", "classifier=dense")
    measured = _measured(planned)
    assert predict(planned).peak.total == pytest.approx(measured, rel=0.15)


def _measured(planned: Job) -> int:
    """The peak of what torch's allocator gives out over two steps, by its profiler, written without anything of the planner."""
    from torch.profiler import ProfilerActivity, profile

    from frtrain.classifier import CLASSIFIERS
    from frtrain.losses import LOSSES
    from frtrain.training.optimizers import build_optimizer

    config, batch = planned.config, planned.batch
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        backbone = BACKBONES.build(config.backbone).to(memory_format=torch.channels_last)
        classifier = CLASSIFIERS.build(
            config.classifier, head=LOSSES.build(config.loss), classes=planned.identities, embedding_size=D
        )
        optimizer = build_optimizer(config.optimizer, {"backbone": backbone, "classifier": classifier}, batch)
        for _ in range(2):
            images = torch.zeros(batch, 112, 112, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
            embedding = backbone((images.float() / 128 - 1).contiguous(memory_format=torch.channels_last))
            loss, _facts = classifier(embedding, torch.arange(batch))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            del embedding, loss, _facts
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def test_a_plain_head_keeps_matrices_that_no_engine_keeps(job: Make):
    plain = rehearse_plain_head(100_000, D, 64, None)
    blocks = ("classifier=chunked", "classifier.chunk=5000", "classifier.keep_mib=0")
    chunked = predict(job("identities=100000", "trainer.batch_size=64", *blocks))
    matrix = 64 * 100_000 * FLOAT
    assert total(plain.between) > 2 * matrix
    assert held(chunked, "classifier, forward", "similarities and blocks") < matrix / 2
    assert plain.flops == 3 * 2 * 64 * 100_000 * D
