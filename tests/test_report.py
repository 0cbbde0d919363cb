"""The report and the token page, opened in a real browser where there is one."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import UserError
from harness.records import Records
from harness.report import write_report
from harness.samples import tokenpage
from tests.records_fixture import fake_records, fake_rollout, records_from
from tests.test_plots import check_files

HOSTILE = [
    "<script>window.pwned=1</script>",
    "</textarea>",
    "</script>",
    "<script>",
    "<img src=x onerror=window.pwned=1>",
    "\x00",
    "\u2028",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "]]>",
    "<!--",
    "\ud800",
    "",
    "\ufffd",
    "{{ 7*7 }}",
]
PLAIN = ["Let", " me", " see", ":", "\n", "\t", "3", " +", " 4", " =", " 7", ".\n\n", "\\boxed{7}"]


FIGURES = ["forest", "curve", "pass-at-k", "training", "curve-tokens", "curve-time", "routing"]
FIGURES += ["weights", "scores", "positions", "entropies", "entropies-advantage", "entropies-kl"]
FIGURES += ["problems-random-filter-toy-math", "problems-random-filter-toy-code"]


def rollouts() -> list[dict[str, Any]]:
    return [
        fake_rollout(PLAIN, key=1, prompt="Compute 3 + 4."),
        fake_rollout(HOSTILE, key=2, prompt="</pre></script><b>prompt</b>", answer="<i>7</i>", correct=None),
        fake_rollout(PLAIN * 2, key=3, arm="opd", correct=False, kept=False, answer=None, weight=[0.0] * 26),
    ]


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records(inert=True)


@pytest.fixture(scope="module")
def report(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(records, rollouts(), tmp_path_factory.mktemp("report"))


# -- files


def test_the_same_records_give_the_same_files(records: Records, report: Path, tmp_path: Path) -> None:
    again = write_report(records, rollouts(), tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "pages/fake.html",
        *(f"tables/fake/comparison.{kind}" for kind in ("md", "tex", "csv", "html")),
        *(f"tables/fake/{table}.md" for table in ("details", "effects", "scores")),
        *(f"figures/fake/{n}.{k}" for n in FIGURES for k in ("pdf", "png", "csv")),
    }
    for name in names:
        data = (report.parent.parent / name).read_bytes()
        assert data == (again.parent.parent / name).read_bytes()
        assert str(tmp_path).encode() not in data
    for name in FIGURES:
        check_files(*(tmp_path / "figures" / "fake" / f"{name}.{kind}" for kind in ("pdf", "png", "csv")))


def test_the_page_stands_alone(report: Path) -> None:
    html = report.read_text("utf-8")
    sources = re.findall(
        r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]+)""", re.sub(r"<script.*?</script>", "", html, flags=re.S)
    )
    targets = {source[1:] for source in sources if source.startswith("#")}
    assert targets <= set(re.findall(r' id="([^"]+)"', html))
    assert targets >= {"results", "training", "tokens", "problems", *(f"figure-{name}" for name in FIGURES)}
    sources = [source for source in sources if not source.startswith("#")]
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    for source in sources:
        assert base64.b64decode(source.partition(",")[2]).startswith(b"<svg")
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert len(html) < 6e6
    assert "@import" not in html
    assert "url(" not in html


def test_the_page_says_what_the_records_say(report: Path) -> None:
    html = report.read_text("utf-8")
    for part in (
        "A made-up grid",
        "⚠ INERT: TIP, gain 0 equals opd",
        "64.8 ± 7.0",
        "Holm over 12 comparisons",
        "0123456789abcdef0123456789abcdef01234567",
        "transformers 5.23.0",
        "prompt toy-math-5f3a",
        "fire-filter-only(…)",
        "Numbers are drawn, not measured.",
    ):
        assert part in html


def test_hostile_text_is_never_markup(report: Path) -> None:
    html = report.read_text("utf-8")
    assert html.count("<script") == html.count("</script>") == 2  # the data and the one program
    for bad in ("\x00", "\u2028", "\u202e", "onerror=window", "<b>prompt", "<i>7</i>"):
        assert bad not in html.replace("\\u003cimg src=x onerror=window.pwned=1\\u003e", "")


def test_hostile_manifests_are_escaped(records: Records, tmp_path: Path) -> None:
    bad = "</title></script><script>window.pwned=1</script>"
    arms = {**records.manifest["arms"], "tip": {"label": bad, "method": bad, "objective": bad, "reference": False}}
    manifest = {
        **records.manifest,
        "title": bad,
        "note": bad,
        "arms": arms,
        "inert": {"tip": bad},
        "checker_version": bad,
    }
    manifest["provenance"] = {"commit": bad, "packages": {bad: bad}, "hardware": bad, "dirty": True}
    html = write_report(replace(records, manifest=manifest), [], tmp_path).read_text("utf-8")
    assert "<script>window" not in html
    assert "&lt;script&gt;window.pwned=1" in html
    assert "with uncommitted changes" in html
    assert "No rollouts were kept" in html


