"""The engines that run the tables: DuckDB, and Spark on this machine where it is installed.

With GENREC_REQUIRE_SPARK set, a machine without it fails instead of skipping.
"""

import importlib.util
import itertools
import os
import shutil

import ibis
import pytest

numbers = itertools.count()


@pytest.fixture(scope="session")
def session():
    """Spark with two local workers."""
    absent = pytest.fail if os.environ.get("GENREC_REQUIRE_SPARK") else pytest.skip
    if importlib.util.find_spec("pyspark") is None:
        absent("pyspark is not installed: make spark installs it")
    if shutil.which("java") is None:
        absent("Spark needs Java")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    found = builder.config("spark.sql.shuffle.partitions", "2").getOrCreate()
    yield found
    found.stop()


@pytest.fixture
def duckdb(tmp_path):
    """A function from a data frame to a table of DuckDB."""
    return reader(ibis.duckdb.connect(), tmp_path)


@pytest.fixture
def spark(session, tmp_path):
    """A function from a data frame to a table of Spark."""
    return reader(ibis.pyspark.connect(session), tmp_path)


@pytest.fixture(params=["duckdb", "spark"])
def engine(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


def reader(connection, folder):
    def table(frame):
        path = folder / f"{next(numbers)}.parquet"
        frame.write_parquet(path)
        return connection.read_parquet(path)

    return table
