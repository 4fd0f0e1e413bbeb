"""Which Beam runner does the work."""

from typing import Any

from recsys.config.ingest import IngestConfig


def pipeline_options(config: IngestConfig) -> Any:
    """Beam options of the configured runner.

    The Direct runner is named by its class: the plain name would first look for a Prism binary to download.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    if config.runner == "direct":
        several = config.workers > 1
        return PipelineOptions(
            flags=[],
            runner="apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
            pipeline_type_check=False,
            direct_num_workers=config.workers,
            direct_running_mode="multi_processing" if several else "in_memory",
        )
    flink = config.flink
    options: dict[str, Any] = {
        "runner": "PortableRunner",
        "job_endpoint": flink.job_endpoint,
        "environment_type": flink.environment_type,
        "parallelism": config.workers,
        "pipeline_type_check": False,
    }
    if flink.environment_config is not None:
        options["environment_config"] = flink.environment_config
    return PipelineOptions(flags=[], **options)