def test_a_report_of_almost_nothing(tmp_path: Path) -> None:
    html = write_report(records_from({("opd", 0, "b"): [[1, 0], [0, 0]]}), [], tmp_path).read_text("utf-8")
    assert "There is no arm to compare with the baseline." in html
    assert "no arm but its baseline" in html  # why the forest is missing
    assert "no training steps to draw" in html
    for reason in ("no recorded token weights", "no recorded rollouts", "no timings", "at most 2"):
        assert reason in html
    assert html.count("Not drawn: ") == len(set(re.findall("Not drawn: .*", html)))
    assert (tmp_path / "figures" / "small" / "curve.pdf").exists()


def test_holes_are_loud(records: Records, tmp_path: Path) -> None:
    gone = (records.samples["arm"] == "tip") & (records.samples["bench"] == "toy-code")
    nothing = pd.DataFrame()
    bare = replace(records, samples=records.samples[~gone], timings=nothing, rollouts=nothing, profiles=nothing)
    html = write_report(bare, [], tmp_path).read_text("utf-8")
    assert "⚠ INCOMPLETE: TIP, toy code: no samples." in html
    assert "<td>—</td>" in html


# -- token views as data


def embedded(views: list[dict[str, Any]]) -> dict[str, Any]:
    return json.loads(tokenpage.embedded(views))


def test_embedded_views_come_back_as_they_were() -> None:
    data = embedded(rollouts())
    for view, source in zip(data["views"], rollouts(), strict=True):
        assert view["tokens"] == source["tokens"]
        assert view["ids"] == source["ids"]
        assert view["weight"] == pytest.approx(source["weight"], abs=1e-4)
        ratio = [t - s for t, s in zip(source["teacher_logprob"], source["student_logprob"], strict=True)]
        assert view["ratio"] == pytest.approx(ratio, abs=2e-4)
    assert data["views"][1]["answer"] == "<i>7</i>"
    assert data["views"][2]["trained"] == [0] * 26  # dropped: no token was trained
    assert tokenpage.embedded(rollouts()).isascii()
    assert "<" not in tokenpage.embedded(rollouts())


def test_one_scale_for_all_rollouts() -> None:
    channels = {
        c["key"]: c for c in embedded([fake_rollout(["a"] * 100, weight=[w / 50 for w in range(100)])])["channels"]
    }
    assert list(channels) == ["weight", "student_entropy", "teacher_entropy", "ratio", "trained"]
    # outer percents of 0, 0.02 … 1.98: positions 0.99 and 98.01 of the sorted values
    assert channels["weight"]["low"] == pytest.approx(0.0198)
    assert channels["weight"]["high"] == pytest.approx(1.9602)
    assert (channels["weight"]["centre"], channels["ratio"]["centre"]) == (1, 0)


def test_what_is_not_a_number_is_shown_as_missing() -> None:
    view = fake_rollout(["a", "b", "c"], weight=[math.nan, math.inf, 1.0], teacher_entropy=None, score=math.nan)
    data = embedded([view])
    assert data["views"][0]["weight"] == [None, None, 1.0]
    assert data["views"][0]["score"] is None
    assert "teacher_entropy" not in [channel["key"] for channel in data["channels"]]


def test_endless_rollouts_are_cut_and_say_so() -> None:
    view = embedded([fake_rollout(["a"] * 40_000)])["views"][0]
    assert len(view["tokens"]) == len(view["weight"]) == 32_768
    assert view["cut"] == 40_000


def test_malformed_views_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"token view 2 \(arm 'fire', seed 0\): 'weight' has 1 values for 2 tokens"):
        tokenpage.embedded([fake_rollout(["a"]), fake_rollout(["a", "b"], weight=[1.0])])
    broken = fake_rollout(["a"])
    del broken["kept"]
    with pytest.raises(UserError, match="token view 1 has no 'kept'"):
        tokenpage.embedded([broken])


