"""Compiled loops against torch: what is read and written, sums, functions, rounding, and what is left to torch."""

import subprocess
import sys

import pytest
import torch
from torch.func import vmap

from segsweep.hardware import pick_precision
from segsweep.kernels import channel_pass, channels, classes, is_available, machine, where_positive
from segsweep.kernels.functions import exp, larger, log

if not is_available():  # another system than Linux
    pytest.skip("no loops are compiled here", allow_module_level=True)

CHANNELS = 64


@channel_pass(maps=2, writes=True, sums=2)
def mixed(x, y, scale):
    return x * scale + y, x * y, y


@channel_pass(maps=1, writes=True)
def written(x, value):
    return x + value


def value_of(function):
    """The function of (64,) float32, in float64: the sum over one pixel."""

    @channel_pass(maps=1, sums=1)
    def one(x, value):
        return (function(value),)

    return lambda values: one([maps(CHANNELS, 1, 1, 1)], [values])[1][0]


def maps(channels, num, height, width, seed=0):
    values = torch.randn(num, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, (1, 8, 4)), (11, (2, 8, 16)), (16, (3, 5, 4)), (20, (1, 2, 4)), (64, (2, 7, 5)), (96, (1, 1, 1))],
)
def test_a_pass_is_what_torch_makes_of_the_expression(channels, size, threads, dtype):
    x, y = (maps(channels, *size, seed=i).to(dtype) for i in range(2))
    scale = torch.randn(channels, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result, sums = mixed([x, y], [scale])
    finally:
        torch.set_num_threads(before)
    expected = torch.addcmul(y.double(), x.double(), scale.double().view(-1, 1, 1))
    torch.testing.assert_close(result.double(), expected, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = torch.stack([(x.double() * y.double()).sum((0, 2, 3)), y.double().sum((0, 2, 3))])
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-6)


def test_a_map_that_lies_otherwise_is_turned_around():
    x, y = maps(32, 2, 3, 4), maps(32, 2, 3, 4, seed=1)
    expected, _ = mixed([x, y], [torch.ones(32)])
    for other in (y.contiguous(), y.float(), y[:, :1].expand(-1, 32, -1, -1)):
        result, _ = mixed([x, other], [torch.ones(32)])
        assert torch.equal(result, mixed([x, other.bfloat16().clone()], [torch.ones(32)])[0])
    assert torch.equal(mixed([x, y.contiguous()], [torch.ones(32)])[0], expected)


def test_sums_of_many_pixels_are_as_exact_as_those_of_few():
    """Of a million a channel, where float32 alone would keep five digits."""
    x = (100 + maps(32, 4, 256, 1024)).contiguous(memory_format=torch.channels_last)
    _, (products, plain) = mixed([x, x], [torch.ones(32)])
    assert plain.tolist() == pytest.approx(x.double().sum((0, 2, 3)).tolist(), rel=5e-6)
    assert products.tolist() == pytest.approx(x.double().square().sum((0, 2, 3)).tolist(), rel=5e-6)


def test_values_are_rounded_as_torch_rounds_them():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (2000, CHANNELS), generator=generator, dtype=torch.int64).int()
    bits[:500] &= -(2**15)  # halfway between two, or exactly one
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 3.4e38, -3.4e38, 1e-45, -1e-39])
    values = torch.cat([bits.view(torch.float32), special.repeat(7)[:CHANNELS][None]])
    zero = -maps(CHANNELS, 1, 1, 1).mul(0).abs()  # -0, which adds nothing to -0 either
    found = torch.cat([written([zero], [row])[0].flatten()[None] for row in values])
    expected = values.bfloat16()
    assert torch.equal(found.isnan(), expected.isnan())
    is_number = ~expected.isnan()
    assert torch.equal(found[is_number].view(torch.int16), expected[is_number].view(torch.int16))


