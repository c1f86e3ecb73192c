"""The report: what it says, that it needs nothing else, and how it looks in a browser at three widths."""

import base64
import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree
from html.parser import HTMLParser

import h5py
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from benchmarks.inspecting import copy
from test_cli import run_of

from lambda_hat import store
from lambda_hat.inspect import formats
from lambda_hat.inspect.scan import scan
from lambda_hat.report import draws, header, image, inline, page, svg, sweeps

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags that are left open, links, ids, and words outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.words, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture
def study(tiny, tmp_path):
    """The tiny store with three seeds, one of them bad, a failed run and a damaged trace; returns the runs by what they are."""
    run = run_of(tiny, "hmc")
    made = {"ok": run, "bad": copy(run, 1), "damaged": copy(run, 2)}
    for name in ("ok", "bad"):
        path = made[name] / "analysis.json"
        reasons = ["its <chains> disagree & more"] if name == "bad" else []
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": name, "status_reasons": reasons}))
        store.seal(made[name])
    trace = made["damaged"] / "trace.nc"
    data = trace.read_bytes()
    trace.unlink()  # a link to the original's
    trace.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "runs" / "failures").mkdir()
    record = {"error": "no luck", "kind": "UserError", "log": "l.txt", "command": ["sample.py"]}
    store.write_note(tmp_path / "runs" / "failures" / f"{tiny.name}.run_sgld_aaaaaaaa.json", record)
    return made


def test_it_says_what_is_bad_first_and_links_to_every_directory(study, tiny, tool, tmp_path):
    outcome = tool("report", "-o", "out/study.html")
    assert outcome.code == 0 and outcome.out.startswith("out/study.html: ")
    page = Page((tmp_path / "out" / "study.html").read_text())
    assert page.open == []
    text = " ".join(" ".join(page.words).split())
    assert text.index("its <chains> disagree & more") < text.index("Overview")
    assert text.index("UserError: no luck") < text.index("Overview")
    assert text.index("trace.nc is damaged") < text.index("Overview")
    for run in study.values():
        assert os.path.relpath(run, tmp_path / "out") in page.links
    for link in page.links:
        assert (tmp_path / "out" / link).exists() if not link.startswith("#") else link[1:] in page.ids
    analysis = store.read_json(study["ok"] / "analysis.json")
    assert formats.estimate(analysis["llc_mean"], analysis["llc_mcse"]) in text
    assert formats.interval(*analysis["llc_interval95"]) in text
    assert analysis["provenance"]["code_sha"] in text and "sampler.warmup" in text


def test_it_needs_nothing_from_anywhere(study, tool, tmp_path):
    assert tool("report").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    page = Page(text)
    assert not re.search(r"https?://", text) and "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"url\(|@import", text)


def test_a_sweep_says_what_is_missing(tiny, tool, tmp_path):
    words = ("model=quadratic", "model.dim=2", "data.n_data=60", "sampler=sgld")
    assert tool("report", "-m", *words).code == 0
    text = " ".join(Page((tmp_path / "runs" / "report.html").read_text()).words)
    assert "1 missing" in text and "not begun" in text


def test_many_runs_are_drawn_close_together(tiny, tool, tmp_path):
    run = run_of(tiny, "hmc")
    for seed in range(1, 61):
        copy(run, seed)
    assert tool("report").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    heights = [int(found) for found in re.findall(r'viewBox="0 0 400 (\d+)"', text)]
    assert max(heights) < 800 and text.count('class="bar s0') == 61


def test_nothing_bad_is_said_too(tiny, tool, tmp_path):
    for sampler in ("hmc", "mclmc"):
        path = run_of(tiny, sampler) / "analysis.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "ok", "status_reasons": []}))
        store.seal(path.parent)
    assert tool("report").code == 0
    assert "No problems." in (tmp_path / "runs" / "report.html").read_text()


def test_a_laplace_run_has_no_chains_and_a_broken_one_no_estimate(tiny, script, tool, tmp_path):
    assert script("sample", "model=quadratic", "model.dim=2", "data.n_data=60", "sampler=laplace").code == 0
    path = run_of(tiny, "hmc") / "analysis.json"
    broken = {
        "llc_mean": None,
        "llc_mcse": None,
        "llc_interval95": [None, None],
        "ess": None,
        "rhat": None,
        "status": "bad",
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | broken))
    store.seal(path.parent)
    assert tool("report").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    assert "± ?" in text and not re.search(r"\bnan\b", text, re.IGNORECASE)


