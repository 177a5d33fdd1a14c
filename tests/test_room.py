"""Nothing large is fetched, converted or loaded where there is no room for it."""

import pytest

from wan_jax import WanPipeline, room
from wan_jax.errors import WanError

MEMINFO = "MemTotal:       100 kB\nMemAvailable:    64 kB\nHugePages_Total:       0\n"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with 64 KiB available; its container's files are to be written by the test."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    return tmp_path


def limit(host, most: str):
    (host / "memory.max").write_text(f"{most}\n")
    (host / "memory.current").write_text("30000\n")
    (host / "memory.stat").write_text("anon 20000\ninactive_file 4000\n")


def test_memory_of_a_host_and_of_a_container(host):
    assert room.free_host_bytes() == 64 << 10
    limit(host, "max")
    assert room.free_host_bytes() == 64 << 10
    limit(host, "50000")
    assert room.free_host_bytes() == 50000 - 30000 + 4000


def test_where_none_tells_nothing_is_refused(host):
    (host / "meminfo").unlink()
    assert room.free_host_bytes() is None
    room.check_memory("the model", 1 << 60, "")


def test_disk(tmp_path):
    here, free = room.free_disk_bytes(tmp_path / "not" / "yet")
    assert here == tmp_path and free > 0
    room.check_disk(tmp_path / "not" / "yet", 1)
    with pytest.raises(WanError, match=r"1152921504\.6 GB are needed and only .* are free"):
        room.check_disk(tmp_path / "not" / "yet", 1 << 60)


def test_a_model_that_the_host_cannot_hold_is_not_fetched(host, monkeypatch):
    from convert import folders

    monkeypatch.setattr(folders, "HfApi", None)  # so that asking the hub fails otherwise
    with pytest.raises(WanError, match=r"^model wan22_t2v_a14b takes 137\.5 GB of host memory and only 0\.0 GB"):
        WanPipeline.from_pretrained("wan22_t2v_a14b", vae_dtype="float32", dtype="float32")
