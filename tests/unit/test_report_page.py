# SPDX-License-Identifier: GPL-2.0-only
"""The report: which samples it shows, what it says to each claim, what the page needs."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import pytest

from harness.errors import FalconError
from harness.lab import campaign, experiments, selection, stages, timed
from harness.lab.campaign import Row
from harness.lab.experiments import COUNTED, EXPERIMENTS, INSTRUCTIONS, TIME, TIMED
from harness.lab.instructions import Sample
from harness.lab.loads import Load, MemcachedLoad, TcpLoad, UdpLoad
from harness.lab.verdicts import IN_PART, NOT_MEASURABLE, NOT_MEASURED, STATES
from harness.machine import accel
from harness.overlay.modes import MODES
from harness.report import evidence, page, plots
from harness.report import instructions as reports
from harness.report.evidence import Evidence, Kernel
from harness.workload.latency import Latencies

RELEASE = "6.12.7-falcon"
ROUNDS = 3
CONTEXT = {
    "measure": "instructions",
    "kernel": RELEASE,
    "packets": 10_000,
    "cpus": 7,
    "host": "x86_64, Linux 6.1.0",
    "hardware": "AMD EPYC 7B13, 8 CPUs, 31 GiB",
    "qemu": "7.2.22 (Debian)",
    "commit": "abcdef012345",
    "command": "./inv bench --all & <more>",
    "started": "2025-11-25T08:00:00+00:00",
}


BY_TIME = {
    **{name: value for name, value in CONTEXT.items() if name != "packets"},
    **{"measure": TIME, "seconds": 5.0, "accel": "kvm", "host_cpus": 8},
}
MEASURES = evidence.MEASURES[INSTRUCTIONS]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(campaign, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def kvm() -> Iterator[None]:
    """It works, but for a test that says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accel, "kvm_trouble", lambda: "")
        patch.setattr(timed, "host_cpus", lambda: 8)
        yield


def sample(mode: str, number: int, busiest: float = 1000.0) -> Sample:
    """Less on the busiest CPU the later a mode stands in the list, and it differs by round."""
    busiest *= (1 + 0.07 * number) * (1 - 0.05 * list(MODES).index(mode))
    stage = (50.0, 300.0, 20.0, 10.0)
    return Sample(
        mode=mode,
        round=number,
        delivered=10_000,
        lost=1,
        out_of_order=0,
        sent_per_second=4000.0,
        softirqs=0.1 * len(mode),
        stages=3.0,
        work=(busiest, *stage[number:], *stage[:number], 600.0),
        groups={"VXLAN": busiest, "socket": 900.0, "bridge": 80.0, "idle": 5000.0},
    )


def sample_by_time(mode: str, number: int) -> timed.Sample:
    """Faster the later a mode stands in the list, and it differs by round."""
    speed = (1 + 0.07 * number) * (1 + 0.1 * list(MODES).index(mode))
    microseconds = (200, 150, 300, 400, 500, 900)
    names = ("mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")
    return timed.Sample(
        mode=mode,
        round=number,
        delivered=10_000,
        lost=1,
        out_of_order=None if mode == "host" else 0,
        unit="messages",
        rate=2000 * speed,
        asked=0.0,
        errors=2,
        softirqs=1500.0,
        busy=(90.0, 30.0 * number, 40.0, 20.0, 10.0, 99.0),
        latency=Latencies(**{n: us / speed for n, us in zip(names, microseconds, strict=True)}),
        stages=3.0,
    )


def rows_of(figure: str, *, points: int | None = None, rounds: int = ROUNDS, **context: Any):
    """Every mode in so many rounds of the first points, all by default."""
    experiment = EXPERIMENTS[figure]
    by_time = experiment.measure == TIME
    made, origin = (sample_by_time, BY_TIME) if by_time else (sample, CONTEXT)
    return [
        Row(figure, point.label, made(mode, number), origin | context)
        for point in experiment.points[:points]
        for number in range(rounds)
        for mode in experiment.modes
    ]


