"""The hypernetwork starts as the identity, learns from the first step, and its gradients are right."""

from __future__ import annotations

import torch

from editors.hypernetwork import HyperNetwork


def rows(count: int = 5, width: int = 10, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_starts_as_the_identity() -> None:
    network = HyperNetwork(d_in=6, d_out=4, members=3, rank=4, depth=2, seed=0)
    for member in range(3):
        keys, gradients = network(rows(), member)
        assert torch.equal(keys, rows()[:, :6])
        assert torch.equal(gradients, rows()[:, 6:])


def test_the_first_step_learns() -> None:
    """A ReLU at exactly zero would pass nothing to `up`, and the network would stay the identity forever."""
    network = HyperNetwork(d_in=6, d_out=4, members=1, rank=4, depth=2, seed=0)
    target = rows() + 0.5
    optimiser = torch.optim.SGD(network.parameters(), 0.05)
    losses = []
    for _ in range(20):
        loss = (torch.cat(network(rows(), 0), dim=1) - target).square().mean()
        loss.backward()
        if not losses:
            for block in network.blocks:
                assert float(block.up.grad.norm()) > 1e-4
                assert float(block.bias.grad.norm()) > 1e-4
        losses.append(float(loss.detach()))
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_against_finite_differences() -> None:
    network = HyperNetwork(d_in=6, d_out=4, members=2, rank=3, depth=2, seed=0).double()
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():  # away from the corner of the clamp
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    names = [name for name, _ in network.named_parameters()]
    values = [parameter.detach().clone().requires_grad_(True) for parameter in network.parameters()]
    inputs = rows(dtype=torch.float64).requires_grad_(True)

    def function(inputs: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.cat(torch.func.functional_call(network, given, (inputs, 1)), dim=1)

    assert (function(inputs, *values) != inputs).any()
    assert torch.autograd.gradcheck(function, (inputs, *values), eps=1e-6, atol=1e-6)


def test_members_share_the_network_and_nothing_else() -> None:
    network = HyperNetwork(d_in=6, d_out=4, members=2, rank=3, depth=1, seed=0)
    torch.cat(network(rows(), 1), dim=1).square().sum().backward()
    block = network.blocks[0]
    assert float(block.offset.grad[0].abs().sum()) == 0 < float(block.offset.grad[1].abs().sum())


def test_same_seed_same_network() -> None:
    torch.manual_seed(5)
    first = HyperNetwork(6, 4, 1, 3, 2, seed=7).state_dict()
    torch.manual_seed(6)
    second = HyperNetwork(6, 4, 1, 3, 2, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = HyperNetwork(6, 4, 1, 3, 2, seed=8).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)
