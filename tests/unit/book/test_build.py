import sys
import threading
import types

import nbformat
import pytest
from filelock import FileLock

from build import SiteFailed, build, check_pages
from layout import BookError
from stage import stage

CONFIG = """\
title: Tiny
only_build_toc_files: true
execute: {execute_notebooks: force}
html: {use_repository_button: false}
sphinx:
  config: {html_static_path: [book/_static], mathjax_path: js/mathjax/tex-svg.js}
"""
TOC = """\
format: jb-book
root: book/start
chapters:
- file: chapters/01_ranks
- file: chapters/02_pairs
"""
PAGE = "<article><h1>{}</h1><script>var a = 'no word of this counts';</script>{}</article>"


@pytest.fixture
def site(book, monkeypatch):
    """The tiny book with a configuration, a table of contents and executed notebooks."""
    for name in ("results_page", "timings_page"):
        module = types.ModuleType(name)
        module.write = lambda executed, destination: destination.write_text("# Made\n")
        monkeypatch.setitem(sys.modules, name, module)
    book.write("_config.yml", CONFIG)
    book.write("_toc.yml", TOC)
    book.write("book/start.md", "# Start\n\nWords enough to make this a page of its own.\n")
    book.write("book/_static/site.js", "// nothing\n")
    book.write("book/_ext/extension.py", "def setup(app): pass\n")
    book.write("chapters/01_ranks.png", "picture")
    return book


def executed(site):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Chapter\n\nSome words that were executed.")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    for cell in notebook.cells:
        cell["id"] = "cell-0"
    for chapter in site.chapters():
        site.write(f"_build/executed/smoke/{chapter.stem}.ipynb", nbformat.writes(notebook))


def test_the_staged_tree_holds_notebooks_scripts_and_a_configuration_that_executes_nothing(site):
    executed(site)
    for stray in ("book/start.ipynb", "book/.start.md.swp", "chapters/.ipynb_checkpoints/a.png"):
        site.write(stray, "no page")
    staged = stage(site, "smoke")
    names = {p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()}
    assert names >= {
        "chapters/01_ranks.ipynb",
        "chapters/01_ranks.png",
        "book/start.md",
        "book/results.md",
        "book/_ext/extension.py",
        "book/_static/js/plotly.min.js",
        "book/_static/js/mathjax/tex-svg.js",
        "genrec_lite/losses.py",
    }
    assert "chapters/01_ranks.md" not in names and "book/start.ipynb" not in names
    assert [name for name in names if "/." in name] == []
    assert "execute_notebooks: 'off'" in (staged / "_config.yml").read_text()


def test_a_page_of_the_contents_without_a_file_is_refused(site):
    executed(site)
    site.write("_toc.yml", TOC + "- file: chapters/03_none\n")
    with pytest.raises(BookError, match="_toc.yml names chapters/03_none"):
        stage(site, "smoke")


def test_a_chapter_that_is_not_in_the_contents_is_refused(site):
    executed(site)
    site.write("_toc.yml", TOC.replace("- file: chapters/02_pairs\n", ""))
    with pytest.raises(BookError, match="02_pairs.md is not in _toc.yml"):
        stage(site, "smoke")


def test_a_chapter_that_was_not_executed_is_refused(site):
    with pytest.raises(BookError, match="01_ranks.ipynb is missing: run the chapters"):
        stage(site, "smoke")


def test_a_page_that_was_not_built_or_is_empty_fails(site):
    html = site.build / "html"
    for page in ("book/start", "chapters/01_ranks"):
        site.write(f"_build/html/{page}.html", PAGE.format(page, "<p>five words of real text</p>"))
    with pytest.raises(SiteFailed, match="chapters/02_pairs is in the table of contents, but"):
        check_pages(html, site.root / "_toc.yml")
    page = site.write("_build/html/chapters/02_pairs.html", PAGE.format("A long heading", "no"))
    with pytest.raises(SiteFailed, match="02_pairs.html is empty: 1 words"):
        check_pages(html, site.root / "_toc.yml")
    page.write_text(PAGE.format("02", "<p>five words of real text</p>"))
    check_pages(html, site.root / "_toc.yml")


def test_a_second_build_of_a_site_says_that_it_waits_for_the_first(site, monkeypatch):
    events = []
    monkeypatch.setattr("build.run", lambda *_, **__: events.append("runs"))
    monkeypatch.setattr("build._site", lambda *_: events.append("builds"))
    (site.build / "smoke").mkdir(parents=True)
    with FileLock(site.build / "smoke" / "build.lock"):
        waits = threading.Event()

        def say(line):
            events.append(line)
            waits.set()

        second = threading.Thread(target=lambda: build("smoke", book=site, say=say))
        second.start()
        assert waits.wait(10)
        assert events == ["waiting for another build"]
    second.join(10)
    assert events == ["waiting for another build", "runs", "builds"]


def test_the_site_is_built_once_and_a_failed_build_leaves_the_old_site(site, monkeypatch):
    monkeypatch.setattr("build.run", lambda *_, **__: executed(site))
    lines = []
    html = build("smoke", book=site, say=lines.append)
    assert (html / "_static" / "js" / "plotly.min.js").exists()
    lines.clear()
    build("smoke", book=site, say=lines.append)
    assert lines == ["site: up to date"]

    site.write("book/start.md", "# Start\n\nWords and a {ref}`link-to-nowhere` in this page.\n")
    with pytest.raises(SiteFailed, match="WARNING.*link-to-nowhere"):
        build("smoke", book=site, say=lines.append)
    assert "Words enough" in (html / "book" / "start.html").read_text()
    assert not (site.build / "smoke" / "site.key").exists()  # or the next build would pass