def test_exponentials_and_logarithms_are_exact_to_some_units():
    generator = torch.Generator().manual_seed(0)
    small = torch.cat([-88 * torch.rand(63, generator=generator), torch.zeros(1)])
    assert value_of(exp)(small).tolist() == pytest.approx(small.double().clamp(min=-87).exp().tolist(), rel=3e-7)
    large = torch.cat([1 + torch.rand(31), 10 ** (4 * torch.rand(32, generator=generator)), torch.ones(1)])
    assert value_of(log)(large).tolist() == pytest.approx(large.double().log().tolist(), rel=3e-7, abs=1e-7)


def test_what_is_no_number_stays_so():
    bad = torch.full((CHANNELS,), torch.nan)
    for function in (exp, log, lambda x: larger(x, 0.0), lambda x: where_positive(x, x)):
        assert value_of(function)(bad).isnan().all()
    assert torch.equal(value_of(exp)(torch.full((CHANNELS,), -torch.inf)) > 0, torch.ones(CHANNELS, dtype=bool))


def test_only_what_is_positive_passes():
    x = torch.cat([torch.tensor([0.0, -0.0, 1e-30, -1e-30, torch.inf, -torch.inf]), torch.randn(CHANNELS - 6)])
    found = value_of(lambda x: where_positive(x, x))(x)
    assert torch.equal(found, torch.relu(x).double())


@pytest.mark.parametrize(
    ("why", "x"),
    [
        ("float64", torch.zeros(1, 32, 2, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last)),
        ("float16", torch.zeros(1, 32, 2, 2, dtype=torch.float16).contiguous(memory_format=torch.channels_last)),
        ("class by class", torch.zeros(2, 32, 2, 2, dtype=torch.bfloat16)),
        ("pixels that fill no row", maps(16, 1, 3, 3)),
        ("no batch", torch.zeros(32, 2, 2, dtype=torch.bfloat16)),
        ("no image", torch.zeros(0, 32, 2, 2, dtype=torch.bfloat16)),
        ("no values", torch.zeros(1, 32, 2, 2, dtype=torch.bfloat16, device="meta")),
    ],
)
def test_other_maps_do_not_fit(why, x):
    assert not channels.fits(x)


def test_logits_fit_class_by_class():
    assert all(classes.fits(torch.zeros(1, 3, 5, 7, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert not any(
        classes.fits(x)
        for x in (
            torch.zeros(1, 3, 5, 5),
            torch.zeros(1, 3, 4, 8, dtype=torch.float64),
            torch.zeros(2, 3, 4, 8).contiguous(memory_format=torch.channels_last),
            torch.zeros(0, 3, 4, 8),
            torch.zeros(3, 4, 8),
        )
    )


def test_tensors_without_memory_of_their_own_are_not_read():
    x = maps(32, 2, 4, 4)
    seen = []
    vmap(lambda one: seen.append(channels.fits(one)) or one)(x[None])
    with torch.compiler.set_stance("force_eager"):
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode() as mode:
            seen.append(channels.fits(mode.from_tensor(x)))
    assert seen == [False, False]
    assert channels.fits(x)


def test_elsewhere_nothing_is_compiled(monkeypatch):
    ask = machine.is_available.__wrapped__
    assert ask()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not ask()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert not ask()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "_torch", lambda: object())
    assert not ask()


@pytest.mark.slow
def test_the_server_that_jobs_are_forked_from_compiles_for_all_of_them():
    code = "from segsweep.sweep import warm; from segsweep.kernels.classes import _sums; print(_sums.cache_info().currsize)"
    command = [sys.executable, "-c", f"{code}; import sys; sys.stdout.flush()"]
    found = [
        subprocess.run([*command, argument], capture_output=True, text=True, check=True).stdout.split()
        for argument in ("multiprocessing.forkserver", "another process")
    ]
    assert found == [["1" if pick_precision("cpu") == "bf16-mixed" else "0"], ["0"]]
