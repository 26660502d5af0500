"""Pictures of every page for people to look at: python tests/site/screenshots.py OUTDIR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from serving import DESKTOP, FLAGS, PHONE, chromium, pages, served, site_folder

LOOKS = {
    "desktop": dict(viewport=DESKTOP, color_scheme="light"),
    "phone": dict(viewport=PHONE, color_scheme="light", device_scale_factor=2, has_touch=True),
    "dark": dict(viewport=DESKTOP, color_scheme="dark"),
}


def main() -> int:
    """Write NAME-LOOK.png for each page and look, as tall as the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("page", nargs="*", help="only pages with one of these in their name")
    given = parser.parse_args()
    path = chromium()
    if path is None:
        print("no Chromium here: install the package chromium", file=sys.stderr)
        return 1
    given.outdir.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in pages() if not given.page or any(part in p for part in given.page)]
    with served(site_folder()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for look, settings in LOOKS.items():
            # A sidebar that slides would be caught half-way.
            context = browser.new_context(reduced_motion="reduce", **settings)
            for page_name in wanted:
                page = context.new_page()
                page.goto(f"{address}/{page_name}.html")
                page.wait_for_timeout(800)  # formulas and figures draw themselves
                target = given.outdir / f"{page_name.rpartition('/')[2]}-{look}.png"
                page.screenshot(path=target, full_page=True)
                page.close()
                print(target)
            context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
