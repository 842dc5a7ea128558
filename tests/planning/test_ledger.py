from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from frtrain.planning.ledger import Ledger, total

BATCH, WIDE, NARROW = 32, 64, 16
FLOAT = 4


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDE, NARROW), nn.Sigmoid(), nn.Linear(NARROW, 1))


def test_what_autograd_keeps_of_a_chain_is_counted_to_the_byte():
    with FakeTensorMode(), Ledger() as ledger:
        network = chain()
        ledger.enter("weights", network.parameters())
        with ledger.under("activations"):
            output = network(torch.empty(BATCH, WIDE))
    weights = WIDE * NARROW + NARROW + NARROW + 1
    # The input and the sigmoid's output are saved, the output is in our hands; the sigmoid's input is gone.
    assert ledger.live == {"weights": weights * FLOAT, "activations": BATCH * (WIDE + NARROW + 1) * FLOAT}
    assert output.shape == (BATCH, 1)


def test_what_is_alive_is_what_saved_tensors_hooks_see():
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
        return tensor.detach()

    network = chain()
    given = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Ledger() as ledger:
        output = network(torch.randn(BATCH, WIDE))
    saved = sum(nbytes for key, nbytes in seen.items() if key not in given)
    ledger.enter("weights", network.parameters())
    assert total(ledger.live) - ledger.live["weights"] == saved + output.nbytes


def test_fake_tensors_are_counted_as_real_ones_are():
    peaks = []
    for fake in (True, False):
        with FakeTensorMode() if fake else torch.enable_grad(), Ledger() as ledger:
            network = chain()
            network(torch.zeros(BATCH, WIDE)).sum().backward()
            peaks.append((total(ledger.take_peak()), total(ledger.live), ledger.flops))
    assert peaks[0] == peaks[1]


def test_a_view_takes_no_memory_and_a_storage_ends_with_its_last_view():
    with Ledger() as ledger:
        whole = torch.empty(1000)
        part = whole[10:20].view(2, 5)
        assert total(ledger.live) == 1000 * FLOAT
        del whole
        assert total(ledger.live) == 1000 * FLOAT
        del part
        assert total(ledger.live) == 0
    assert total(ledger.take_peak()) == 1000 * FLOAT


def test_numbers_of_a_rehearsal_are_finite():
    with FakeTensorMode(), Ledger():
        assert torch.isfinite(torch.empty(3)).all()
        assert float(torch.empty(()).sum()) == 0
