"""Encoding on a local Ray cluster of two nodes, one of which dies."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ovd_envs.tasks.fiction import World
from retrieval_index import build_index, stages
from retrieval_index.encoders import HashingEncoder
from retrieval_index.errors import EncoderError, MissingPackageError

ray = pytest.importorskip("ray", reason='needs ray: pip install -e ".[cluster]"')


class SlowEncoder:
    """Notes on which node it works, and takes its time."""

    name, dimension, fingerprint = "slow", 64, "slow-1"

    def __init__(self, notes):
        self.notes = notes
        self.inner = HashingEncoder(64)

    def encode_passages(self, texts):
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        (Path(self.notes) / f"{node}-{time.time_ns()}").touch()
        time.sleep(0.1)
        return self.inner.encode_passages(texts)

    encode_queries = encode_passages


class WrongEncoder(SlowEncoder):
    def encode_passages(self, texts):
        return np.full((len(texts), 64), np.nan, dtype=np.float32)


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_DISABLE_MEMORY_MONITOR", "1")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield started
    ray.shutdown()
    started.shutdown()


def test_two_nodes_one_killed_give_the_same_vectors(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_SHARD", 16)
    monkeypatch.setattr(stages, "BATCH", 8)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    notes = tmp_path / "notes"
    notes.mkdir()
    passages = World(1000, seed=3).passages[:640]
    expected = HashingEncoder(64).encode_passages([passage.contents for passage in passages])

    def nodes():
        return {path.name.partition("-")[0] for path in notes.iterdir()}

    def kill_second():
        while len(nodes()) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_second, daemon=True)
    killer.start()
    index = build_index(
        passages, tmp_path / "i", SlowEncoder(str(notes)), bm25=False, ray=cluster.address
    )
    killer.join(30)
    assert not killer.is_alive()
    np.testing.assert_array_equal(index.vectors, expected)


def test_wrong_vectors_from_a_worker_name_the_passage(cluster, tmp_path):
    passages = World(1000, seed=3).passages[:40]
    with pytest.raises(EncoderError, match=f"gave passage {passages[0].id!r} a vector"):
        build_index(passages, tmp_path / "i", WrongEncoder(""), bm25=False, ray=cluster.address)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ray" else object)
    with pytest.raises(MissingPackageError, match=r"needs ray: pip install"):
        build_index(World(1000, seed=3).passages[:9], tmp_path / "i", bm25=False, ray="auto")
