// Menus behind a button, usable by keyboard as the ARIA practices say.
//
// Owns which one is open. An item is `{ label, glyph?, run?, href?, checked? }`. Must not know what items do.

import { h, redraw } from "./dom.js";
import { icon } from "./icons.js";

let openId = null;

function close(refocus) {
	const id = openId;
	openId = null;
	if (refocus) document.getElementById(id)?.focus();
	redraw();
}

document.addEventListener("pointerdown", (event) => {
	if (openId && !event.target.closest(".menu-holder")) close(false);
});

/** A button with its menu. */
export function menu(id, label, items) {
	const open = openId === id;
	const props = {
		id,
		type: "button",
		class: "icon-button",
		"aria-label": label,
		title: label,
		"aria-haspopup": "menu",
		"aria-expanded": String(open),
		onclick: () => (open ? close(true) : (openId = id)),
		onkeydown: (event) => {
			if (event.key === "ArrowDown" && !open) {
				event.preventDefault();
				openId = id;
			}
		},
	};
	return h("div", { class: "menu-holder", key: id }, h("button", props, icon("kebab")), open && list(label, items));
}

function list(label, items) {
	const props = {
		role: "menu",
		class: "menu",
		"aria-label": label,
		oncreate: (element) => element.firstElementChild.focus(),
		onkeydown: keys,
		onfocusout: (event) => event.relatedTarget && !event.currentTarget?.contains(event.relatedTarget) && close(false),
	};
	return h("div", props, items.filter(Boolean).map(item));
}

function item({ label, glyph, run, href, checked }) {
	const role = checked === undefined ? "menuitem" : "menuitemradio";
	const mark = checked === undefined ? glyph : checked ? "check" : null;
	const content = [h("span", { class: "menu-icon" }, mark && icon(mark, 16)), label];
	const props = { role, tabindex: -1, key: label, "aria-checked": checked === undefined ? null : String(checked) };
	if (href) return h("a", { ...props, href, target: "_blank", rel: "noopener", onclick: () => close(true) }, content);
	const onclick = () => {
		close(true);
		return run();
	};
	return h("button", { ...props, type: "button", onclick }, content);
}

function keys(event) {
	const all = [...event.currentTarget.children];
	const now = all.indexOf(document.activeElement);
	const to = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: all.length - 1 }[event.key];
	if (to !== undefined) {
		event.preventDefault();
		all.at(to % all.length).focus();
	} else if (event.key === "Escape" || event.key === "Tab") {
		if (event.key === "Escape") event.preventDefault();
		event.stopPropagation();
		close(true);
	}
}