def keep(rows: list[Row], release: str = RELEASE) -> None:
    for row in rows:
        path = campaign.file_of(release, row.figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(row.to_json() + "\n")


def keep_all(release: str = RELEASE) -> None:
    """What can be measured anywhere."""
    for figure in COUNTED:
        keep(rows_of(figure, kernel=release), release)


def selected(figure: str, rows: list[Row]) -> list[Row]:
    return selection.select(EXPERIMENTS[figure], rows)


def the_kernel() -> Kernel:
    (kernel,) = evidence.collect()
    return kernel


class Parsed(HTMLParser):
    """The page's elements with their attributes, and its rows of cells."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def values(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]

    def texts(self) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two kernels, one of which has but one figure, drawn once for many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "RESULTS", tmp_path_factory.mktemp("results"))
        keep_all()
        keep(rows_of("19", kernel="6.1.5-falcon"), "6.1.5-falcon")
        return page.render(evidence.collect())


# ---- which samples are shown -----------------------------------------------------------------


def test_rounds_that_were_cut_short_are_left_out() -> None:
    whole = rows_of("19")
    assert selected("19", whole[:-1]) == [row for row in whole if row.sample.round < ROUNDS - 1]
    assert selected("19", whole[:3]) == []


def test_a_mode_that_the_figure_has_no_more_is_left_out() -> None:
    whole = rows_of("19")
    assert selected("19", [*whole, replace(whole[0], sample=sample("rps-pipe", 0))]) == whole


def test_a_point_that_was_measured_again_counts_once() -> None:
    first = rows_of("19", started="2025-11-25T07:00:00+00:00")[:-1]
    again = rows_of("19", started="2025-11-25T09:00:00+00:00")
    assert selected("19", first + again) == again
    assert selected("19", again + first) == again


def test_a_figure_that_was_cut_short_goes_on_in_another_run() -> None:
    before = rows_of("10", points=2)
    whole = rows_of("10", started="2025-11-26T09:00:00+00:00")
    after = [row for row in whole if row.point not in ("16 B", "256 B")]
    assert selected("10", after + before) == before + after


LATER = "2025-11-26T09:00:00+00:00"
TWO_MODES = ("con", "falcon")


def in_two_modes(figure: str, rounds: int = ROUNDS, **context: Any) -> list[Row]:
    """As with --modes con,falcon."""
    rows = rows_of(figure, rounds=rounds, modes=list(TWO_MODES), **context)
    return [row for row in rows if row.sample.mode in TWO_MODES]


def test_an_attempt_with_all_modes_is_better_than_one_with_more_rounds_of_some() -> None:
    all_modes = rows_of("19")
    some = in_two_modes("19", rounds=4 * ROUNDS, started=LATER)
    assert len(some) > len(all_modes)
    assert selected("19", all_modes + some) == all_modes


@pytest.mark.parametrize(
    ("other", "is_better"),
    [
        ({"commit": "fedcba", "started": LATER}, True),
        ({"commit": "fedcba", "started": "2025-01-01T00:00:00+00:00"}, False),
        ({"commit": "fedcba", "started": LATER, "points": 1}, False),
        ({"packets": campaign.QUICK_PACKETS, "started": LATER}, False),
        ({"cpus": 9, "started": LATER}, True),
        ({"qemu": "9.0.0", "started": LATER}, True),
        ({"qemu": None}, False),
    ],
)
def test_samples_of_different_conditions_never_mix(other: dict[str, Any], is_better: bool) -> None:
    ours, others = rows_of("4"), rows_of("4", **other)
    assert selected("4", ours + others) == (others if is_better else ours)


# ---- what it says -------------------------------------------------------------------------------


def test_a_claim_has_an_experiment_or_a_reason() -> None:
    covered = {name for experiment in EXPERIMENTS.values() for name in experiment.claims}
    assert {n for n, claim in experiments.claims().items() if not claim.unmeasured} == covered


def test_every_claim_has_a_state() -> None:
    keep_all()
    kernel = the_kernel()
    named = [finding.verdict.claim.name for finding in kernel.findings]
    assert named == [f"E{number}" for number in range(1, 27)]
    assert sum(kernel.counts.values()) == 26
    assert all(count for state, count in kernel.counts.items() if state != IN_PART)
    assert kernel.counts[NOT_MEASURABLE] == 1
    counts = ", ".join(f"{kernel.counts[state]} {state}" for state in STATES)
    assert kernel.summary() == f"Linux {RELEASE}: {counts}"


def test_what_was_not_measured_is_told_apart_from_what_has_no_whole_round() -> None:
    keep(rows_of("4"))
    keep(rows_of("19")[:2])
    said = {f.verdict.claim.name: (f.state, f.verdict.said) for f in the_kernel().findings}
    yet = "not measured on this kernel yet"
    assert said["E21"] == (NOT_MEASURED, f"figure 16: {yet}; figure 16, by time: {yet}")
    assert said["E12"] == (NOT_MEASURED, f"figure 12, by time: {yet}")
    assert said["E10"] == (NOT_MEASURED, f"figure 10: {yet}; figure 10, by time: {yet}")
    assert said["E25"][1].startswith("figure 19: no round is whole; ")
    assert said["E6"][0] != NOT_MEASURED


def test_without_kvm_time_is_not_measurable_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that instructions speak to, too, is one that was not measured yet."""
    trouble = "there is no /dev/kvm"
    monkeypatch.setattr(accel, "kvm_trouble", lambda: trouble)
    keep(rows_of("4"))
    keep(rows_of("18-time"))
    said = {f.verdict.claim.name: (f.state, f.verdict.said) for f in the_kernel().findings}
    here = f"time takes KVM or real hosts, and {trouble}"
    assert said["E12"] == (NOT_MEASURABLE, f"figure 12, by time: {here}")
    assert said["E10"][0] == NOT_MEASURED and said["E10"][1].endswith(here)
    assert said["E24"][0] not in (NOT_MEASURABLE, NOT_MEASURED), "it was measured elsewhere"


def test_with_too_few_cpus_time_is_not_measurable_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "host_cpus", lambda: 4)
    keep(rows_of("4"))
    (finding,) = (f for f in the_kernel().findings if f.verdict.claim.name == "E12")
    assert finding.state == NOT_MEASURABLE
    assert finding.verdict.said.endswith("6 virtual CPUs share 4 real ones at least")