# --- figures over swept settings --------------------------------------------------------------------------------------


@pytest.fixture
def grid(tiny, script, tool, tmp_path):
    """The tiny store with a grid over γ and nβ, one run of which is bad and far off."""
    words = ("model=quadratic", "model.dim=2", "data.n_data=60", "sampler=laplace")
    assert script("sample", "-m", *words, "posterior.gamma=1,10,100", "posterior.nbeta=5,20").code == 0
    runs = [record for record in scan(tmp_path / "runs") if record.sampler == "laplace"]
    for i, record in enumerate(runs):
        path = record.directory / "analysis.json"
        made = {"status": "ok", "status_reasons": []} if i else {"status": "bad", "llc_mean": 1e6}
        path.write_text(json.dumps(json.loads(path.read_text()) | made))
        store.seal(path.parent)
    return runs


def data_of(text):
    """The tables that a page links to, as lists of rows."""
    found = re.findall(r'href="data:text/csv;base64,([^"]*)"', text)
    return [list(csv.DictReader(base64.b64decode(each).decode().splitlines())) for each in found]


def test_swept_settings_are_drawn_with_their_data(grid, tool, tmp_path):
    assert tool("report", "sampler=laplace", "--figures", "figures").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    for title in ("λ̂ over γ", "λ̂ over nβ", "λ̂ over γ and nβ", "lateau: ", "Cross: bad.", "at their edge: 1e+06 (bad)"):
        assert title in words
    assert "script" not in page.tags and text.count("<style>") == 1 and not re.search(r"https?://|@import", text)
    tables = data_of(text)
    assert len(tables) == 4 and {len(rows) for rows in tables} == {6}
    assert {row["llc_mean"] for row in tables[3]} == {row["llc_mean"] for row in tables[0]}
    expected = {record.run_id: record for record in scan(tmp_path / "runs")}
    for row in tables[0]:
        record = expected[row["run_id"]]
        assert float(row["llc_mean"]) == record.summary.llc_mean and row["status"] == record.verdict
        assert float(row["gamma"]) == record.settings["posterior.gamma"]
    assert [row["status"] for row in tables[0]].count("bad") == 1
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert {"calibration.svg", "calibration.png", "calibration.csv"} < set(files)
    stems = {name.rpartition(".")[0] for name in files}
    assert set(files) == {f"{stem}{end}" for stem in stems for end in (".svg", ".png", ".csv")}
    small = [stem for stem in stems if stem.startswith(grid[0].target_id)]
    panels = text[text.index("<h2>λ̂ over γ</h2>") : text.index("<h2>λ̂ of each network</h2>")].count('<svg class="plot"')
    assert len(small) == text.count('<svg class="plot"') - panels == len(stems) - 3 and panels == 5
    for name in files:
        if name.endswith(".png"):
            assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
        if name.endswith(".svg"):
            assert (
                xml.etree.ElementTree.parse(tmp_path / "figures" / name).getroot().tag
                == "{http://www.w3.org/2000/svg}svg"
            )
    (written,) = [path for path in (tmp_path / "figures").glob("llc_mean_gamma*.csv")]
    assert list(csv.DictReader(written.read_text().splitlines())) == tables[0]


