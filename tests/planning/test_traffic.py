from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from frtrain.backbones import BACKBONES
from frtrain.planning.imagined import ImaginedProcesses, Traffic
from frtrain.planning.job import Job
from frtrain.planning.prediction import predict

FLOAT, D, BATCH = 4, 16, 16
Make = Callable[..., Job]


@pytest.fixture(scope="module")
def trainable(job: Make) -> int:
    network = BACKBONES.build(job().config.backbone)
    return sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)


def test_a_ring_sends_what_it_sends():
    traffic = Traffic(4)
    traffic.all_reduce("sum", 1000)
    traffic.all_gather("parts", 1000)
    assert traffic.sent == {"sum": 1500, "parts": 3000}


def test_imagined_processes_give_shapes_and_count_bytes():
    processes = ImaginedProcesses.of((3, 3, 2))
    embedding = torch.ones(3, D)
    assert processes.gather(embedding, processes.rows(3, torch.device("cpu"))).shape == (8, D)
    assert processes.sum(torch.ones(8, D)).shape == (8, D)
    assert processes.traffic.sent == {
        "embeddings": 2 * 3 * D * FLOAT,
        "gradient of the embeddings": 2 * 2 * 8 * D * FLOAT // 3,
    }


def test_one_process_sends_nothing(job: Make):
    assert predict(job()).sent == {}


def test_gradients_are_reduced_embeddings_gathered_and_their_gradients_summed(job: Make, trainable: int):
    sent = predict(job("processes=4", "identities=20000")).sent
    assert sent["gradients of the backbone"] == 2 * 3 * trainable // 4
    assert sent["embeddings"] == 3 * (BATCH // 4) * D * FLOAT
    assert sent["gradient of the embeddings"] == 2 * 3 * BATCH * D * FLOAT // 4
    assert sent["row statistics"] < 40 * BATCH * 8


def test_no_message_grows_with_the_identities(job: Make):
    few, many = (predict(job("processes=4", f"identities={count}")).sent for count in (20_000, 200_000))
    assert few == many


def test_compression_halves_and_accumulation_spares_the_gradients(job: Make, trainable: int):
    whole = predict(job("processes=2")).sent
    half = predict(job("processes=2", "trainer.gradient_compression=bf16")).sent
    accumulated = predict(job("processes=2", "trainer.accumulate=3")).sent
    name = "gradients of the backbone"
    assert half[name] == trainable // 2
    assert accumulated[name] == whole[name] == trainable
    assert accumulated["embeddings"] == 3 * whole["embeddings"]


def test_fsdp_gathers_the_weights_twice_and_scatters_the_gradients_once(job: Make, trainable: int):
    sent = predict(job("processes=2", "trainer.parallel=fsdp")).sent
    assert sent["weights (FSDP)"] == pytest.approx(trainable, rel=1e-3)
    assert sent["gradients (FSDP, reduce-scatter)"] == pytest.approx(trainable / 2, rel=1e-3)
    assert "gradients of the backbone" not in sent


def test_centres_that_all_have_travel_whole(job: Make):
    sent = predict(job("processes=2", "classifier=chunked", "identities=20000")).sent
    assert sent["gradients of the centres, which all have"] == 20000 * D * FLOAT


def test_synchronised_batch_norm_sends_its_moments(job: Make):
    sent = predict(job("processes=2", "trainer.sync_batch_norm=true")).sent["batch-norm statistics"]
    network = BACKBONES.build(job().config.backbone)
    channels = [module.num_features for module in network.modules() if hasattr(module, "num_features")]
    forward, backward = (sum(2 * count + 1 for count in channels), sum(2 * count for count in channels))
    assert sent == pytest.approx(FLOAT * (forward + backward), rel=0.01)