def test_a_verdict_on_some_of_the_points_says_so() -> None:
    keep(rows_of("13", points=2))
    (finding,) = (f for f in the_kernel().findings if f.verdict.claim.name == "E16")
    assert finding.verdict.said.endswith("(2 of 4 points)")


@pytest.mark.parametrize("line", [None, "6.12", "6.1"])
def test_nothing_to_report_is_one_line(line: str | None) -> None:
    if line == "6.1":
        keep_all()  # of 6.12, which is not 6.1
    with pytest.raises(FalconError, match=r"nothing to report.*\./inv bench --all") as error:
        evidence.collect(line)
    assert "\n" not in str(error.value)
    assert (f"--kernel {line}" in str(error.value)) is bool(line)


def test_the_newest_kernel_comes_first_and_one_line_can_be_chosen() -> None:
    for release in ("6.1.192-falcon", "6.12.9-falcon", "6.12.117-falcon", "5.4.286-falcon"):
        keep(rows_of("4"), release)
    releases = [kernel.release for kernel in evidence.collect()]
    assert releases == ["6.12.117-falcon", "6.12.9-falcon", "6.1.192-falcon", "5.4.286-falcon"]
    assert [kernel.release for kernel in evidence.collect("6.1")] == ["6.1.192-falcon"]


# ---- loads of one's own -------------------------------------------------------------------------


def own_rows(load: Load, *modes: str, by_time: bool = False, **context: Any) -> list[Row]:
    """As `bench` keeps them of a load that is none of the paper's."""
    one = experiments.single(load, modes, by_time)
    made, origin = (sample_by_time, BY_TIME) if one.measure == TIME else (sample, CONTEXT)
    context = origin | {"modes": list(modes)} | context
    (point,) = one.points
    return [
        Row(one.key, point.label, made(mode, number), context)
        for number in range(ROUNDS)
        for mode in modes
    ]