def test_settings_that_change_together_are_drawn_once():
    rows = [{"n": n, "widths": [n], "gamma": gamma, "seed": 1} for n in (70, 224) for gamma in (1.0, 10.0)]
    assert sweeps.without_repeats(rows, ["n", "widths", "gamma", "missing"]) == ["n", "gamma", "missing"]


def test_a_figure_that_is_asked_for(grid, tool, tmp_path):
    assert tool("report", "x=posterior.gamma", "y=llc_raw", "hue=nbeta", "sampler=laplace").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    rows, _ = data_of(text)
    assert "llc_raw over γ" in text and "λ̂ over γ" not in text and {"llc_raw", "gamma", "nbeta"} <= set(rows[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("y=ess",), "x= is missing"),
        (("x=",), "x= has no value"),
        (("x=widthz",), "no such setting"),
        (("x=sampler", "y=status"), "holds no number"),
    ],
)
def test_figures_that_cannot_be_drawn_are_a_sentence(words, message, tiny, tool, tmp_path):
    outcome = tool("report", *words)
    assert outcome.code == 1 and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "runs" / "report.html").exists()


# --- the head, and many targets ---------------------------------------------------------------------------------------


def test_the_head_says_what_was_run_and_three_numbers(grid, tool, tmp_path):
    assert tool("report", "sampler=laplace").code == 0
    text = " ".join(" ".join(Page((tmp_path / "runs" / "report.html").read_text()).words).split())
    assert "6 runs of laplace on 1 target (quadratic). What differs: nβ 5, 20; γ 1, 10, 100." in text
    assert "5 of 6 runs can be used: 6 done (5 ok, 1 bad)" in text
    usable = [
        record.summary for record in scan(tmp_path / "runs") if record.sampler == "laplace" and record.verdict == "ok"
    ]
    means = sorted(summary.llc_mean for summary in usable)
    assert f"{means[0]:.4g} to {means[-1]:.4g} λ̂ of 5 different estimands" in text
    gaps = sorted(abs(summary.llc_mean / summary.truth.finite - 1) for summary in usable)
    assert f"{100 * gaps[2]:.2g} % from the exact λ̂, the median of 5 runs" in text
    assert text.index("What differs") < text.index("can be used") < text.index("Problems") < text.index("Overview")


def test_problems_that_differ_in_numbers_alone_are_one_sentence():
    listed = [("bad", f"R-hat {value} > 1.01: chains disagree") for value in ("1.1", "1.04", "inf", "2.5e+10")]
    found = header.reasons([*listed, ("bad", "w0 left"), ("bad", "w0 left"), ("warn", "ESS 40 < 400")])
    assert found == [
        ("bad", 3, "R-hat 1.04 to 2.5e+10 > 1.01: chains disagree"),
        ("bad", 2, "w0 left"),
        ("bad", 1, "R-hat inf > 1.01: chains disagree"),
        ("warn", 1, "ESS 40 < 400"),
    ]


def test_many_problems_are_counted_by_what_they_are(tiny, tool, tmp_path):
    run = run_of(tiny, "hmc")
    for seed in range(1, 15):
        made = copy(run, seed)
        path = made / "analysis.json"
        bad = {"status": "bad", "status_reasons": [f"ESS {10 + seed} < 400: too <few> draws"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | bad))
        store.seal(made)
    assert tool("report").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    assert "14 × ESS 11 to 24 &lt; 400: too &lt;few&gt; draws" in text and "of them, one by one" in text
    assert text.count("too &lt;few&gt; draws</li>") == 15  # and each by itself


