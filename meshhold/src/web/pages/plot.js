// Traffic over time: a line for a table's cell, and a plot for a peer's sheet.
//
// Owns how rates become lines. Must not know whose they are.

import { h } from "./dom.js";
import { rate } from "./format.js";
import { t } from "./texts.js";

const STEP_MS = 2_000;

/** Rates on an even grid of the last `steps` steps; 0 where nothing was told. */
function grid(points, name, steps) {
	const sums = new Array(steps).fill(0);
	const counts = new Array(steps).fill(0);
	const now = Date.now();
	for (const point of points ?? []) {
		const step = steps - 1 - Math.floor((now - point.at) / STEP_MS);
		if (step < 0 || step >= steps) continue;
		sums[step] += point[name];
		counts[step] += 1;
	}
	return sums.map((sum, step) => (counts[step] ? sum / counts[step] : 0));
}

const path = (values, width, height, top) =>
	values.map((value, index) => `${index ? "L" : "M"}${((index * width) / (values.length - 1)).toFixed(1)} ${(height - 1 - ((height - 2) * value) / top).toFixed(1)}`).join("");

/** A minute of traffic in little room. */
export function sparkline(points) {
	const [rx, tx] = [grid(points, "rx", 30), grid(points, "tx", 30)];
	const sum = rx.map((value, index) => value + tx[index]);
	const top = Math.max(...sum, 1000);
	return h("svg", { class: "sparkline", viewBox: "0 0 72 22", width: 72, height: 22, "aria-hidden": "true" }, h("path", { d: path(sum, 72, 22, top) }));
}

/** 1, 2 or 5 times a power of ten: where the scale ends. */
function ceiling(value) {
	const power = 10 ** Math.floor(Math.log10(value));
	return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** Five minutes of traffic, both ways. */
export function plot(points) {
	const [width, height, steps] = [420, 130, 150];
	const [rx, tx] = [grid(points, "rx", steps), grid(points, "tx", steps)];
	const top = ceiling(Math.max(...rx, ...tx, 1000));
	const line = path(rx, width, height, top);
	const last = { rx: points?.at(-1)?.rx ?? 0, tx: points?.at(-1)?.tx ?? 0 };
	const picture = h("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": t.peer.plotOf(rate(Math.max(...rx)), rate(Math.max(...tx))) }, [
		[0.25, 0.5, 0.75].map((at) => h("path", { class: "grid-line", d: `M0 ${height * at}H${width}` })),
		h("path", { class: "rx-area", d: `${line}L${width} ${height}L0 ${height}z` }),
		h("path", { class: "rx-line", d: line }),
		h("path", { class: "tx-line", d: path(tx, width, height, top) }),
	]);
	const key = h("ul", { class: "legend" }, h("li", null, h("i", { class: "swatch rx" }), t.peer.received, " ", rate(last.rx)), h("li", null, h("i", { class: "swatch tx" }), t.peer.sent, " ", rate(last.tx)));
	const axis = h("div", { class: "axis" }, h("span", null, t.peer.plotStart), h("span", null, t.peer.plotEnd));
	return h("div", { class: "plot-frame" }, h("span", { class: "plot-top" }, rate(top)), picture, axis, key);
}
