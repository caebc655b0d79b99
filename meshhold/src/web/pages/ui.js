// Small parts that all pages share: copy buttons, pills, notices, fields, what is said aloud.
//
// Owns their form. Must not know networks, keys or drops.

import { h, redraw } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./texts.js";

let copied = null;
let said = "";

/** Says something to those who don't see the page change. */
export function announce(text) {
	said = text;
	redraw();
}

/** Where announcements stand: once in the topmost layer. */
export const announcer = () => h("p", { class: "quiet-live", role: "status", "aria-live": "polite" }, said);

/** Puts a text onto the clipboard. */
export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		copyBySelection(text);
	}
	copied = text;
	announce(t.copied);
	setTimeout(() => {
		if (copied === text) copied = null;
		announce("");
	}, 1600);
}

/** For browsers that keep the clipboard from pages without TLS. */
function copyBySelection(text) {
	const area = document.createElement("textarea");
	area.value = text;
	(document.querySelector("dialog[open]:last-of-type") ?? document.body).append(area);
	area.select();
	document.execCommand("copy");
	area.remove();
}

/** An icon that copies `text`; `what` names it for those who don't see it. */
export function copyButton(text, what) {
	const done = copied === text;
	const label = t.copyOf(what);
	const props = { type: "button", class: done ? "icon-button done" : "icon-button", "aria-label": label, title: label };
	return h("button", { ...props, onclick: () => copy(text) }, icon(done ? "check" : "copy", 15));
}

/** A text in fixed width with its copy button. */
export function copyable(text, what) {
	return h("span", { class: "copyable" }, h("code", null, text), copyButton(text, what));
}

/** A button. `kind`: "", "primary", "danger", "ghost". */
export function button(label, onclick, { kind = "", glyph, ...more } = {}) {
	return h("button", { type: "button", class: `button ${kind}`, onclick, ...more }, glyph && icon(glyph, 16), label);
}

/** A short word on a coloured ground. `tone`: "", "good", "relay", "bad". */
export const pill = (text, tone = "") => h("span", { class: `pill ${tone}` }, text);

/** Something to know. `tone`: "info", "warning", "error". */
export function notice(tone, ...content) {
	return h("div", { class: `notice ${tone}` }, icon(tone), h("div", { class: "notice-text" }, content));
}

/** What went wrong, if anything did. */
export const failure = (error) => error && h("div", { role: "alert" }, notice("error", h("p", null, error.message ?? error)));

/** Nothing is here yet; what to do next. */
export function empty(glyph, title, text, ...actions) {
	const body = [icon(glyph, 32), h("h2", null, title), h("p", null, text)];
	return h("section", { class: "empty" }, body, h("div", { class: "actions" }, actions));
}

/** A labelled control. */
export function field(label, control, { hint, error } = {}) {
	const id = control.props.id;
	if (hint) control.props["aria-describedby"] = `${id}-hint`;
	if (error) Object.assign(control.props, { "aria-invalid": "true", "aria-describedby": `${id}-error` });
	return h(
		"div",
		{ class: "field", key: id },
		h("label", { for: id }, label),
		control,
		error ? h("p", { class: "field-error", id: `${id}-error` }, error) : hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
	);
}

/** A line of text that the form keeps in `form[name]`. */
export function textInput(form, name, props = {}) {
	const oninput = (event) => (form[name] = event.target.value);
	return h("input", { id: `f-${name}`, name, type: "text", autocomplete: "off", value: form[name] ?? "", oninput, ...props });
}

/** A panel with a heading and, beside it, actions. */
export function panel(title, actions, ...content) {
	const id = `p-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
	const head = h("header", { class: "panel-head" }, h("h2", { id }, title), h("div", { class: "actions" }, actions));
	return h("section", { class: "panel", "aria-labelledby": id, key: id }, head, content);
}

/** Names with their values. Lines that are none are left out. */
export function facts(lines, kind = "") {
	const one = ([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));
	return h("dl", { class: `facts ${kind}` }, lines.filter(Boolean).map(one));
}

/** A table with a name: heads, and rows of cells; `numbers` are the columns that stand to the right. Cells flow where it is narrow. */
export function table(label, heads, rows, numbers = []) {
	const style = (index) => (numbers.includes(index) ? "number" : "");
	const head = h("tr", null, heads.map((text, index) => h("th", { scope: "col", class: style(index) }, text)));
	const body = rows.map((cells) => h("tr", null, cells.map((cell, index) => h("td", { class: style(index), "data-label": heads[index] }, cell))));
	return h("div", { class: "table flows" }, h("table", { "aria-label": label }, h("thead", null, head), h("tbody", null, body)));
}

/** Sentences to be warned by. */
export const warnings = (list) => list.length > 0 && notice("warning", list.map((text) => h("p", { key: text }, text)));

/** A peer's state, with a dot. */
export const stateOf = (state) => h("span", { class: `state ${state}` }, h("span", { class: "dot" }), t.states[state]);

/** While something is fetched. */
export const loading = () => h("p", { class: "loading" }, t.loading);