def test_loads_of_ones_own_are_reported_without_claims(tmp_path: Path) -> None:
    """Each in a section; of other commits and to other baselines, too."""
    keep(own_rows(UdpLoad(64, flows=2), "con", "falcon"))
    keep(own_rows(TcpLoad(4096), "falcon", "con", commit="fedcba"))
    keep(own_rows(TcpLoad(4096), "con", "falcon"))
    keep(own_rows(MemcachedLoad(550, flows=4), "con", "falcon"))
    kernel = the_kernel()
    assert [one.experiment.key for one in kernel.measured] == [
        *("own-1", "own-2", "own-3", "own-4-time")
    ]
    assert [one.experiment.baseline for one in kernel.measured] == ["con", "falcon", "con", "con"]
    assert len(kernel.findings) == 26 and not any(f.figure for f in kernel.findings)
    written = page.write([kernel], tmp_path)
    text = unescape(written.read_text())
    assert "A load of one's own: 2 UDP flows of 64 bytes a message to a container" in text
    assert "A load of one's own, by time: 4 MEMCACHED flows" in text
    assert "What the paper claims" not in text
    ids = Parsed(text).values("id")
    assert f"linux-{RELEASE}-figure-own-4-time" in ids and len(ids) == len(set(ids))
    data = json.loads(written.with_name("report.json").read_text())
    assert len(data["samples"]) == 4 * 2 * ROUNDS and all(row["shown"] for row in data["samples"])
    falcon = next(n for n in data["numbers"] if (n["figure"], n["mode"]) == ("own-1", "falcon"))
    assert falcon["capacity"]["ratio"]["median"] > 1


def test_a_load_of_ones_own_in_more_modes_is_the_better_attempt() -> None:
    keep(own_rows(UdpLoad(64), "con", "falcon", started=LATER))
    whole = own_rows(UdpLoad(64), "con", "rps-pipe", "falcon")
    keep(whole)
    (one,) = the_kernel().measured
    assert one.shown == whole and one.modes == ["con", "rps-pipe", "falcon"]


def test_a_load_that_is_not_known_stops_no_report(capsys: pytest.CaptureFixture[str]) -> None:
    keep(rows_of("4"))
    keep([replace(row, point="a load of before") for row in own_rows(UdpLoad(64), "con")])
    assert [one.experiment.key for one in the_kernel().measured] == ["4"]
    assert "there is no load a load of before; its samples are left out" in capsys.readouterr().err


# ---- the page -----------------------------------------------------------------------------------


def test_every_claim_is_on_the_page_once_with_a_state_for_each_kernel(html: str) -> None:
    bodies = re.findall(r'<tbody id="(E\d+)">(.*?)</tbody>', html, re.DOTALL)
    assert [name for name, _ in bodies] == list(experiments.claims())
    for name, body in bodies:
        states = re.findall(r'<span class="verdict (yes|no|none)">', body)
        claim = experiments.claims()[name]
        assert len(states) == (1 if claim.unmeasured else 2)
        if claim.unmeasured:
            assert states == ["none"]
            assert page.together(claim.unmeasured) in unescape(body)


def ratio_by_hand(point: str, mode: str, baseline: str, of: Callable[[Sample], float]) -> float:
    rows = [row for row in rows_of("13") if row.point == point]
    by_round = {(row.sample.round, row.sample.mode): of(row.sample) for row in rows}
    return median(by_round[n, mode] / by_round[n, baseline] for n in range(ROUNDS))


def test_ratios_on_the_page_are_those_of_the_rounds(html: str) -> None:
    rows = Parsed(html).texts()
    column = next(row for row in rows if "capacity, con = 1" in row).index("capacity, con = 1")
    expected = ratio_by_hand("8", "falcon", "con", lambda sample: 1 / sample.busiest)
    of_falcon = [row for row in rows if row[:3] == ["8", "falcon", str(ROUNDS)]]
    assert [row[column] for row in of_falcon] == [f"{expected:.2f}"]
    assert expected != 1


def test_every_number_has_its_kernel_commit_machine_and_command(html: str) -> None:
    origins = [row for row in Parsed(html).texts() if CONTEXT["commit"] in row]
    assert len(origins) == len(COUNTED) + 1
    wanted = [row for row in Parsed(html).texts() if row[0].endswith("at least 1.5 times con")]
    (of_one,) = (one.goals[0] for one in [Evidence(COUNTED["10"], (), rows_of("10"))])
    assert wanted == [[of_one.goal, of_one.said, of_one.told]]
    told = ("kernel", "commit", "host", "hardware", "qemu", "cpus", "packets", "started", "command")
    assert origins[0][1:] == [str(CONTEXT[name]) for name in told]


