"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);

  // Colours are names of the style sheet's variables: replace them by what is in force now.
  function coloured(value, style) {
    if (typeof value === "string") {
      return /^--[a-z0-9-]+$/.test(value) ? style.getPropertyValue(value).trim() || value : value;
    }
    if (Array.isArray(value)) return value.map((part) => coloured(part, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
    }
    return value;
  }

  async function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const { key, traces, layout } of figures) {
      const page = {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: style.getPropertyValue("--ink").trim(), family: getComputedStyle(document.body).fontFamily, size: 13 },
      };
      const figure = coloured({ traces, layout: { ...layout, ...page } }, style);
      await Plotly.react(key, figure.traces, figure.layout, {
        responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false,
      });
    }
    document.documentElement.dataset.drawn = String(figures.length);
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Paper is light whatever the screen is.
  addEventListener("beforeprint", () => { document.documentElement.dataset.paper = ""; draw(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.paper; draw(); });
})();