# -- in the browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for switch in (switches + " disable-component-update disable-sync window-size=1200,900").split():
        options.add_argument(f"--{switch}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    from selenium.webdriver.chrome.service import Service

    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_page_load_timeout(120)
    chrome.set_script_timeout(120)
    yield chrome
    chrome.quit()


Open = Callable[[Path], Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page; when the test is over, checks that it raised no error and asked the network for nothing."""
    opened: list[str] = []

    def open_(path: Path) -> Any:
        browser.get_log("performance")
        browser.get_log("browser")
        opened.append(path.as_uri())
        browser.get(path.as_uri())
        ready(browser)
        return browser

    yield open_
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        own = not message["params"].get("documentURL", "").startswith("chrome://")  # the browser's new-tab page
        if message["method"] == "Network.requestWillBeSent" and own:
            asked.append(message["params"]["request"]["url"])
    assert opened[0] in asked  # the log does see requests
    assert [url for url in asked if url not in opened and not url.startswith("data:")] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return window.pwned") is None


def ready(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120).until(
        lambda b: b.execute_script("return document.querySelector('.tokens .text').dataset.ready")
    )


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", f".tokens {selector}")


def shown(browser: Any) -> str:
    return browser.execute_script("return document.querySelector('.tokens .text').textContent")


def hover(browser: Any, index: int) -> dict[str, str]:
    from selenium.webdriver.common.action_chains import ActionChains

    token = one(browser, f".text > span:nth-child({index + 1})")
    settle = "requestAnimationFrame(() => requestAnimationFrame(arguments[1]))"  # scrolling hides the card
    browser.execute_async_script(f"arguments[0].scrollIntoView({{block: 'center'}}); {settle}", token)
    ActionChains(browser).move_to_element(token).perform()
    assert one(browser, ".card").is_displayed()
    names = [e.text for e in browser.find_elements("css selector", ".tokens .card dt")]
    values = [e.text for e in browser.find_elements("css selector", ".tokens .card dd")]
    return dict(zip(names, values, strict=True))


def number(text: str) -> float:
    return float(text.split()[0].replace("−", "-"))


def test_the_report_opens_and_shows_hostile_text_as_text(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    assert shown(browser) == "".join(PLAIN)  # glyphs for whitespace are drawn, not written
    one(browser, ".next").click()
    ready(browser)
    text = shown(browser)
    for token in (
        "<script>window.pwned=1</script>",
        "</textarea>",
        "<img src=x onerror=window.pwned=1>",
        "&lt;b&gt;",
        "{{ 7*7 }}",
    ):
        assert token in text
    assert not any(char in text for char in "\x00\u2028\u202e")
    glyphs = browser.execute_script("return [...document.querySelectorAll('.tokens .odd')].map(e => e.dataset.glyph)")
    assert glyphs == ["⟨U+0000⟩", "⟨U+2028⟩", "⟨U+202E⟩", "⟨U+D800⟩", "∅"]
    assert len(browser.find_elements("css selector", ".tokens .text > span")) == len(HOSTILE)
    assert browser.execute_script("return document.scripts.length") == 2
    assert browser.execute_script("return document.images.length") == len(FIGURES)
    assert "gold answer <i>7</i>" in one(browser, ".facts").text
    assert browser.execute_script("return document.querySelector('.prompt').textContent").startswith(
        "</pre></script><b>"
    )


def test_figures_are_decoded(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    closed = "return [...document.querySelectorAll('details.figures')].map(group => group.open)"
    assert browser.execute_script(closed) == [True, False, False, False]
    decode = """const done = arguments[0];
        document.querySelectorAll('details.figures').forEach(group => { group.open = true; });
        document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; });
        Promise.all([...document.images].map(image => image.decode())).then(() => done('all'), error => done(String(error)))"""
    assert browser.execute_async_script(decode) == "all"
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) == len(FIGURES)
    assert all(width > 100 for width in widths)


def test_a_link_to_a_figure_opens_its_group(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    link = browser.find_element("css selector", "summary a[href='#figure-entropies-kl']")
    browser.execute_script("arguments[0].scrollIntoView()", link)
    link.click()
    figure = browser.find_element("css selector", "#figure-entropies-kl")
    assert figure.is_displayed()
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", figure)
    assert abs(top) < 900  # scrolled to
    wide = browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert wide


def test_hovering_shows_the_numbers_of_a_token(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    source = rollouts()[0]
    card = hover(browser, 8)
    assert card["token id"] == str(source["ids"][8])
    assert card["position"] == f"9 of {len(PLAIN)}"
    for name, key in (
        ("student log-prob", "student_logprob"),
        ("teacher log-prob", "teacher_logprob"),
        ("student entropy, nats", "student_entropy"),
        ("teacher entropy, nats", "teacher_entropy"),
        ("weight", "weight"),
    ):
        assert number(card[name]) == pytest.approx(source[key][8], abs=1e-3)
    ratio = source["teacher_logprob"][8] - source["student_logprob"][8]
    assert number(card["log teacher − log student"]) == pytest.approx(ratio, abs=1e-3)
    assert browser.execute_script("return document.querySelector('.tokens .card b').textContent") == " 4"


def test_the_keyboard_steps_through_tokens(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    pane = one(browser, ".text")
    pane.send_keys("\ue014")  # right arrow
    pane.send_keys("\ue014")
    assert one(browser, ".card dd:nth-of-type(2)").text == f"2 of {len(PLAIN)}"
    pane.send_keys("\ue012")  # left arrow
    assert one(browser, ".card dd:nth-of-type(2)").text == f"1 of {len(PLAIN)}"
    pane.send_keys("\ue00c")  # escape
    assert not one(browser, ".card").is_displayed()


def backgrounds(browser: Any) -> list[str]:
    script = (
        "return [...document.querySelectorAll('.tokens .text > span')].map(e => getComputedStyle(e).backgroundColor)"
    )
    return browser.execute_script(script)


def test_channels_recolour_the_text(tmp_path: Path, open_page: Open) -> None:
    weight = [1.0] * 10 + [0.0, 0.5, 3.0]
    path = tmp_path / "page.html"
    path.write_text(tokenpage.page([fake_rollout(PLAIN, weight=weight)], "A <page>"), "utf-8")
    browser = open_page(path)
    assert browser.title == "A <page>"
    by_weight = backgrounds(browser)
    assert set(by_weight[:10]) == {"rgba(0, 0, 0, 0)"}  # weight one is the plain objective: no colour
    assert by_weight[10].startswith("rgba(0, 114, 178")  # below
    assert by_weight[12].startswith("rgba(213, 94, 0")  # above
    assert float(by_weight[10].split()[-1][:-1]) > float(by_weight[11].split()[-1][:-1])
    seen = {tuple(by_weight)}
    for channel in ("student_entropy", "teacher_entropy", "ratio"):
        button = one(browser, f"[data-channel={channel}]")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        seen.add(tuple(backgrounds(browser)))
    assert len(seen) == 4
    one(browser, "[data-channel=trained]").click()
    skipped = "return [...document.querySelectorAll('.tokens .text > span')].map(e => e.classList.contains('skipped'))"
    assert browser.execute_script(skipped) == [w == 0 for w in weight]
    assert "struck through" in one(browser, ".legend").text


def test_whitespace_has_glyphs(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    counts = browser.execute_script(
        "return ['sp', 'tab', 'nl'].map(k => document.querySelectorAll('.tokens .text .' + k).length)"
    )
    text = "".join(PLAIN)
    assert counts == [text.count(" "), text.count("\t"), text.count("\n")]
    before = "return getComputedStyle(document.querySelector('.tokens .text .nl'), '::before').content"
    assert browser.execute_script(before) == '"↵"'


def test_walking_and_filtering_rollouts(report: Path, open_page: Open) -> None:
    browser = open_page(report)
    assert one(browser, ".count").text == "1 / 3"
    assert "kept" in one(browser, ".facts").text
    one(browser, ".previous").click()
    ready(browser)
    assert one(browser, ".count").text == "3 / 3"
    facts = one(browser, ".facts").text
    for part in ("opd", "dropped by the filter", "wrong", "no gold answer", "26 tokens"):
        assert part in facts
    one(browser, ".state option:nth-child(2)").click()  # kept
    assert one(browser, ".count").text == "1 / 2"
    one(browser, ".state option:nth-child(5)").click()  # wrong
    assert one(browser, ".count").text == "1 / 1"
    one(browser, ".arm option:nth-child(2)").click()  # fire has no wrong rollout
    assert one(browser, ".count").text == "none"
    one(browser, ".next").click()
    assert shown(browser) == ""
    one(browser, ".state option:nth-child(1)").click()
    ready(browser)
    assert one(browser, ".count").text == "1 / 2"


def test_sixteen_thousand_tokens_are_usable(tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "long.html"
    path.write_text(tokenpage.page([fake_rollout([" token"] * 16_000, key=5)]), "utf-8")
    browser = open_page(path)
    assert browser.execute_script("return document.querySelector('.tokens .text').childElementCount") == 16_000
    one(browser, "[data-channel=ratio]").click()
    assert hover(browser, 15_000)["position"] == "15001 of 16000"


def test_the_policy_stops_what_the_escaping_would_miss(tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "page.html"
    path.write_text(tokenpage.page(rollouts()), "utf-8")
    browser.get(path.as_uri())
    ready(browser)
    inject = "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:x\" onerror=\"window.pwned=1\">')"
    browser.execute_script(inject)
    blocked = "const done = arguments[0]; setTimeout(() => done(window.pwned === undefined), 500)"
    assert browser.execute_async_script(blocked)
    browser.get_log("browser")