def test_samples_of_which_less_is_known_are_shown() -> None:
    known = {name: value for name, value in CONTEXT.items() if name not in ("hardware", "qemu")}
    keep([replace(row, context=known) for row in rows_of("19")])
    text = page.render(evidence.collect())
    (origin,) = (row for row in Parsed(text).texts() if CONTEXT["commit"] in row)
    told = ("kernel", "commit", "host", "cpus", "packets", "started", "command")
    assert origin[1:] == [str(known[name]) for name in told]
    assert "QEMU</th>" not in text


def test_text_of_the_results_is_no_markup(html: str) -> None:
    assert "&amp; &lt;more&gt;" in html and "<more>" not in html


def pictures(html: str) -> list[str]:
    addresses = [attrs["src"] for tag, attrs in Parsed(html).elements if tag == "img"]
    start = "data:image/svg+xml;base64,"
    assert all(address and address.startswith(start) for address in addresses)
    return [base64.b64decode(a.removeprefix(start)).decode() for a in addresses if a]


def test_the_page_refers_to_nothing_outside(html: str) -> None:
    parsed = Parsed(html)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    links = parsed.values("href")
    assert (
        links and {link[0] for link in links} == {"#"} and {link[1:] for link in links} <= set(ids)
    )
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import|srcset", html)
    for picture in pictures(html):
        inside = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', picture)
        assert all((link or url).startswith("#") for link, url in inside)


def test_a_picture_shows_modes_and_medians(html: str) -> None:
    texts = ["".join(ElementTree.fromstring(svg).itertext()) for svg in pictures(html)]
    assert len(texts) == 2 * (len(COUNTED) + 1) + sum(
        len(Evidence(EXPERIMENTS[figure], (), ()).measures) for figure in (*COUNTED, "19")
    )
    expected = ratio_by_hand("8", "falcon+split", "con", lambda sample: 1 / sample.busiest)
    (capacity,) = (t for t in texts if "flows: 8" in t and "con = 1" in t)
    assert "falcon+split" in capacity and f"{expected:.2f}" in capacity


def test_the_same_samples_give_the_same_page() -> None:
    keep(rows_of("19"))
    assert page.render(evidence.collect()) == page.render(evidence.collect())


def test_notes_say_what_a_reader_must_know() -> None:
    keep(rows_of("13cd", points=2, packets=campaign.QUICK_PACKETS))
    keep(rows_of("13cd", points=1, commit="fedcba"))
    text = page.render(evidence.collect())
    assert "a write of 4096 bytes" in text
    assert "Not measured: flows 4." in text
    assert "A quick run" in text and "Cut short" not in text
    assert f"{ROUNDS * len(EXPERIMENTS['13cd'].modes)} more samples are not shown" in text


def test_points_of_different_modes_stand_in_one_figure(tmp_path: Path) -> None:
    """As where a figure was measured in two modes, and in all of them up to its first point."""
    keep(in_two_modes("13"))
    keep(rows_of("13", points=1, started=LATER))
    written = page.write(evidence.collect(), tmp_path)
    text = written.read_text()
    told = "; ".join(f"flows {flows}: con, falcon" for flows in ("2", "4", "8"))
    assert f"Not measured in all of these modes, but in: {told}." in text
    rows = [row[:3] for row in Parsed(text).texts() if row[0] in ("1", "2") and row[2:3] == ["3"]]
    assert rows == [
        *(["1", mode, "3"] for mode in EXPERIMENTS["13"].modes),
        *(["2", mode, "3"] for mode in TWO_MODES),
    ]
    in_groups = [row for row in Parsed(text).texts() if row[:2] == ["2", "socket"]]
    assert in_groups == [["2", "socket", "-", "900", "-", "900", "-"]]
    numbers = json.loads(written.with_name("report.json").read_text())["numbers"]
    assert [n["mode"] for n in numbers if n["point"] == "2"] == list(TWO_MODES)


