"""An application's metrics: what is told of them, and when."""

from __future__ import annotations

import threading

import pytest
from dspex_worker import App
from dspex_worker.metrics import Metrics


def test_what_is_told_is_what_has_changed() -> None:
    metrics = Metrics()
    done = metrics.counter("done", "Jobs done.", labels=("kind",))
    open_jobs = metrics.gauge("open")
    size = metrics.histogram("size", buckets=(1, 10))
    assert metrics.take() == []
    done.inc(kind="pdf")
    done.inc(2, kind="pdf")
    done.inc(kind=3)
    open_jobs.set(5)
    open_jobs.inc(-2)
    for value in (0.5, 1, 3, 11):
        size.observe(value)
    first = {report["name"]: report for report in metrics.take()}
    assert first["dspex_app_done_total"] == {
        "name": "dspex_app_done_total",
        "kind": "counter",
        "help": "Jobs done.",
        "labels": ["kind"],
        "series": [{"values": ["pdf"], "value": 3.0}, {"values": ["3"], "value": 1.0}],
    }
    assert first["dspex_app_open"]["series"] == [{"values": [], "value": 3}]
    assert first["dspex_app_size"]["series"] == [{"values": [], "value": 15.5, "counts": [2, 1, 1]}]
    assert first["dspex_app_size"]["buckets"] == [1.0, 10.0]
    assert metrics.take() == []
    open_jobs.inc()
    assert [report["series"] for report in metrics.take()] == [[{"values": [], "value": 4}]]


def test_a_name_stands_for_one_metric() -> None:
    metrics = App(use_dspy=False).metrics
    assert metrics.counter("a") is metrics.counter("a_total")
    with pytest.raises(ValueError, match="is a counter"):
        metrics.gauge("a_total")
    with pytest.raises(ValueError, match="with the labels"):
        metrics.counter("a", labels=("x",))
    for name, labels in (("a-b", ()), ("", ("é",)), ("b", ("le",)), ("c", tuple("abcdefghi"))):
        with pytest.raises(ValueError, match="letters, digits"):
            metrics.counter(name, labels=labels)
    with pytest.raises(ValueError, match="label twice"):
        metrics.counter("d", labels=("x", "x"))
    metrics.histogram("size")
    metrics.gauge("length_sum")
    for make in (
        lambda: metrics.gauge("size_count"),
        lambda: metrics.histogram("length"),
        lambda: metrics.counter("samples_dropped"),
    ):
        with pytest.raises(ValueError, match="samples of the same name"):
            make()
    with pytest.raises(ValueError, match="buckets"):
        metrics.histogram("h", buckets=(2, 1))


def test_what_cannot_be_counted() -> None:
    metrics = Metrics()
    counter, gauge, histogram = metrics.counter("c", labels=("x",)), metrics.gauge("g"), metrics.histogram("h")
    for amount in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="grows by"):
            counter.inc(amount, x="1")
    with pytest.raises(ValueError, match="labels"):
        counter.inc(y="1")
    with pytest.raises(ValueError, match="stands at"):
        gauge.set(float("inf"))
    with pytest.raises(ValueError, match="counts numbers"):
        histogram.observe(float("nan"))
    assert metrics.take() == []


def test_a_gauge_has_so_many_series_at_most() -> None:
    metrics = Metrics()
    gauge = metrics.gauge("g", labels=("id",))
    for number in range(500):
        gauge.set(1, id=number)
    (report,) = metrics.take()
    assert {series["values"][0] for series in report["series"]} == {*map(str, range(200)), "499"}  # which is dropped
    assert metrics.take() == []


def test_threads_count_together_and_the_first_change_is_told() -> None:
    metrics, told = Metrics(), []
    counter = metrics.counter("c")
    counter.inc(7)
    metrics.begin(lambda: told.append(1))  # a new worker: what was counted before is not its own

    def count() -> None:
        for _ in range(1000):
            counter.inc()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert metrics.take()[0]["series"] == [{"values": [], "value": 8000.0}]
    counter.inc()
    assert len(told) == 2