def test_targets_are_small_figures_and_folded_sections(tiny, script, tool, tmp_path):
    words = ("model=quadratic", "model.dim=2,3", "data.n_data=50", "seed=1,2", "sampler=laplace")
    assert script("sample", "-m", *words).code == 0
    assert tool("report", "sampler=laplace").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    multiples = text[text.index("λ̂ of each network") : text.index("Every target")]
    assert (
        multiples.count('<svg class="plot"') == 2
        and multiples.count('class="dot s0') + multiples.count('class="cross s0') == 4
    )
    assert text.count('<details class="target">') == 4 and 'class="target" open' not in text
    page = Page(text)
    assert (
        page.open == []
        and {f"#t{i}" for i in (1, 2, 3, 4)} <= set(page.links)
        and {"t1", "t2", "t3", "t4"} <= set(page.ids)
    )


def test_of_many_targets_what_they_share_is_said_once(tiny, tool, tmp_path, monkeypatch):
    records = [record for record in scan(tmp_path / "runs") if record.sampler == "hmc"]
    few = page.page(records, tmp_path / "runs", tmp_path / "report.html")
    monkeypatch.setattr(page, "MOST_MULTIPLES", 0)
    many = page.page(records, tmp_path / "runs", tmp_path / "report.html")
    for text in (few, many):
        assert text.count(records[0].summary.provenance.code_sha) == 1
    assert "<dt>sampler.warmup</dt>" in few and "<dt>sampler.warmup</dt>" not in many and "warmup=" in many


def test_no_more_draws_are_read_than_are_shown(tiny, tmp_path, monkeypatch):
    run = run_of(tiny, "hmc")
    for seed in range(1, 12):
        copy(run, seed)
    monkeypatch.setattr(page, "MOST_DRAWN", 5)
    read = []
    monkeypatch.setattr(
        page.traces, "read", lambda record, read_it=draws.read: read.append(record.name) or read_it(record)
    )
    text = page.page(
        [r for r in scan(tmp_path / "runs") if r.sampler == "hmc"], tmp_path / "runs", tmp_path / "report.html"
    )
    assert len(read) == len(set(read)) == 5 and "Draws of 5 of 12 runs are shown" in text


def test_a_bad_run_stands_at_the_edge_of_a_small_figure(grid, tool, tmp_path):
    assert tool("report", "sampler=laplace").code == 0
    text = (tmp_path / "runs" / "report.html").read_text()
    multiples = text[text.index("λ̂ of each network") : text.index("Every target")]
    (cross,) = re.findall(r'<path class="cross [^"]*" d="M([\d.]+) [^"]*"><title>([^<]*)</title>', multiples)
    assert cross[1].startswith("laplace ") and cross[1].endswith(" bad") and 300 > float(cross[0]) > 200
    assert multiples.count("<circle") == 5


# --- in a browser -----------------------------------------------------------------------------------------------------