def test_numbers_stay_with_their_units() -> None:
    assert page.together("at 16 B: -3%, 87 % of 4 KB") == (
        "at 16\N{NO-BREAK SPACE}B:\N{NO-BREAK SPACE}\N{MINUS SIGN}3%,"
        " 87\N{NO-BREAK SPACE}% of 4\N{NO-BREAK SPACE}KB"
    )


# ---- pictures ---------------------------------------------------------------------------------


def test_work_is_told_apart_by_group_and_by_role() -> None:
    assert page.work_groups(sample("host", 0)) == {"VXLAN": 1000.0, "socket": 900.0, "bridge": 80.0}
    roles = page.by_role(sample("host", 1).work)
    assert list(roles.items()) == [
        *(("NIC", 1070.0), ("stage CPU 1", 300.0), ("stage CPU 2", 50.0)),
        *(("stage CPU 3", 20.0), ("stage CPU 4", 10.0), ("receiver", 600.0)),
    ]


def test_parts_add_up() -> None:
    keep(rows_of("19"))
    one = the_kernel().figures["19"]
    parts = one.parts("16 B", "falcon", lambda sample: page.by_role(sample.work))
    total = MEASURES["total"].counted
    works = [total(s) for s in one.samples("16 B") if s.mode == "falcon"]
    assert sum(parts.values()) == pytest.approx(sum(works) / ROUNDS)


def apart(row: Row) -> Row:
    """With a CPU for each stage, in the order in which masks have them."""
    work = {
        "host": (900.0, 5.0, 800.0, 5.0, 5.0, 700.0),
        "con": (1200.0, 5.0, 9200.0, 5.0, 5.0, 1000.0),
    }
    own = work.get(row.sample.mode, (1200.0, 1700.0, 1500.0, 1400.0, 5.0, 1000.0))
    return replace(row, sample=replace(row.sample, work=own))


def test_stages_are_told_apart_where_one_flow_has_cpus_for_them() -> None:
    keep([apart(row) for row in (*rows_of("10", points=1), *rows_of("13"))])
    rows = Parsed(page.render(evidence.collect())).texts()
    columns = ["mode", "NIC", "GRO", "OUTER", "BRIDGE", "INNER", "APP", "all"]
    heads = [n for n, row in enumerate(rows) if row[1:] == columns]
    assert [rows[n][0] for n in heads] == ["packet size", "flows"]
    assert rows[heads[1] + 1 :][:4] == [
        ["1", "host", "900", "-", "-", "-", "800", "700", "2,400"],
        ["1", "con", "1,200", "-", "3,400", "3,000", "2,800", "1,000", "11,400"],
        ["1", "rps-pipe", "1,200", "-", "1,700", "1,500", "1,400", "1,000", "6,800"],
        ["1", "falcon", "1,200", "-", "1,700", "1,500", "1,400", "1,000", "6,800"],
    ]
    assert len(rows[heads[1] + 5]) < len(columns), "nor do several flows, which meet on CPUs"


def test_where_nothing_tells_stages_apart_there_is_no_table_of_them(html: str) -> None:
    assert reports.BY_STAGE not in html


def test_functions_are_shown_on_the_cpus_that_ran_them() -> None:
    """In the order of their work, whichever CPU that is in a round; idle ones are left out."""

    def told(row: Row) -> Row:
        of_stages = [{"VXLAN": work, "idle": 9.0} for work in row.sample.work[1:-1]]
        by_cpu = ({"NIC driver": row.sample.work[0]}, *of_stages, {"socket": 600.0})
        return replace(row, sample=replace(row.sample, cpu_groups=by_cpu))

    rows = [told(row) for row in rows_of("19")]
    assert page.groups_of(rows[-1].sample, "stage CPU 1") == {"VXLAN": 300.0}
    keep(rows)
    text = page.render(evidence.collect())
    assert "What runs on which CPU, packet size: 16 B" in text
    own = [row[1:] for row in Parsed(text).texts() if row[0] == "falcon" and len(row) == 4]
    assert own == [
        ["NIC", "NIC driver", "856"],
        *(["stage CPU 1", "VXLAN", "300"], ["stage CPU 2", "VXLAN", "50"]),
        ["receiver", "socket", "600"],
    ]
    picture = pictures(text)[-1]
    assert "stage CPU 2" in picture and "stage CPU 4" not in picture


