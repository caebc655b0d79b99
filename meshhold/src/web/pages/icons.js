// The few icons, as SVG paths on a grid of 24.
//
// Owns their shapes. They are decoration: whatever uses one also says in words what it means.

import { h } from "./dom.js";

const PATHS = {
	network: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM5 3a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM19 3a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM5 17a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM19 17a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM6.5 6.5 9.8 9.9M17.5 6.5l-3.3 3.4M6.5 17.5l3.3-3.4M17.5 17.5l-3.3-3.4",
	keys: "M8 11a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM11.2 12.3 20 3.5M15.5 8l3 3M18 5.5l2 2",
	drops: "M12 3s6.5 6.6 6.5 11a6.5 6.5 0 0 1-13 0C5.5 9.6 12 3 12 3zM9 14.5a3 3 0 0 0 3 3",
	health: "M3 12h4l2.5-7 4.5 14 2.5-7H21",
	kebab: "M12 4.5a1 1 0 1 0 0 2 1 1 0 0 0 0-2zM12 11a1 1 0 1 0 0 2 1 1 0 0 0 0-2zM12 17.5a1 1 0 1 0 0 2 1 1 0 0 0 0-2z",
	close: "M6 6l12 12M18 6 6 18",
	copy: "M9 9h11v11H9zM5 15H4V4h11v1",
	check: "M4.5 12.5l5 5 10-11",
	plus: "M12 5v14M5 12h14",
	join: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
	share: "M12 15V3.5M8 7.5l4-4 4 4M5 12v8h14v-8",
	edit: "M4 20l1-4.5L16.5 4l3.5 3.5L8.5 19z",
	trash: "M4.5 7h15M9 7V4h6v3M6.5 7l1 13h9l1-13",
	device: "M4 5h16v11H4zM9 20h6M12 16v4",
	warning: "M12 4 2.8 20h18.4zM12 10v4.5M12 17.3v.01",
	error: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM9 9l6 6M15 9l-6 6",
	ok: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM8 12.3l2.8 2.8 5.2-6",
	info: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 11v5.5M12 7.7v.01",
	relay: "M4 8h13l-3-3M20 16H7l3 3",
	pause: "M8 5v14M16 5v14",
	play: "M7 4.5v15l12-7.5z",
	refresh: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L20 9.2M20 4v5.2h-5.2",
	arrow: "M5 12h14M13 6l6 6-6 6",
	down: "M6 9l6 6 6-6",
	lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
};

/** The icon of that name. */
export function icon(name, size = 18) {
	const props = { class: "icon", viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" };
	return h("svg", props, h("path", { d: PATHS[name] }));
}

/** The mark of MeshHold: three nodes, one held in the middle. */
export function mark(size = 24) {
	return h(
		"svg",
		{ class: "mark", viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" },
		h("path", { d: "M12 2.5 20.5 7.3v9.4L12 21.5l-8.5-4.8V7.3z" }),
		h("path", { d: "M12 12 12 2.5M12 12l8.5 4.7M12 12l-8.5 4.7" }),
		h("circle", { cx: 12, cy: 12, r: 3.2 }),
	);
}
