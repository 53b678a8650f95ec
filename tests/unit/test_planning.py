"""What is refused before any work is done."""

import pytest

from asd_core.config import System
from asd_core.pipeline import check
from asd_core.types import AsdError

STATISTICS = {"name": "statistics", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn"}}


def system(*branches, **more) -> System:
    return System(name="new", title="", idea="", family="", branches=list(branches), **more)


def test_batches_of_an_autoencoder_need_one():
    check(system(STATISTICS))
    with pytest.raises(AsdError, match="new: decision fit official_batch needs one branch"):
        check(system(STATISTICS, decision={"name": "gamma", "fit": "official_batch"}))


def test_a_kind_that_no_view_gives():
    bands = STATISTICS | {"scorer": {"name": "subband"}}
    with pytest.raises(AsdError, match="gives a vector, but a bands is needed: no view gives it, only an encoder"):
        check(system(bands))
