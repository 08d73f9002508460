"""gmos-run on a cluster of this machine: a head without CPUs and two nodes, each of one CPU and a pretended GPU.

    python tests/fleet/ray_cluster_run.py FOLDER GMOS_RUN_ARGUMENT...

All of it is on 127.0.0.1. Once a blue video waits (`colours_run.py`), the node that it is on is removed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DISABLE_IMPORT_WARNING="1",
    # As on systems where Ray has one node: else 127.0.0.1 is replaced by another address of this machine.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    # A node that has gone is noticed soon.
    RAY_health_check_initial_delay_ms="1000",
    RAY_health_check_period_ms="500",
    RAY_health_check_timeout_ms="1000",
)

import psutil
import ray
from ray.cluster_utils import Cluster

LOOPBACK = "127.0.0.1"
LIMIT_S = 60.0
SCRIPT = Path(__file__).with_name("colours_run.py")


def see_colours() -> None:
    """In every worker, before all else."""
    spec = importlib.util.spec_from_file_location("colours_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def remove_node(folder: Path, cluster: Cluster, nodes: list[Any]) -> None:
    """Take a node away in the middle of a video, and let the others go on."""
    until = time.monotonic() + LIMIT_S
    while not (folder / "waiting").exists() or not (folder / "waiting").read_text():
        if time.monotonic() > until:
            return
        time.sleep(0.05)
    place = (folder / "waiting").read_text()
    (node,) = (one for one in nodes if one.node_id == place)
    # With all that runs on it, as when a machine is lost: Ray alone would leave its workers alone for a moment.
    processes = [psutil.Process(process.pid) for _, process in node.live_processes()]
    lost = [child for one in processes for child in one.children(recursive=True)]
    cluster.remove_node(node, allow_graceful=False)
    for one in lost:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(lost, timeout=LIMIT_S)
    (folder / "removed").touch()
    (folder / "go").touch()


def main() -> None:
    folder = Path(sys.argv.pop(1))
    os.environ["GMOS_TEST_FOLDER"] = str(folder)
    common = {"node_ip_address": LOOPBACK, "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1, **common) for _ in range(2)]
    ray.init(
        address=cluster.address,
        configure_logging=False,
        runtime_env={"worker_process_setup_hook": see_colours, "env_vars": {"GMOS_TEST_FOLDER": str(folder)}},
    )
    see_colours()
    threading.Thread(target=remove_node, args=(folder, cluster, nodes), daemon=True).start()
    from gmos_deploy.cli import guarded, set_up_logging
    from gmos_deploy.commands.run import run_command

    set_up_logging("gmos-run", quiet=False)
    status = guarded(run_command, "gmos-run", sys.argv[1:])
    ray.shutdown()
    cluster.shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
