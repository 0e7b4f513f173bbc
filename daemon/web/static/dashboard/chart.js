/** Charts: bars of a counter with the window before as a faint line, and sparklines. Colours come from the CSS. */

/* global uPlot */
import { bucketNames, compact, number } from "./format.js";
import { h, write } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const LABEL_REM = 4.5; // a name under the axis, and some room
const remPx = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
const STEPS = [1, 2, 3, 4, 6, 7, 12, 14, 24, 28, 30, 56, 90];

const all = new Set();
const colours = matchMedia("(prefers-color-scheme: dark)");
const forced = matchMedia("(forced-colors: active)");
for (const query of [colours, forced]) query.addEventListener("change", () => all.forEach((chart) => chart.rebuild()));

/** One counter over time. The chart is an image with a description; its table is beside it. */
export class Chart {
  #plot;
  #data;
  #names;
  #seen;
  #group;

  /** `group`: charts of one group show the same moment under the pointer. */
  constructor(group) {
    this.#group = group;
    this.readout = h("p.readout", { "aria-live": "polite" });
    this.element = h("div.chart", {
      role: "img",
      tabindex: "0",
      onkeydown: (event) => this.#step(event),
      onblur: () => this.#leave(),
    });
    this.#seen = new ResizeObserver(() => this.#fit());
    this.#seen.observe(this.element);
    all.add(this);
  }

  /**
   * `labels`: buckets, oldest first. `now` and `before`: an amount each; `before` may be null, and so are amounts of
   * hours to come. `open`: the bucket that is not over yet. `about`: what a screen reader says.
   */
  draw({ labels, now, before, open, about }) {
    const closed = now.map((amount, index) => (labels[index] === open ? null : amount));
    const running = now.map((amount, index) => (labels[index] === open ? amount : null));
    this.#names = labels.map(bucketNames);
    this.#data = [labels.map((_, index) => index), closed, running, before ?? now.map(() => null)];
    this.element.setAttribute("aria-label", about);
    if (this.#plot) this.#plot.setData(this.#data);
    else this.rebuild();
  }

  rebuild() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!this.#data || !width) return;
    this.#plot?.destroy();
    this.#plot = new uPlot(this.#options(width, height), this.#data, this.element);
  }

  remove() {
    this.#seen.disconnect();
    this.#plot?.destroy();
    all.delete(this);
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (this.#plot && width) this.#plot.setSize({ width, height });
    else this.rebuild();
  }

  #options(width, height) {
    const css = getComputedStyle(this.element);
    const colour = (name) => css.getPropertyValue(name).trim();
    const font = `${0.72 * remPx()}px ${css.fontFamily}`;
    const rem = remPx();
    const bars = uPlot.paths.bars({ size: [0.74, 1.6 * rem], radius: [0.14, 0] });
    const axis = { stroke: colour("--soft"), font, ticks: { show: false } };
    const hidden = { points: { show: false } };
    return {
      width,
      height,
      padding: [0.5 * rem, this.#overhang(width / rem) * rem, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { setScale: false, x: false, y: false },
        points: { show: false },
        sync: { key: this.#group },
      },
      scales: {
        x: { time: false, range: (plot) => [-0.5, plot.data[0].length - 0.5] },
        y: { range: (_, low, high) => [0, Math.max(4, (high || 0) * 1.04)] },
      },
      series: [
        {},
        { ...hidden, paths: bars, fill: colour("--bar"), width: 0 },
        { ...hidden, paths: bars, fill: colour("--bar-open"), width: 0 },
        { ...hidden, stroke: colour("--before"), width: 1.5 },
      ],
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: 1.7 * rem,
          gap: 0.35 * rem,
          splits: (plot) => this.#marks(plot),
          values: (_, marks) => marks.map((index) => this.#names[index]?.[1] ?? ""),
        },
        {
          ...axis,
          grid: { stroke: colour("--line"), width: 1 },
          size: 3 * rem,
          gap: 0.4 * rem,
          space: 2.1 * rem,
          incrs: [1, 2, 5]
            .flatMap((each) => Array.from({ length: 15 }, (_, power) => each * 10 ** power))
            .sort((a, b) => a - b),
          values: (_, marks) => marks.map(compact),
        },
      ],
      hooks: { setCursor: [(plot) => this.#say(plot.cursor.idx)] },
    };
  }

  /** How far the last name under the axis reaches beyond its bar, in rem. */
  #overhang(width) {
    const bar = (width - 3) / this.#names.length;
    return Math.max(0.2, (0.5 * this.#names.at(-1)[1].length - bar) / 2);
  }

  /** Where names stand under the axis: evenly, counted from the newest, or at whole hours. */
  #marks(plot) {
    const count = plot.data[0].length;
    const room = Math.max(1, Math.floor(plot.bbox.width / devicePixelRatio / (LABEL_REM * remPx())));
    const step = STEPS.find((each) => count / each <= room) ?? Math.ceil(count / room);
    const hours = this.#names[0]?.[1].endsWith(":00");
    const from = hours ? (step - (Number(this.#names[0][1].slice(0, 2)) % step)) % step : (count - 1) % step;
    return Array.from({ length: Math.ceil((count - from) / step) }, (_, index) => from + index * step);
  }

  #say(index) {
    if (index == null || !this.#data) return write(this.readout, "");
    const [, closed, running, before] = this.#data;
    const said = [closed[index] ?? running[index], before[index]].map((amount) =>
      amount == null ? null : number(amount),
    );
    write(
      this.readout,
      `${this.#names[index][0]}: ${said[0] ?? "to come"}${said[1] == null ? "" : `, before ${said[1]}`}`,
    );
  }

  /** The arrow keys move from bar to bar. */
  #step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!by || !this.#plot) return;
    event.preventDefault();
    const last = this.#data[0].length - 1;
    const index = Math.max(0, Math.min(last, (this.#plot.cursor.idx ?? (by < 0 ? last + 1 : -1)) + by));
    this.#plot.setCursor({ left: this.#plot.valToPos(index, "x"), top: 0 });
  }

  #leave() {
    this.#plot?.setCursor({ left: -10, top: -10 });
  }
}

/** A small line without axes: only its shape counts. */
export function sparkline(amounts) {
  const width = 100,
    height = 24,
    most = Math.max(1, ...amounts);
  const x = (index) => ((index * width) / Math.max(1, amounts.length - 1)).toFixed(1);
  const y = (amount) => (height - 1.5 - (amount / most) * (height - 3)).toFixed(1);
  const line = amounts.map((amount, index) => `${index ? "L" : "M"}${x(index)} ${y(amount)}`).join("");
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
    class: "spark",
  }))
    svg.setAttribute(name, value);
  for (const [kind, d] of [
    ["area", `${line}L${width} ${height}L0 ${height}Z`],
    ["line", line],
  ]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", amounts.length > 1 ? d : "");
    svg.append(path);
  }
  return svg;
}
