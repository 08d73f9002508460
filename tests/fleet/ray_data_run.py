"""Videos through Ray Data on this machine: the records as JSON on the last line of standard output.

Called with a folder, the place of the results, and the videos.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_IMPORT_WARNING="1")

import ray

from gmos_deploy.fleet import Segmenter, rows_of

SCRIPT = Path(__file__).with_name("colours_run.py")


def see_colours() -> None:
    """In every worker, before all else."""
    spec = importlib.util.spec_from_file_location("colours_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def main() -> None:
    folder, out, *videos = sys.argv[1:]
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
        _node_ip_address="127.0.0.1",
        runtime_env={"worker_process_setup_hook": see_colours, "env_vars": {"GMOS_TEST_FOLDER": folder}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    options = {"backend": "colours", "preset": "tiny", "variant": "gmos", "stride": 1, "save_mode": "mask"}
    records = (
        ray.data.from_items(rows_of(videos))
        .map_batches(
            Segmenter,
            fn_constructor_kwargs={"save_dir": out, **options},
            batch_size=1,
            num_cpus=1,
            num_gpus=0.5,
            concurrency=1,
        )
        .take_all()
    )
    sys.stdout.write("\n" + json.dumps(records) + "\n")
    ray.shutdown()


if __name__ == "__main__":
    main()
