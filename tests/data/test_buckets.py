"""The sizes that clips are cut to."""

import pytest

from wan_jax.data.buckets import Bucket, check_lengths, check_sizes, longest_fitting, nearest_size, sizes_of_area
from wan_jax.errors import WanError


def test_sizes_of_the_usual_area():
    sizes = sizes_of_area(832, 480)
    assert sizes == [(480, 832), (544, 736), (624, 624), (736, 544), (832, 480)]
    check_sizes(sizes)


@pytest.mark.parametrize(
    "width, height, size",
    [(1920, 1080, (832, 480)), (1080, 1920, (480, 832)), (640, 480, (736, 544)), (500, 510, (624, 624))],
)
def test_pictures_go_where_the_least_is_cut_off(width, height, size):
    def lost(size):
        scale = max(size[0] / width, size[1] / height)
        return 1 - size[0] * size[1] / (width * scale * height * scale)

    sizes = sizes_of_area(832, 480)
    assert nearest_size(width, height, sizes) == size == min(sizes, key=lost)


def test_lengths():
    assert [longest_fitting(count, [81, 17, 49]) for count in (17, 48, 49, 80, 81, 500)] == [17, 17, 49, 49, 81, 81]
    with pytest.raises(WanError, match="too short: 16 frames of 17"):
        longest_fitting(16, [81, 17])


def test_impossible_ones():
    with pytest.raises(WanError, match="size 832x481: width and height must be multiples of 16"):
        check_sizes([(832, 480), (832, 481)])
    with pytest.raises(WanError, match=r"frames=80 is not 4n \+ 1, such as 81"):
        check_lengths([81, 80])
    with pytest.raises(WanError, match=r"frames=-3 is not 4n \+ 1, such as 1"):
        check_lengths([-3])


def test_names():
    assert str(Bucket(832, 480, 81)) == "832x480x81" and Bucket.parse("832x480x81") == Bucket(832, 480, 81)
