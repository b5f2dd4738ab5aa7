"""The pages as a reader sees them: opened from disk in a headless Chromium."""

import math

import numpy as np
import pytest
import webdriver
from PIL import Image

from util.reports import training_page
from util.reports.results_page import ResultsPage
from util.reports.training_page import TrainingPage

pytestmark = pytest.mark.skipif(bool(webdriver.MISSING), reason=webdriver.MISSING)

HOSTILE = """<img src=x onerror=window.ran=1>"'&</script><script>window.ran=2</script>.png"""
SMOOTHING_OFF = """
    const slider = document.getElementById("smooth");
    slider.value = 0;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
"""
# For each chart, the number of pixels in exactly the colour of its curve.
CURVE_PIXELS = """
    return [...document.querySelectorAll(".chart")].map((chart) => {
      const canvas = chart.querySelector("canvas");
      const color = getComputedStyle(chart.querySelector(".swatch")).backgroundColor;
      const [r, g, b] = color.match(/\\d+/g).map(Number);
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4)
        count += data[i] === r && data[i + 1] === g && data[i + 2] === b && data[i + 3] === 255;
      return count;
    });
"""
# Notes every label of a y-axis from now on, as [text, where it begins on the canvas].
NOTE_LABELS = """
    const draw = CanvasRenderingContext2D.prototype.fillText;
    window.labels = [];
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
      if (this.textAlign === "right") labels.push([text, x - this.measureText(text).width]);
      draw.call(this, text, x, y);
    };
"""
LOAD_ALL_IMAGES = """
    return Promise.all([...document.images].map((image) => {
      image.loading = "eager";
      return image.decode().then(() => image.naturalWidth);
    }));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with webdriver.browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def web(tmp_path):
    return tmp_path / "a folder # 100%" / "web"  # the page's own address needs care, too


def gradient(phase: float) -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64] / 16
    waves = np.sin(np.stack([x + phase, y + phase, x * y + phase], axis=-1))
    return np.uint8(127.5 * (waves + 1))


def add_epoch(page: TrainingPage, epoch: int) -> None:
    for step in range(1, 21):
        seen = 20 * (epoch - 1) + step
        page.add_losses(epoch, seen, {"G": 1 + 5 / seen, "D": 0.5 + 0.2 * math.sin(seen)})
    page.add_visuals(epoch, seen, {"real_A": gradient(epoch), "fake_B": gradient(epoch + 1)})


def open_page(browser, page) -> None:
    browser.open(page.folder / "index.html")
    browser.wait("document.querySelector('.chart canvas')")


def values(browser) -> list[str]:
    return browser.js("return [...document.querySelectorAll('.chart output')].map(o => o.value)")


def epochs(browser) -> list[str]:
    return browser.js("return [...document.querySelectorAll('.epoch h3')].map(h => h.textContent)")


def in_plot(browser, part: float) -> tuple[float, float]:
    """A place inside the first chart, `part` of its width from its left."""
    box = browser.js("return document.querySelector('.u-over').getBoundingClientRect().toJSON()")
    return box["left"] + part * box["width"], box["top"] + box["height"] / 2


def test_curves_are_drawn_and_images_loaded_newest_first(browser, web):
    page = TrainingPage(web, "facades", {"lr": 0.0002})
    for epoch in (1, 2, 3):
        add_epoch(page, epoch)
    open_page(browser, page)
    browser.wait("document.images.length == 6")
    assert min(browser.js(CURVE_PIXELS)) > 50
    assert browser.js(LOAD_ALL_IMAGES) == [64] * 6
    assert epochs(browser) == ["Epoch 3", "Epoch 2", "Epoch 1"]
    assert browser.js("return document.images[1].alt") == "fake_B"
    assert "Epoch 3, 60 images seen" in browser.js("return document.body.textContent")
    assert browser.console() == []


def test_curves_take_the_colours_of_the_dark_scheme(browser, web):
    page = TrainingPage(web, "t")
    add_epoch(page, 1)
    open_page(browser, page)
    color = "getComputedStyle(document.querySelector('.swatch')).backgroundColor"
    light = browser.js(f"return {color}")
    browser.dark(True)
    try:
        browser.wait(f"{color} != '{light}' && (() => {{ {CURVE_PIXELS} }})().every(n => n > 20)")
    finally:
        browser.dark(False)


def test_values_beside_the_curves(browser, web):
    page = TrainingPage(web, "t")
    page.add_losses(1, 100, {"G": 0.0, "D": 7.25})
    page.add_losses(2, 200, {"G": 1.0, "D": 7.25})
    open_page(browser, page)
    # Average over 10: (0.9 * 0.1 * 0 + 0.1 * 1) / (0.9 * 0.1 + 0.1) = 0.1 / 0.19
    assert values(browser) == ["0.5263", "7.25"]
    browser.js(SMOOTHING_OFF)
    assert values(browser) == ["1", "7.25"]
    browser.move_pointer(in_plot(browser, 0.01))
    browser.wait("document.getElementById('position').value == 'epoch 1, 100 images seen'")
    assert values(browser) == ["0", "7.25"]
    assert browser.console() == []


def test_a_loss_that_starts_later_keeps_its_place(browser, web):
    page = TrainingPage(web, "t")
    page.add_losses(1, 100, {"G": 1.0})
    page.add_losses(1, 200, {"G": 2.0, "D": 8.0})
    page.add_losses(1, 300, {"G": 3.0, "D": 9.0})
    open_page(browser, page)
    browser.js(SMOOTHING_OFF)
    for part, shown in [(0.02, ["1", "–"]), (0.5, ["2", "8"]), (0.98, ["3", "9"])]:
        browser.move_pointer(in_plot(browser, part))
        browser.wait(f"document.querySelector('.chart output').value == {shown[0]}")
        assert values(browser) == shown
    assert browser.console() == []


def test_switches_draw_what_they_say(browser, web):
    page = TrainingPage(web, "t")
    for step in range(1, 50):
        near = 3 + 0.001 * math.sin(step)  # a log axis within less than a decade
        odd = {"negative": -1.0, "zero": 0.0, "gap": math.nan, "near": near}
        odd["long"] = 0.11 * 380 ** ((step - 1) / 48)  # hangs uPlot 1.6.32
        page.add_losses(1, step, {"wide": 10.0 ** (step % 9 - 4), **odd, "wgan": math.cos(step)})
    open_page(browser, page)
    count = "return document.querySelectorAll('canvas').length"
    for switch in ("log", "together", "log", "together"):
        browser.js(f"document.getElementById('{switch}').click()")
        assert browser.js(count) == (1 if browser.js("return together.checked") else 7)
    browser.js("document.querySelector('#names input').click()")
    assert browser.js(count) == 6
    browser.js("document.querySelectorAll('#names input:checked').forEach(box => box.click())")
    assert browser.js(count) == 0
    assert browser.console() == []


@pytest.mark.parametrize(
    "low, high",
    [(0.58401, 0.58412), (12344.6, 12346.4), (-1234.58, -1234.56), (1e-7, 2e-6), (1e9, 1.4e9),
     (0.0001, 10000), (0, 0)],
)  # fmt: skip
def test_labels_of_the_y_axis_are_whole_and_differ(browser, web, low, high):
    page = TrainingPage(web, "t")
    for step in range(20):
        page.add_losses(1, step, {"G": high if step % 2 else low})
    open_page(browser, page)
    browser.js(NOTE_LABELS)
    for _ in ("log scale", "linear scale"):
        browser.js("labels.length = 0; document.getElementById('log').click()")
        browser.wait("labels.length")
        labels = browser.js("return labels")
        assert min(left for _, left in labels) >= 0, labels
    assert len({text for text, _ in labels}) == len(labels)
    assert sum(low <= float(text) <= high for text, _ in labels) >= (2 if low < high else 1)
    assert browser.console() == []


def test_one_update_is_enough_for_every_switch(browser, web):
    page = TrainingPage(web, "t")
    page.add_losses(1, 100, {"G": 0.0})
    open_page(browser, page)
    for switch in ("log", "together"):
        browser.js(f"document.getElementById('{switch}').click()")
    assert values(browser) == ["0"]
    assert browser.console() == []


def test_an_open_page_follows_the_training(browser, web, monkeypatch):
    monkeypatch.setattr(training_page, "REFRESH_SECONDS", 0.2)
    page = TrainingPage(web, "t")
    for epoch in range(1, 8):
        add_epoch(page, epoch)
    open_page(browser, page)
    browser.js(LOAD_ALL_IMAGES)
    # At the very end, where a page that gets shorter while it is redrawn would jump.
    browser.js("window.last = document.querySelectorAll('.epoch')[6]; scrollTo(0, 1e9)")
    place = browser.js("return last.getBoundingClientRect().top")
    add_epoch(page, 8)
    browser.wait("document.querySelectorAll('.epoch').length == 8")
    assert epochs(browser) == [f"Epoch {epoch}" for epoch in range(8, 0, -1)]
    browser.wait(f"Math.abs(last.getBoundingClientRect().top - {place}) < 2")
    page.add_visuals(8, 161, {"only": gradient(9)})
    browser.wait("document.images[0].alt == 'only'")
    assert len(epochs(browser)) == 8
    assert browser.console() == []


def test_a_zoom_outlives_an_update(browser, web, monkeypatch):
    monkeypatch.setattr(training_page, "REFRESH_SECONDS", 0.2)
    page = TrainingPage(web, "t")
    for seen in range(1, 101):
        page.add_losses(1, seen, {"G": seen, "D": seen})
    open_page(browser, page)
    browser.js(SMOOTHING_OFF)
    browser.move_pointer(in_plot(browser, 0.5), in_plot(browser, 0.6), in_plot(browser, 0.9))
    browser.move_pointer(in_plot(browser, 0.01))
    browser.wait("document.querySelector('.chart output').value > 45")
    page.add_losses(1, 101, {"G": 101, "D": 101})
    browser.wait("document.getElementById('status').textContent.includes('101')")
    browser.move_pointer(in_plot(browser, 0.98))
    browser.wait("Math.abs(document.querySelector('.chart output').value - 90) < 3")
    assert len(set(values(browser))) == 1  # the charts move together
    assert browser.console() == []


def test_a_half_written_line_does_not_blank_an_open_page(browser, web, monkeypatch):
    monkeypatch.setattr(training_page, "REFRESH_SECONDS", 0.2)
    page = TrainingPage(web, "t")
    add_epoch(page, 1)
    open_page(browser, page)
    browser.js("window.refused = 0; addEventListener('error', () => refused++)")
    with open(web / "data.js", "a") as file:
        file.write('add({"epoch": 2, "total_iters": 21, "losses": [["G", 5')
        file.flush()
        browser.wait("refused > 1")
        assert epochs(browser) == ["Epoch 1"]
        file.write("]]});\n")
    browser.wait("document.getElementById('status').textContent.startsWith('Epoch 2')")
    assert all("data.js" in message for message in browser.console())


def test_a_page_cut_off_by_a_kill_says_what_mends_it(browser, web):
    page = TrainingPage(web, "t")
    add_epoch(page, 1)
    with open(web / "data.js", "a") as file:
        file.write('add({"epoch": 2, "tot')
    browser.open(web / "index.html")
    browser.wait("document.getElementById('status').textContent.includes('--continue_train')")
    browser.console()  # the browser's complaint about the line
    open_page(browser, TrainingPage(web, "t", resume_at=20))
    assert browser.console() == []


def test_hostile_text_on_the_training_page_is_text(browser, web):
    page = TrainingPage(web, HOSTILE, {HOSTILE: HOSTILE})
    page.add_losses(1, 100, {HOSTILE: 1.0, "__proto__": 2.0, "constructor": 3.0})
    page.add_visuals(1, 100, {HOSTILE[:30]: gradient(1)}, [HOSTILE])
    open_page(browser, page)
    assert browser.js(LOAD_ALL_IMAGES) == [64]  # and no other image
    assert browser.js("return document.title") == HOSTILE
    shown = browser.js("return document.querySelector('.epoch').textContent")
    assert HOSTILE in shown and HOSTILE[:30] in shown
    assert browser.js("return document.querySelector('.chart b').textContent") == HOSTILE
    assert values(browser) == ["1", "2", "3"]
    assert browser.js("return [window.ran ?? null, document.scripts.length]") == [None, 2]
    assert browser.console() == []
    # the policy stops a script that gets in all the same
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.ran=1>')")
    browser.wait("document.images[document.images.length - 1].complete")
    assert browser.js("return window.ran ?? null") is None
    assert any("Content Security Policy" in message for message in browser.console())


def test_results_page_shows_its_images_and_hostile_names(browser, tmp_path):
    (tmp_path / "images").mkdir()
    names = ["1_fake.png", HOSTILE.replace("/", "_"), "50% off #1?.png", "größe.png"]
    with ResultsPage(tmp_path, HOSTILE) as page:
        for name in names:
            Image.fromarray(gradient(len(name))).save(tmp_path / "images" / name)
            page.add(name, {HOSTILE: f"images/{name}"})
    browser.open(tmp_path / "index.html")
    assert browser.js(LOAD_ALL_IMAGES) == [64] * 4
    rows = "return [...document.querySelectorAll('.row h3')].map(h => h.textContent)"
    assert browser.js(rows) == names
    assert browser.js("return document.querySelector('figcaption').textContent.trim()") == HOSTILE
    assert browser.js("return [window.ran ?? null, document.scripts.length]") == [None, 0]
    assert browser.console() == []
