// Something that is fetched when it is looked at: its content, or what went wrong, or that it is under way.
//
// Owns these three states. Must not know what is fetched.

import { redraw } from "./dom.js";
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
