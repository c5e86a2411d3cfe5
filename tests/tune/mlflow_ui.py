"""MLflow's user interface, used as a person does: in a browser, with the mouse and the keyboard.

    python -m tests.tune.mlflow_ui URI EXPERIMENT FOLDER    # screenshots for the documentation

Every step waits for what it wants to see, so that a slow machine makes it slow and not wrong.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.tune.tracked import Store

SECONDS = 45
SIZE = (1500, 900)
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# A run's name and the cells that belong to it stand in two tables side by side, in the order of `row-index` alone.
ROWS = """
const rows = new Map();
const tables = ['.ag-pinned-left-cols-container', '.ag-center-cols-container'];
for (const row of document.querySelectorAll(tables.map(table => `${table} [role=row]`).join(','))) {
    const index = Number(row.getAttribute('row-index'));
    if (!rows.has(index)) rows.set(index, {});
    for (const cell of row.querySelectorAll('[role=gridcell]')) {
        const link = cell.querySelector('a[href*="/runs/"]');
        rows.get(index)[cell.getAttribute('col-id')] = (link || cell).textContent.trim();
        if (link) rows.get(index).name = link.textContent.trim();
    }
}
return [...rows.entries()].sort((a, b) => a[0] - b[0]).map(entry => entry[1]);
"""
SCROLL_ON = """
const [list] = arguments;
const end = list.scrollTop + list.clientHeight >= list.scrollHeight - 1;
list.scrollTop = end ? 0 : list.scrollTop + 150;
"""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium from the system's packages."""
    assert CHROMIUM is not None and CHROMEDRIVER is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--window-size={SIZE[0]},{SIZE[1]}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class MlflowUi:
    """The pages of an MLflow server that show an experiment's runs and compare them.

    Args:
        driver: the browser.
        uri: where the server is.
    """

    def __init__(self, driver: webdriver.Chrome, uri: str) -> None:
        self._driver, self._uri = driver, uri

    # Looking and waiting

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The first value of a condition that is one; a page that is being drawn anew counts as not yet."""
        wait = WebDriverWait(self._driver, SECONDS, 0.1, ignored_exceptions=[WebDriverException])
        return wait.until(lambda _: condition(), f"{what} does not come")

    def _find(self, selector: str) -> list[WebElement]:
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def _click(self, selector: str) -> None:
        def clicked() -> bool:
            self._driver.find_element(By.CSS_SELECTOR, selector).click()
            return True

        self.wait(clicked, selector)

    def screenshot(self, path: Path) -> None:
        """A picture of the page, from its top."""
        self._driver.execute_script(
            "document.activeElement.blur(); document.querySelector('h1, h2').scrollIntoView()"
        )
        assert self._driver.save_screenshot(str(path))

    # The list of runs

    def open(self, experiment: str) -> None:
        """The runs of an experiment, by its id."""
        self._driver.get(f"{self._uri}/#/experiments/{experiment}/runs")
        self.wait(self.rows, "the list of runs")
        self._close_assistant()

    def follow(self, link: str) -> None:
        """Open a link as a browser does that had no page of MLflow's open."""
        self._driver.get("about:blank")
        self._driver.get(link)

    @property
    def address(self) -> str:
        """What the address bar shows."""
        return str(self._driver.current_url)

    def _close_assistant(self) -> None:
        if close := self._find('[data-component-id="mlflow.assistant.chat_panel.close"]'):
            close[0].click()

    def rows(self) -> list[dict[str, str]]:
        """What the list shows, from the top; a run's name is its `name`, its columns have MLflow's names."""
        rows: list[dict[str, str]] = self._driver.execute_script(ROWS)
        return [row for row in rows if row.get("name")]

    def names(self) -> list[str]:
        """The names of the runs in the list."""
        return [row["name"] for row in self.rows()]

    def unfold(self, study: str) -> None:
        """Show a study's children: a click on the plus beside it."""
        before = self.names()
        row = before.index(study)
        self._click(f'[row-index="{row}"] [data-component-id*="runnamecellrenderer"]')
        self.wait(lambda: len(self.names()) > len(before), "children")

    def filter(self, text: str) -> None:
        """Type a filter and press Enter."""
        self._click("[data-testid=search-box]")
        box = self._find("[data-testid=search-box]")[0]
        box.send_keys(text, Keys.ENTER)
        self.wait(lambda: "searchFilter=tags" in self._driver.current_url, "the filter")

    def sort(self, metric: str) -> None:
        """Sort by a metric, the lowest first."""
        self._click("[data-testid=sort-select-dropdown]")
        self._click(f'[data-testid="sort-select-{metric}"]')
        self._click("[data-testid=sort-select-dropdown]")
        self._click("[data-testid=sort-select-asc]")
        self._driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.wait(lambda: "orderByAsc=true" in self._driver.current_url, "the order")

    def select(self, name: str) -> None:
        """Tick a run's box."""
        row = self.names().index(name)
        box = f'.ag-pinned-left-cols-container [row-index="{row}"] input[type=checkbox]'
        self._click(box)
        self.wait(lambda: self._find(box)[0].is_selected(), f"the tick at {name}")

    # The comparison

    def compare(self) -> None:
        """Open the comparison of the runs that are ticked."""
        self._click("[data-testid=runs-compare-button]")
        self.wait(self.axes, "the parallel coordinates")

    def axes(self) -> list[str]:
        """What the axes of the parallel coordinates are called, from the left."""
        return [title.text for title in self._find("text.axis-title")]

    def compared(self) -> int:
        """How many runs are compared, as the heading says: Comparing 6 Runs from 1 Experiment."""
        return int(self._find("h1, h2")[0].text.split()[1])

    def show_metric(self, name: str) -> None:
        """Take a metric as the last axis, in the place of the one that MLflow chose."""
        _, box = self._find('.du-bois-light-select [role="combobox"]')
        for remove in self._find(".du-bois-light-select-selection-item-remove")[-1:]:
            remove.click()
        self._driver.execute_script(
            "arguments[0].closest('.du-bois-light-select-selector').scrollIntoView()", box
        )
        box.send_keys(Keys.ARROW_DOWN)

        def chosen() -> bool:
            open_lists = [one for one in self._find(".rc-virtual-list-holder") if one.is_displayed()]
            if not open_lists:  # a page that was drawn anew has closed it
                box.send_keys(Keys.ARROW_DOWN)
                return False
            for option in self._find(".du-bois-light-select-item-option"):
                if option.text == name:
                    option.click()
                    return True
            # Only what is in sight is there, and it is drawn a moment after the scrolling: after the end from the top.
            self._driver.execute_script(SCROLL_ON, open_lists[-1])
            return False

        self.wait(chosen, name)
        box.send_keys(Keys.ESCAPE)
        self.wait(lambda: name in self.axes(), f"the axis {name}")


def main() -> None:
    """See the head of this file."""
    uri, experiment, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    client = Store(Path("/nowhere"), uri).client()
    with browser() as driver:
        ui = MlflowUi(driver, uri)
        ui.open(client.get_experiment_by_name(experiment).experiment_id)
        (study,) = ui.names()
        ui.unfold(study)
        ui.filter(f"tags.ssl.study = '{study}' AND tags.ssl.trial IS NOT NULL")
        ui.sort("val/error")
        ui.screenshot(folder / "mlflow-runs.png")
        for name in ui.names():
            ui.select(name)
        ui.compare()
        ui.show_metric("val/error")
        ui.screenshot(folder / "mlflow-compare.png")


if __name__ == "__main__":
    main()
