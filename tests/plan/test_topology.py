import subprocess
import sys

import pytest

from wan_jax.chips import CHIPS, by_kind
from wan_jax.errors import WanError
from wan_jax.plan.topology import larger, parse_topology


def test_a_slice():
    topology = parse_topology("v5p:2x2x4")
    assert topology.chip is CHIPS["v5p"]
    assert topology.shape == (2, 2, 4)
    assert topology.name == "v5p:2x2x4"


@pytest.mark.parametrize(
    "text, said",
    [
        ("v9:2x4", "v5e, v5p, v6e"),
        ("v6e", "CHIP:AxB"),
        ("v6e:2xa", "CHIP:AxB"),
        ("v6e:2x2x2", "2 axes"),
        ("v6e:3x3", "even"),
        ("v6e:0x2", "16x16"),
        ("v5e:2x32", "16x16"),
    ],
)
def test_no_such_slice(text, said):
    with pytest.raises(WanError, match=said):
        parse_topology(text)


def test_larger_slices():
    slices, names = parse_topology("v6e:1x1"), []
    while slices := larger(slices):
        names.append(slices.name.partition(":")[2])
    assert names == ["2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
    assert larger(parse_topology("v5p:2x2x1")).shape == (2, 2, 2)
    assert larger(parse_topology("v5p:2x2x2")).shape == (2, 2, 4)
    assert larger(parse_topology("v5p:2x2x4")).shape == (2, 4, 4)


def test_chips_by_the_name_that_jax_gives():
    assert by_kind("TPU v6 lite").name == "v6e"
    assert by_kind("cpu") is None


def test_bad_input_is_one_line_and_needs_no_jax():
    script = (
        "import sys\nfrom wan_jax.cli import main\n"
        "try: main(['plan', '--topology', 'v9:2x4'])\n"
        "finally: assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 2
    assert not result.stdout
    assert result.stderr.count("\n") == 1
    assert "v9:2x4" in result.stderr
