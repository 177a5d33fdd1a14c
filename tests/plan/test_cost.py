"""The cost model on stored text: numbers worked out by hand from the program."""

import pathlib

import pytest

from wan_jax.chips import CHIPS
from wan_jax.plan.cost import read_cost
from wan_jax.plan.links import Slice

# jit of 8 scanned layers on v5e:4x4, mesh data 2 × context 8 (libtpu 0.0.52, shortened): per layer two products of
# [1024, 2048] and [2048, 2048] whose weights are gathered over context, one of them early; two exchanges around a
# Pallas kernel; the outer loop's bounds are arguments.
BLOCK = (pathlib.Path(__file__).parent / "block_v5e_4x4.hlo").read_text()
LAYERS, GATHERED, EXCHANGED = 8, 2048 * 2048 * 2, 1024 * 2048 * 2
V5E = Slice(CHIPS["v5e"], tuple((x, y, 0) for y in range(4) for x in range(4)))


@pytest.fixture(scope="module")
def block():
    return read_cost(BLOCK, V5E, lambda name: None)


def test_loops_multiply(block):
    assert {item.runs for item in block.items if item.source == "compiler"} == {LAYERS}
    assert block.cycles("matmul") == 2 * 71516 * LAYERS
    assert block.cycles("copy") == pytest.approx((2 * 8596 + 2 * 46240 + 600) * LAYERS, abs=1)  # and copies of counters
    assert block.cycles("other") == (54736 + 30498) * LAYERS


def test_bytes_and_times_of_collectives(block):
    assert block.collective_bytes == LAYERS * 2 * 7 / 8 * (GATHERED + EXCHANGED)
    # Groups are two rows of four chips.  A gather crosses from row to row with the four pieces of a row; in an exchange
    # the link between the second and the third column carries 2 sources × 2 columns × 2 rows messages.
    gather, exchange = 4 * GATHERED / 8 / 50e9, 8 * EXCHANGED / 8 / 50e9
    assert block.collective_s == pytest.approx(LAYERS * 2 * (gather + exchange))
    # A product and two copies take longer than the gather that was started before them.
    assert block.exposed_s == pytest.approx(LAYERS * (gather + 2 * exchange))
    assert block.seconds == pytest.approx(block.cycles() / 1.5e9 + block.exposed_s)


def test_kernels(block):
    moved = 2 * EXCHANGED / 800e9 * 1.5e9
    assert block.cycles("attention") == pytest.approx(LAYERS * moved)
    assert any("flash_x2" in note for note in block.notes)
    known = read_cost(BLOCK, V5E, {"flash_x2": 10 * moved}.get)
    assert known.cycles("attention") == pytest.approx(LAYERS * 10 * moved)
    assert not known.notes
    cheap = read_cost(BLOCK, V5E, {"flash_x2": 1.0}.get)
    assert cheap.cycles("attention") == pytest.approx(LAYERS * moved)
    elsewhere = read_cost(BLOCK.replace("self_attention", "cross_attention"), V5E, lambda name: None)
    assert elsewhere.cycles("attention") == 0


def test_a_move_without_an_estimate_costs_its_bytes():
    text = """
ENTRY %main (p: bf16[1,4,8190,1280]) -> bf16[1,32760,1280] {
  %p = bf16[1,4,8190,1280]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %r = bf16[1,32760,1280]{2,1,0:T(8,128)(2,1)} reshape(%p)
}
"""
    cost = read_cost(text, V5E, lambda name: None)
    assert cost.cycles("copy") == pytest.approx(2 * 4 * 8190 * 1280 * 2 / 800e9 * 1.5e9)


def test_the_bound_of_a_loop_may_come_from_outside():
    """The inner loop counts from 2 to the outer argument's third element in steps of 3; one branch is dearer."""
    text = """
%cheap (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %a = f32[8]{0} add(%x, %x), backend_config={"estimated_cycles":"10"}
}

%dear (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  ROOT %m = f32[8]{0} sine(%y), backend_config={"estimated_cycles":"100"}
}

%inner (i: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %i = (s32[], f32[8]{0}, s32[]) parameter(0)
  %i0 = s32[] get-tuple-element(%i), index=0
  %three = s32[] constant(3)
  %next = s32[] add(%i0, %three)
  %i1 = f32[8]{0} get-tuple-element(%i), index=1
  %which = pred[] constant(true)
  %c = f32[8]{0} conditional(%which, %i1, %i1), true_computation=%cheap, false_computation=%dear
  %i2 = s32[] get-tuple-element(%i), index=2
  ROOT %r = (s32[], f32[8]{0}, s32[]) tuple(%next, %c, %i2)
}

%below (j: (s32[], f32[8], s32[])) -> pred[] {
  %j = (s32[], f32[8]{0}, s32[]) parameter(0)
  %j0 = s32[] get-tuple-element(%j), index=0
  %j2 = s32[] get-tuple-element(%j), index=2
  ROOT %lt = pred[] compare(%j0, %j2), direction=LT
}

%outer (k: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %k = (s32[], f32[8]{0}, s32[]) parameter(0)
  %two = s32[] constant(2)
  %k1 = f32[8]{0} get-tuple-element(%k), index=1
  %k2 = s32[] get-tuple-element(%k), index=2
  %start = (s32[], f32[8]{0}, s32[]) tuple(%two, %k1, %k2)
  %w = (s32[], f32[8]{0}, s32[]) while(%start), condition=%below, body=%inner
  %w1 = f32[8]{0} get-tuple-element(%w), index=1
  %k0 = s32[] get-tuple-element(%k), index=0
  %one = s32[] constant(1)
  %more = s32[] add(%k0, %one)
  ROOT %s = (s32[], f32[8]{0}, s32[]) tuple(%more, %w1, %k2)
}

%few (l: (s32[], f32[8], s32[])) -> pred[] {
  %l = (s32[], f32[8]{0}, s32[]) parameter(0)
  %l0 = s32[] get-tuple-element(%l), index=0
  %five = s32[] constant(5)
  ROOT %lt.1 = pred[] compare(%l0, %five), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %ten = s32[] constant(10)
  %limit = s32[] copy(%ten)
  %begin = (s32[], f32[8]{0}, s32[]) tuple(%zero, %p, %limit)
  %o = (s32[], f32[8]{0}, s32[]) while(%begin), condition=%few, body=%outer
  ROOT %q = f32[8]{0} get-tuple-element(%o), index=1
}
"""
    cost = read_cost(text, V5E, lambda name: None)
    assert cost.cycles("other") == 5 * 3 * 100  # 2, 5, 8
