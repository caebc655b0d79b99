// Something that is fetched when it is looked at: its content, or what went wrong, or that it is under way.
//
// Owns these three states. Must not know what is fetched.

import { h, redraw } from "./dom.js";
import { failure, loading } from "./ui.js";

/** Fetches by `call` whenever `load()` is called. */
export function resource(call) {
	const self = { data: null, error: null, busy: false };
	self.load = async () => {
		if (self.busy) return;
		self.busy = true;
		redraw();
		try {
			[self.data, self.error] = [await call(), null];
		} catch (error) {
			self.error = error;
		}
		self.busy = false;
		redraw();
	};
	/** What is there now, by `show`. */
	self.view = (show) => [failure(self.error), self.data != null ? show(self.data) : self.busy && loading()];
	return self;
}

/** A table with a name: heads, and rows of cells; `numbers` are the columns that stand to the right. */
export function table(label, heads, rows, numbers = []) {
	const style = (index) => (numbers.includes(index) ? "number" : "");
	const head = h("tr", null, heads.map((label, index) => h("th", { scope: "col", class: style(index) }, label)));
	const body = rows.map((cells) => h("tr", null, cells.map((cell, index) => h("td", { class: style(index) }, cell))));
	return h("div", { class: "table", tabindex: 0, role: "group", "aria-label": label }, h("table", null, h("thead", null, head), h("tbody", null, body)));
}
