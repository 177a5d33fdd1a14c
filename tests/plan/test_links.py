"""Groups in all notations of XLA, and loads of links counted by hand."""

import pytest

from wan_jax.chips import CHIPS
from wan_jax.plan.links import Slice, replica_groups

LINE = tuple((x, 0, 0) for x in range(4))


@pytest.mark.parametrize(
    "text",
    [
        "replica_groups={{0,2},{1,3}}, dimensions={0}",
        "replica_groups=[2,2]<=[2,2]T(1,0), use_global_device_ids=true",
        "channel_id=1, replica_groups=mesh['a'=2,'b'=2] {'a'}, dimensions={1}",
    ],
)
def test_groups(text):
    assert replica_groups(text, 4) == ((0, 2), (1, 3))


def test_groups_of_all_and_in_order():
    assert replica_groups("replica_groups={}, x", 3) == ((0, 1, 2),)
    assert replica_groups("replica_groups=[2,2]<=[4]", 4) == ((0, 1), (2, 3))
    assert replica_groups("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", 4) == ((0, 1, 2, 3),)
    assert replica_groups("replica_groups=mesh['a'=1,'b'=8] {'b':(1)4}", 8) == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert replica_groups("replica_groups=mesh['a'=1,'b'=8] {'b':(2)4}", 8) == ((0, 1, 2, 3), (4, 5, 6, 7))
    with pytest.raises(ValueError, match="groups"):
        replica_groups("replica_groups=something else", 4)


def test_a_line_has_no_way_round():
    line = Slice(CHIPS["v6e"], LINE)
    everyone = ((0, 1, 2, 3),)
    assert line.gather(everyone) == 3  # all that the chip at the end lacks comes over its one link
    assert line.exchange(everyone) == 4  # two chips on either side of the middle
    assert line.permute(((0, 1), (1, 2), (2, 3), (3, 0))) == 1  # the way back uses the other direction
    assert line.gather(((0, 1), (2, 3))) == 1


def test_a_torus_goes_the_short_way():
    cube = Slice(CHIPS["v5p"], tuple((x, y, z) for z in range(4) for y in range(4) for x in range(4)))
    assert len(cube.route(0, 3)) == 1  # (0,0,0) → (3,0,0)
    assert cube.gather(((0, 1, 2, 3),)) == 2  # two pieces one way round, one the other
    part = Slice(CHIPS["v5p"], tuple((x, y, z) for z in range(4) for y in range(2) for x in range(2)))
    assert len(part.route(0, 12)) == 3  # (0,0,0) → (0,0,3)