def test_colours_are_of_modes_and_groups_that_there_are() -> None:
    assert set(plots.MODE_COLOURS) == set(MODES)
    assert set(plots.GROUP_COLOURS) <= set(stages.names())


# ---- files ------------------------------------------------------------------------------------


def test_page_json_and_csv_are_written(tmp_path: Path) -> None:
    keep(rows_of("19")[:-1])
    written = page.write(evidence.collect(), tmp_path / "new" / "report")
    assert written == tmp_path / "new" / "report" / "report.html"
    data = json.loads(written.with_name("report.json").read_text())
    assert len(data["findings"]) == 26 and data["goals"] == []
    number = next(n for n in data["numbers"] if (n["figure"], n["mode"]) == ("19", "falcon"))
    busiest = sorted(sample("falcon", n).busiest for n in range(ROUNDS - 1))
    assert number["capacity"]["counted"] == {
        "median": pytest.approx(sum(busiest) / 2),
        "least": busiest[0],
        "greatest": busiest[-1],
    }
    lines = list(csv.DictReader(io.StringIO(written.with_name("samples.csv").read_text())))
    assert len(lines) == len(data["samples"]) == len(rows_of("19")) - 1
    whole = len(EXPERIMENTS["19"].modes) * (ROUNDS - 1)
    assert [line["shown"] for line in lines].count("1") == whole
    assert float(lines[0]["busiest"]) == sample("host", 0).busiest
    assert lines[0]["context: commit"] == CONTEXT["commit"]


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    keep(rows_of("4"))
    (tmp_path / "file").touch()
    with pytest.raises(FalconError, match="cannot write to"):
        page.write(evidence.collect(), tmp_path / "file")


# ---- figures by time --------------------------------------------------------------------------


def test_a_claim_that_two_measures_speak_to_has_two_findings() -> None:
    keep(rows_of("13"))
    keep(rows_of("13-time"))
    found = [f for f in the_kernel().findings if f.verdict.claim.name == "E16"]
    assert [finding.figure for finding in found] == ["13", "13-time"]
    assert all(finding.state != NOT_MEASURED for finding in found)


def test_a_figure_by_time_is_on_the_page_with_its_units() -> None:
    keep(rows_of("12-time"))
    text = page.render(evidence.collect())
    parsed = Parsed(text)
    assert f"linux-{RELEASE}-figure-12-time" in parsed.values("id")
    assert "Figure 12, by time: Latency of one flow" in unescape(text)
    assert "Underloaded is 30 % of what the stock overlay carries" in text
    assert "By TCP, lost are segments that clients sent again" in text
    texts = ["".join(ElementTree.fromstring(svg).itertext()) for svg in pictures(text)]
    assert len(texts) == 5
    assert ["µs" in one for one in texts] == [True] * 4 + [False]
    assert "percent of one CPU" in texts[-1]
    (row,) = (
        row
        for row in parsed.texts()
        if row[:3] == ["UDP 16 B, underloaded", "falcon", str(ROUNDS)] and row[3] == "134"
    )
    # The mean latency's median, least and most; against con; out of order, lost, errors; asked.
    assert row[3:] == ["134", "125", "143", "0.79", "0.79 to 0.79", "0", "3", "6", "as many as go"]


def test_an_order_that_nobody_looked_at_is_no_zero() -> None:
    rows = [
        replace(row, sample=replace(row.sample, out_of_order=None)) for row in rows_of("2d-time")
    ]
    keep(rows)
    keep(rows_of("2c-time"))
    text = unescape(page.render(evidence.collect()))
    assert text.count("Out of order: - is where nobody looked at all messages.") == 2
    late = [replace(rows[0].sample, out_of_order=2), rows[1].sample]
    assert [reports.late(late), reports.late(late[1:])] == ["2", "-"]


