# ruff: noqa: INP001 - one file, copied to where the workers are
"""The sandbox of oncall-agent's Spark drills: a small application that breaks when its arguments say so.

Put it where every worker can read it, and name it in the submissions of `backends.spark`:

    sandbox.py                     small stages, for an hour
    sandbox.py once                one small stage
    sandbox.py stuck               a stage that does not end by itself; small ones once it was ended
    sandbox.py oom ENTRIES         builds an array of so many entries of 8 bytes in an executor
    sandbox.py stream CHECKPOINT [BATCHES]    a streaming query; after so many batches of this run it
                                   fails, and the application stays behind without it
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from pyspark import SparkContext

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PACE_SECONDS = 0.5
LIFE_SECONDS = 3_600


def sleeping(number: int) -> int:
    """Hold a task until its stage is ended."""
    time.sleep(LIFE_SECONDS)
    return number


def steady() -> None:
    """Do a little, again and again."""
    end = time.monotonic() + LIFE_SECONDS
    while time.monotonic() < end:
        once()
        time.sleep(PACE_SECONDS)


def once() -> None:
    """Count a few numbers."""
    SparkContext.getOrCreate().parallelize(range(10), 1).count()


def stuck() -> None:
    """Run a stage that hangs, and go on when somebody has ended it."""
    try:
        SparkContext.getOrCreate().parallelize([1], 1).map(sleeping).count()
    except Exception as error:  # noqa: BLE001 - whatever Spark makes of a stage that was ended
        sys.stderr.write(f"the stage was ended: {type(error).__name__}\n")
    steady()


def oom(entries: str) -> None:
    """Fill an executor's memory."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - the other modes do not need it, and it is slow

    spark = SparkSession.builder.getOrCreate()
    spark.range(0, 1, 1, 1).selectExpr(f"size(array_repeat(id, {int(entries)})) as n").collect()


def stream(checkpoint: str, batches: str = "0") -> None:
    """Count what a clock gives, a batch a second."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - as above

    taken: list[int] = []

    def take(_frame: DataFrame, number: int) -> None:
        taken.append(number)
        if 0 < int(batches) < len(taken):
            raise RuntimeError("the drill asks for a failed query")

    source = SparkSession.builder.getOrCreate().readStream.format("rate").load().writeStream
    query = source.queryName("sandbox").foreachBatch(take).option("checkpointLocation", checkpoint)
    try:
        query.trigger(processingTime="1 second").start().awaitTermination()
    except Exception as error:
        if not int(batches):
            raise
        sys.stderr.write(f"the query has ended: {type(error).__name__}\n")
        steady()


if __name__ == "__main__":
    modes = {"steady": steady, "once": once, "stuck": stuck, "oom": oom, "stream": stream}
    mode, *rest = sys.argv[1:] or ["steady"]
    modes[mode](*rest)
