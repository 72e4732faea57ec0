"""Writes shards in other programs' forms.

    python jobs/export_corpus.py --input out/curated/shards --output out/tars --form webdataset

Forms: `arrow` (IPC files), `webdataset` (tars, the same bytes each time), `llava` (JSON and a folder of images).
"""

import sys

from pipelines import cli
from pipelines.curation.export import ExportConfig, export_corpus


def main() -> int:
    """Export what the command line names, and return the exit code."""
    config = cli.parse(ExportConfig)

    def job() -> None:
        done = export_corpus(config)
        print(f"{done['rows']:,} rows in {done['files']:,} {config.form} file(s), in {config.output}")

    return cli.run(job)


if __name__ == "__main__":
    sys.exit(main())