def test_emulated_time_is_shown_and_is_no_result() -> None:
    keep(rows_of("12-time", accel="tcg"))
    (finding,) = (f for f in the_kernel().findings if f.verdict.claim.name == "E12")
    assert (finding.state, finding.figure) == (NOT_MEASURABLE, "12-time")
    assert "emulated time" in finding.verdict.said
    assert "No result on the paper&#39;s claims: emulated time" in page.render(evidence.collect())


@pytest.mark.parametrize(
    "other", [{"accel": "tcg"}, {"host_cpus": 4}, {"seconds": campaign.QUICK_SECONDS}]
)
def test_times_of_different_machines_never_mix(other: dict[str, Any]) -> None:
    ours = rows_of("2d-time", started=LATER)
    assert selected("2d-time", ours + rows_of("2d-time", **other)) == ours


def test_rounds_that_are_missing_of_a_point_are_said() -> None:
    whole = rows_of("13-time", points=2)
    keep(whole[:-1])
    text = page.render(evidence.collect())
    assert f"Cut short: flows 2 has {ROUNDS - 1} of {ROUNDS} rounds." in text


@pytest.mark.parametrize(
    ("other", "is_said"),
    [
        ({}, True),
        ({"rounds": 2}, True),
        ({"rounds": 1}, False),
        ({"commit": "fedcba", "points": 1}, False),
        ({"qemu": None, "points": 1}, False),
    ],
)
def test_how_far_two_measurements_of_the_same_agree_is_said(
    other: dict[str, Any], is_said: bool
) -> None:
    keep(rows_of("5", started=LATER))
    for row in rows_of("5", **other):
        dearer = (row.point, row.sample.mode) == ("2", "falcon")
        work = tuple(1.02 * cpu if dearer else cpu for cpu in row.sample.work)
        keep([replace(row, sample=replace(row.sample, work=work))])
    told = "Measured twice: the medians of both agree within"
    text = page.render(evidence.collect())
    assert (told in text) is is_said
    if not other:
        assert f"{told} 2.0%, worst at flows 2, falcon." in text


def test_ratios_that_waver_are_said() -> None:
    rows = rows_of("13-time")
    slow = {row.sample.round: 2000.0 * (1 + 2 * row.sample.round) for row in rows}
    keep(
        [
            replace(row, sample=replace(row.sample, latency=None, rate=slow[row.sample.round]))
            if (row.sample.mode, row.point) == ("falcon", "4")
            else row
            for row in rows
        ]
    )
    text = page.render(evidence.collect())
    assert re.search(r"Uncertain by so much .*: flows 4: falcon \d+%\.", text)


def test_times_are_exported_with_their_units(tmp_path: Path) -> None:
    keep(rows_of("12-time"))
    keep(rows_of("19"))
    written = page.write(evidence.collect(), tmp_path)
    data = json.loads(written.with_name("report.json").read_text())
    number = next(n for n in data["numbers"] if (n["figure"], n["mode"]) == ("12-time", "falcon"))
    assert number["measure"] == TIME
    assert (number["p99"]["unit"], number["rate"]["unit"]) == ("µs", "messages a second")
    assert number["p99"]["counted"]["median"] == pytest.approx(400 / (1.07 * 1.4))
    lines = list(csv.DictReader(io.StringIO(written.with_name("samples.csv").read_text())))
    by_time = [line for line in lines if line["measure"] == TIME]
    assert len(by_time) == len(rows_of("12-time"))
    assert float(by_time[0]["latency: p99_us"]) == 400 and by_time[0]["cpu 0 busy %"] == "90.0"
    assert by_time[0]["busiest"] == "" and by_time[0]["out_of_order"] == ""


def test_numbers_that_a_load_does_not_give_are_left_out() -> None:
    less = {"latency": None, "stages": None}
    rows = [replace(row, sample=replace(row.sample, **less)) for row in rows_of("13-time")]
    one = Evidence(TIMED["13-time"], rows, rows)
    assert [measure.name for measure in one.known] == ["rate", "cpus", "nic", "softirqs"]


def test_every_figure_by_time_can_be_shown() -> None:
    for key in TIMED:
        keep(rows_of(key))
    kernel = the_kernel()
    page.render([kernel])
    shown = {finding.figure for finding in kernel.findings} - {""}
    assert shown == set(TIMED)
