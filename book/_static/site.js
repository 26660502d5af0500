// What the static pages do without a kernel: figures in the theme's colours, sliders that can be
// worked with a keyboard, and places that scroll sideways made reachable by one.
"use strict";

(() => {
  const figures = () => [...document.querySelectorAll(".plotly-graph-div")].filter((g) => g.data);
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The figure's template in the page's colours. What a figure sets itself stays as it is.
  function themed(template) {
    const [ink, grid, paper] = ["--figure-ink", "--figure-grid", "--paper"].map(colour);
    const axis = {
      gridcolor: grid, linecolor: grid, zerolinecolor: grid, tickcolor: grid,
      tickfont: { color: ink }, title: { ...template.layout?.xaxis?.title, font: { color: ink } },
    };
    const dress = (name) => ({ ...template.layout?.[name], ...axis });
    const layout = {
      ...template.layout,
      font: { ...template.layout?.font, color: ink },
      xaxis: dress("xaxis"),
      yaxis: dress("yaxis"),
      scene: Object.fromEntries(["xaxis", "yaxis", "zaxis"].map((a) => [a, { ...axis }])),
      annotationdefaults: { font: { color: ink }, arrowcolor: ink },
      shapedefaults: { line: { color: ink } },
      coloraxis: { colorbar: { tickfont: { color: ink }, outlinewidth: 0 } },
      hoverlabel: { bgcolor: paper, bordercolor: grid, font: { color: ink } },
      sliderdefaults: { bgcolor: grid, bordercolor: grid, tickcolor: ink, font: { color: ink } },
      updatemenudefaults: { bgcolor: paper, bordercolor: ink, font: { color: ink } },
    };
    return { ...template, layout };
  }

  const paint = (graph) =>
    window.Plotly.relayout(graph, { template: themed(graph.layout.template || {}) });

  // A title of HTML wraps on a phone; one inside the drawing is cut off.
  function liftTitle(graph, box) {
    const text = graph.layout.title?.text;
    const title = document.createElement("p");
    title.className = "figure-title";
    title.innerHTML = text || "";
    title.hidden = !text;
    box.prepend(title);
    if (text) window.Plotly.relayout(graph, { "title.text": "", "margin.t": 12 });
    return (next) => { if (next) { title.innerHTML = next; title.hidden = false; } };
  }

  // Plotly's slider is drawn, so neither a keyboard nor a screen reader reaches it.
  function replaceSlider(graph, box, setTitle) {
    const slider = graph.layout.sliders?.[0];
    const frames = graph._transitionData?._frames ?? [];
    if (!slider || !frames.length) return;
    const prefix = (slider.currentvalue?.prefix || "").replace(/\s*=\s*$/, "");
    const control = document.createElement("div");
    control.className = "figure-control";
    const label = document.createElement("label");
    const input = document.createElement("input");
    const output = document.createElement("output");
    const last = slider.steps.length - 1;
    Object.assign(input, { type: "range", min: 0, max: last, step: 1, value: slider.active || 0 });
    input.id = `${graph.id}-control`;
    label.htmlFor = output.htmlFor = input.id;
    label.append(`${prefix} = `, output);
    control.append(label, input);
    box.insertBefore(control, graph);
    const show = () => {
      const step = slider.steps[input.value];
      const frame = frames.find((f) => f.name === step.args[0][0]);
      output.textContent = step.label;
      input.setAttribute("aria-valuetext", `${prefix} = ${step.label}`);
      setTitle(frame.layout?.title?.text);
      return window.Plotly.react(graph, frame.data, graph.layout);
    };
    input.addEventListener("input", show);
    window.Plotly.relayout(graph, { sliders: [] }).then(show);
  }

  function setUp(graph) {
    const box = graph.parentElement;
    paint(graph);
    replaceSlider(graph, box, liftTitle(graph, box));
    let width = graph.clientWidth;
    // The window may stay as it is while a sidebar opens or a folded answer unfolds.
    new ResizeObserver(() => {
      if (graph.clientWidth === width || !graph.clientWidth) return;
      width = graph.clientWidth;
      window.Plotly.Plots.resize(graph);
    }).observe(graph);
  }

  // What scrolls sideways must be reachable by keyboard; what does not must not stop the tab key.
  function reachScrolling() {
    const places =
      "pre, .pst-scrollable-table-container, .cell_output .text_html, div.math, mjx-container";
    document.querySelectorAll(places).forEach((place) => {
      const scrolls = place.scrollWidth > place.clientWidth + 1;
      if (scrolls) place.setAttribute("tabindex", "0");
      else if (place.tagName !== "MJX-CONTAINER") place.removeAttribute("tabindex");
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    figures().forEach(setUp);
    new MutationObserver(() => figures().forEach(paint)).observe(document.documentElement, {
      attributes: true, attributeFilter: ["data-theme"],
    });
    // At once, when the window changes, and when something unfolds: what lay folded had no width.
    new ResizeObserver(reachScrolling).observe(document.querySelector("article") ?? document.body);
    window.MathJax?.startup?.promise?.then(reachScrolling);
  });
})();
