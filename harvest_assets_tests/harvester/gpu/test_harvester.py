"""A harvest with the kernels against one on a CPU, and the choice of the kernels."""

from __future__ import annotations

import logging

import pytest
import torch

from harvest_assets.harvester import Harvester, HarvesterState
from harvest_assets.harvester.gpu import choice
from harvest_assets_tests.harvester.gpu import DEVICE

pytest.importorskip("triton")

from harvest_assets.harvester.gpu import accumulation, passes

N, VOCAB, LENGTH = 5, 9, 20


def rows(n: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    ci = torch.rand(n, LENGTH, N, generator=generator)
    ci *= torch.rand(n, LENGTH, N, generator=generator) < torch.rand(N, generator=generator)
    ci[..., 0] = 1
    return (
        torch.randint(VOCAB, (n, LENGTH), generator=generator),
        ci,
        torch.rand(n, LENGTH, VOCAB, generator=generator).mul(9).softmax(dim=-1),
        torch.randn(n, LENGTH, N, generator=generator),
    )


def harvest(data: tuple[torch.Tensor, ...], cuts: list[int], *, kernels: bool, **settings):
    device = DEVICE if kernels else "cpu"
    harvester = Harvester([("h", N)], VOCAB, 0.1, 7, 2, device=device, kernels=kernels, **settings)
    for start, stop in zip([0, *cuts], [*cuts, len(data[0])], strict=True):
        harvester.process_batch(*(tensor[start:stop] for tensor in data), first_row=start)
    return harvester


def assert_equal(found: HarvesterState, expected: HarvesterState, tolerance: float):
    assert found.total_tokens_processed == expected.total_tokens_processed
    for name in ("cooccurrence", "ci_histogram", "input_counts", "input_token_totals"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("sample", "highest_ci", "highest_activation"):
        for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert torch.equal(one, other), name
    for name in ("ci_sums", "output_token_prob_mass", "output_token_prob_totals"):
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=0)


@pytest.mark.parametrize("cooccurrence", [True, False])
def test_a_gpu_counts_what_a_cpu_counts(monkeypatch: pytest.MonkeyPatch, cooccurrence: bool):
    monkeypatch.setattr(accumulation, "_CHUNK_ELEMENTS", 50 * N)
    monkeypatch.setattr(accumulation, "_LISTED_FIRINGS", 100)
    states = [
        harvest(rows(5), [3], kernels=kernels, cooccurrence=cooccurrence).state()
        for kernels in (True, False)
    ]
    assert_equal(*states, 1e-12)


def test_any_cut_gives_the_same():
    data = rows(5)
    whole = harvest(data, [], kernels=True).state()
    assert_equal(harvest(data, [1, 3], kernels=True).state(), whole, 1e-14)

    shards = []
    for start, stop in ((0, 2), (2, 5)):
        shard = Harvester([("h", N)], VOCAB, 0.1, 7, 2, device=DEVICE, kernels=True)
        shard.process_batch(*(tensor[start:stop] for tensor in data), first_row=start)
        shards.append(shard.state())
    assert_equal(HarvesterState.merge(shards), whole, 1e-14)


def test_tensors_that_are_not_contiguous():
    data = rows(3)
    spread = (data[0].T.contiguous().T, *(torch.stack([t, t], -1)[..., 0] for t in data[1:]))
    assert not any(tensor.is_contiguous() for tensor in spread)
    assert_equal(
        harvest(spread, [], kernels=True).state(), harvest(data, [], kernels=True).state(), 0
    )


def test_kernels_agree():
    choice.check_kernels(torch.device(DEVICE))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("add_cofirings", None),
        ("add_output_mass", None),
        ("count_firings", "sample"),
        ("count_firings", "highest_ci"),
        ("count_firings", "highest_activation"),
        ("windows", None),
    ],
)
def test_kernels_that_disagree_are_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str | None
):
    right = getattr(passes, name)

    def wrong(first, *rest):
        result = right(first, *rest)
        if name == "windows":
            return result._replace(ci_values=result.ci_values + 1)
        if name == "count_firings":
            return {**result, field: result[field] ^ 1}
        first[0] += 1
        return result

    monkeypatch.setattr(passes, name, wrong)
    with pytest.raises(ArithmeticError):
        choice.check_kernels(torch.device(DEVICE))


def test_a_warning_says_why_kernels_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(device: torch.device):
        raise RuntimeError(f"no compiler for {device}")

    monkeypatch.setattr(choice, "check_kernels", fail)
    with caplog.at_level(logging.WARNING):
        assert not choice.uses_kernels.__wrapped__(torch.device("cuda", 0))
    assert "no compiler for cuda:0" in caplog.text
    assert not choice.uses_kernels(torch.device("cpu"))