MEASURE = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest(".wide") || e.closest("svg")) return false;
    return e.getBoundingClientRect().right > innerWidth + 0.5;
  }).map(e => e.tagName + " " + e.textContent.slice(0, 40));
  const letters = [...document.querySelectorAll("svg.plot text:not([transform])")].map(e => e.getBoundingClientRect().height);
  const outside = [...document.querySelectorAll("svg.plot")].flatMap(s => {
    const box = s.getBoundingClientRect();
    return [...s.querySelectorAll(":scope > text")].filter(t => {
      const b = t.getBoundingClientRect();
      return b.left < box.left - 1 || b.right > box.right + 1 || b.bottom > box.bottom + 1;
    }).map(t => t.textContent);
  });
  document.title = JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth, wide, outside,
    smallest: Math.min(...letters), figures: document.querySelectorAll("svg.plot").length,
    ground: getComputedStyle(document.body).backgroundColor,
  });
});
</script>"""


def measured(page, tmp_path, width, dark=False):
    """What a browser of this width finds of a page."""
    probe = page.with_name("probe.html")
    frame = page.with_name("frame.html")
    probe.write_text(page.read_text().replace("</body>", MEASURE + "</body>"))
    frame.write_text(  # a window is at least 500 wide; a frame may be narrower
        f'<iframe src="probe.html" style="border:0;width:{width}px;height:4000px"></iframe><pre></pre><script>'
        'addEventListener("load", () => setTimeout(() => {'
        'document.querySelector("pre").textContent = document.querySelector("iframe").contentDocument.title}, 300))</script>'
    )
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += (
        "--disable-component-update --disable-sync --allow-file-access-from-files --virtual-time-budget=5000 --dump-dom"
    )
    look = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    argv = [
        BROWSER,
        *options.split(),
        *look,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width + 60},900",
    ]
    outcome = subprocess.run([*argv, frame.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"<pre>(\{.*?\})</pre>", outcome.stdout)
    assert found, outcome.stdout[-500:] + outcome.stderr[-500:]
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_browser_of_any_width_shows_all_of_it(study, tool, tmp_path, width):
    assert tool("report").code == 0
    found = measured(tmp_path / "runs" / "report.html", tmp_path, width)
    assert found["width"] == width and found["scroll"] == width and found["wide"] == [] and found["outside"] == []
    assert found["figures"] >= 5 and found["smallest"] >= 9


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_it_is_dark_where_the_browser_is(study, tool, tmp_path):
    assert tool("report").code == 0
    page = tmp_path / "runs" / "report.html"
    light, dark = (measured(page, tmp_path, 768, dark)["ground"] for dark in (False, True))
    assert light == "rgb(255, 255, 255)" and max(map(int, re.findall(r"\d+", dark)[:3])) < 40


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 8), (59.1, 62.3), (1e5, 1.2e5), (0.0011, 0.0019), (2, 2)])
def test_ticks_are_round_few_and_inside(low, high):
    axis = svg.Axis(low, high, 300)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8 and all(axis.low <= tick <= axis.high for tick in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0]) and f"{steps[0]:.0e}"[0] in "125"
    assert [axis(axis.low), axis(axis.high)] == pytest.approx([0, 300])


def test_a_logarithmic_axis():
    axis = svg.Axis(10, 1e4, 300, log=True)
    assert axis(100) == pytest.approx(100) and axis(1000) == pytest.approx(200)
    assert set(axis.ticks()) >= {10, 100, 1000, 10_000}
    assert svg.Axis(500, 900, 300, log=True).ticks() == [500]
    assert svg.Axis(11.5, 19.2, 300, log=True).ticks() == [12, 14, 16, 18]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.02, "0.02"), (350, "350"), (20_000, "20k"), (1.5e6, "1.5M"), (-30_000, "-30k")]
)
def test_ticks_in_words(value, text):
    assert svg.tick_text(value) == text


def test_running_means_and_ranks_of_known_chains():
    rng = np.random.default_rng(0)
    llc = rng.normal(size=(4, 1000))
    made = draws.Draws(llc, np.arange(1000.0), np.arange(1000.0))
    at, mean = draws.running(made)
    assert at[0] == 0 and at[-1] == 999 and len(at) <= draws.POINTS
    np.testing.assert_allclose(mean, [llc[:, : i + 1].mean() for i in at])
    shares = draws.ranks(made)
    assert (
        shares.shape == (4, 20)
        and shares.mean() == pytest.approx(1)
        and shares.sum(0) == pytest.approx(np.full(20, 4.0))
    )
    apart = draws.ranks(made._replace(llc=llc + 10 * np.arange(4)[:, None]))
    assert np.all(apart[0, :5] == 4) and np.all(apart[0, 5:] == 0) and np.all(apart[3, 15:] == 4)


def test_draws_are_those_of_the_trace(tiny, tmp_path):
    for row in scan(tmp_path / "runs"):
        found = draws.read(row)
        with h5py.File(row.directory / "trace.nc") as file:
            np.testing.assert_array_equal(found.llc, file["posterior/llc"][()])
        assert found.llc.mean() == pytest.approx(row.summary.llc_raw or row.summary.llc_mean)
        assert found.gradients[-1] == pytest.approx(row.summary.total_fges)


# --- files of small figures -------------------------------------------------------------------------------------------


def test_a_figures_marks_are_its_data_and_its_pixels():
    plot = svg.Plot((0, 10), (1, 100), xlabel="step", ylabel="λ̂", ylog=True, names=[(10, "ten")])
    plot.line([1, 2, 3], [10.0, float("nan"), 30.0], "s0", "chain 0")
    plot.error(4, 20.0, 50.0, "s1", "a run")
    plot.points([(5, 10.0), (6, 20.0)], "cross", "s1 bad")
    plot.box(7, 8, 1, 10, "c0")
    header, lines = plot.table()
    assert header == ["mark", "what", "step", "λ̂", "x_end", "y_end"]
    assert lines == [
        ["line", "chain 0", 1.0, 10.0, None, None],
        ["line", "chain 0", 3.0, 30.0, None, None],
        ["error", "a run", 4.0, 20.0, None, 50.0],
        ["cross", "s1 bad", 5.0, 10.0, None, None],
        ["cross", "s1 bad", 6.0, 20.0, None, None],
        ["box", "c0", 7.0, 1.0, 8.0, 10.0],
    ]
    rules, colours = image._style()
    pixels = matplotlib.image.imread(io.BytesIO(image.png(plot, colours)), format="png")
    high, wide, _ = pixels.shape
    assert wide == round(svg.WIDTH / 72 * image.DOTS) and abs(high - 230 / 72 * image.DOTS) < 1
    x, y = plot.place(7.5, 3.0)  # inside the box
    at = pixels[round((svg.TOP + y) * high / 230), round((plot.left + x) * wide / svg.WIDTH)]
    blue = np.array(matplotlib.colors.to_rgb(colours["s0"]))
    np.testing.assert_allclose(at[:3], 0.75 * blue + 0.25, atol=0.02)
    root = xml.etree.ElementTree.fromstring(image.alone(plot, rules))
    assert root.find(".//{*}polyline").get("points") == "34.0,93.0 102.0,48.6"
    assert "ten" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_names_that_would_overlap_are_left_out():
    names = [(i, f"value {i}") for i in range(20)]
    plot = svg.Plot((0, 19), (0, 1), xlabel="x", xnames=names)
    kept = plot.xticks()
    assert kept[0] == names[0] and 4 <= len(kept) <= 8
    assert all(plot.x(b) - plot.x(a) >= svg.LETTER * len(text) for (a, text), (b, _) in itertools.pairwise(kept))


def test_thousands_of_runs_are_drawn_in_few_letters():
    rows = [
        {"gamma": 10.0 ** (i % 4), "n": 50, "seed": i, "sampler": "hmc", "status": "ok", "llc_mean": 5 + 0.001 * i}
        | {"llc_low95": 4.9 + 0.001 * i, "llc_high95": 5.1 + 0.001 * i, "nbeta": 10.0, "loss": "nll"}
        for i in range(3000)
    ]
    ((_, ((_, plot),)),) = inline.lines(rows, "gamma", ["hmc"]).parts
    (dots,) = [mark for mark in plot.marks if mark.kind == "dot"]
    (bars,) = [mark for mark in plot.marks if mark.kind == "error"]
    assert len(dots.at) == len(bars.at) == 3000 and len(plot.svg()) < 300_000
    assert {x for x, _ in dots.at} == {0.0, 1.0, 2.0, 3.0} and plot.xticks()[1] == (1.0, "10")


def test_the_last_tick_of_an_axis_is_within_the_figure():
    made = svg.Plot((1e-15, 1e-12), (0, 1), xlabel="MCSE", xlog=True).svg()
    places = {
        text: float(x) for x, text in re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([^<]*)<', made)
    }
    assert places["1e-12"] + svg.LETTER * len("1e-12") / 2 <= svg.WIDTH
    assert places["1e-13"] < places["1e-12"] - svg.LETTER * len("1e-12")
