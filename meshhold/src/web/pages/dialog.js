// Dialogs: a stack of <dialog> elements. Focus, Esc and what lies below are the browser's, asking before input is lost is ours.
//
// Owns the stack. A dialog is `{ title, body(), sheet?, dirty?(), onclose?() }`. Must not know what is in it.

import { h, redraw } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./texts.js";
import { announcer, button, notice } from "./ui.js";

const stack = [];
let number = 0;

/** Opens a dialog on top of the others; yields it. */
export function openDialog(dialog) {
	dialog.id = `dialog-${++number}`;
	stack.push(dialog);
	redraw();
	return dialog;
}

/** Closes it, whatever was typed. */
export function closeDialog(dialog) {
	const place = stack.indexOf(dialog);
	if (place < 0) return;
	stack.splice(place, 1);
	dialog.onclose?.();
	redraw();
}

/** Closes all. */
export const closeAll = () => [...stack].forEach(closeDialog);

/** Whether any is open: then the announcer is in there. */
export const anyDialog = () => stack.length > 0;

/** Closes it, or asks first where something would be lost. */
export function leave(dialog) {
	if (!dialog.dirty?.() || dialog.asking) closeDialog(dialog);
	else dialog.asking = true;
}

export const dialogs = () => stack.map((dialog, index) => one(dialog, index === stack.length - 1));

function one(dialog, top) {
	const heading = `${dialog.id}-title`;
	const props = {
		key: dialog.id,
		class: dialog.sheet ? "sheet" : "box",
		"aria-labelledby": heading,
		oncreate: (element) => element.showModal(),
		onremove: (element) => element.close(),
		oncancel: (event) => {
			// A file picker's cancel event rises up here as well.
			if (event.target !== event.currentTarget && event.target.tagName !== "DIALOG") return;
			event.preventDefault();
			leave(dialog);
		},
		onmousedown: (event) => event.target.tagName === "DIALOG" && leave(dialog),
	};
	return h("dialog", props, h("div", { class: "dialog-frame" }, head(dialog, heading), content(dialog), top && announcer()));
}

function head(dialog, heading) {
	const close = { type: "button", class: "icon-button", "aria-label": t.close, title: t.close, onclick: () => leave(dialog) };
	return h("header", { class: "dialog-head" }, h("h2", { id: heading }, dialog.title), h("button", close, icon("close")));
}

function content(dialog) {
	return [dialog.asking && discard(dialog), dialog.body()];
}

function discard(dialog) {
	const keep = button(t.keepEditing, () => (dialog.asking = false), { kind: "primary", oncreate: (element) => element.focus() });
	const drop = button(t.discard, () => closeDialog(dialog), { kind: "danger" });
	const actions = h("div", { class: "actions" }, keep, drop);
	return h("div", { role: "alert", key: "discard" }, notice("warning", h("p", null, t.discardQuestion), actions));
}

/** A form in a dialog: Enter sends, the button waits for the answer. `submit` may throw; what it throws is shown. */
export function dialogForm(dialog, form, content, { action, submit, disabled, danger }) {
	const onsubmit = (event) => {
		event.preventDefault();
		if (!form.busy && !disabled) return send(form, submit);
	};
	const send_ = { type: "submit", class: `button ${danger ? "danger" : "primary"}`, disabled: disabled || form.busy };
	const actions = [button(t.cancel, () => leave(dialog), { kind: "ghost" }), h("button", send_, form.busy ? t.working : action)];
	return h("form", { class: "form", novalidate: true, onsubmit }, content, h("footer", { class: "actions end" }, actions));
}

/** Runs a call for a form, keeping what went wrong in `form.error`. */
export async function send(form, call) {
	Object.assign(form, { busy: true, error: null });
	redraw();
	try {
		await call();
	} catch (error) {
		form.error = error;
	}
	form.busy = false;
}
