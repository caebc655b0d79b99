// Dialogs that change a key: its name and open ports, and its end. Somebody else may change it at the same time.
//
// Owns what happens then: what they changed is shown, what was typed here stays. Must not know how ports are edited.

import { api } from "./api.js";
import { closeDialog, dialogForm } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { fromRows, portsEditor, sameScope, toRows } from "./ports.js";
import { store } from "./store.js";
import { t } from "./texts.js";
import { announce, button, failure, field, notice, textInput } from "./ui.js";

const now = (id) => store.keys?.find((key) => key.id === id);

/** Edits a key: `key` is how it looks now. */
export function editKey(key) {
	const form = { base: key, name: key.name, ports: toRows(key.allow), error: null, busy: false, listeners: null, newer: null };
	api.listeners().then((found) => (form.listeners = found), () => {}).then(redraw);
	const dialog = { title: t.edit.title(key.name), dirty: () => isNameTouched(form) || arePortsTouched(form) };
	dialog.body = () => body(dialog, form);
	return dialog;
}

const isNameTouched = (form) => form.name.trim() !== form.base.name;

function arePortsTouched(form) {
	const allow = fromRows(form.ports);
	return !allow || !sameScope(allow, form.base.allow);
}

/** Takes what is there now for what nobody touched here; keeps the rest. */
function rebase(form, key) {
	if (!isNameTouched(form)) form.name = key.name;
	if (!arePortsTouched(form)) form.ports = toRows(key.allow);
	Object.assign(form, { base: key, newer: null, error: null });
}

function reset(form, key) {
	Object.assign(form, { base: key, name: key.name, ports: toRows(key.allow), newer: null, error: null });
}

function body(dialog, form) {
	const current = now(form.base.id);
	if (store.keys && !current && !form.busy) return h("div", { class: "form" }, notice("warning", h("p", null, t.edit.deleted(form.base.name))));
	if (current && current.revision !== form.base.revision && !form.busy) meet(dialog, form, current);
	const disabled = !form.name.trim() || !fromRows(form.ports) || !dialog.dirty() || Boolean(form.newer);
	return dialogForm(dialog, form, content(form), { action: t.save, submit: () => save(dialog, form), disabled });
}

/** The key changed elsewhere while the dialog is open. */
function meet(dialog, form, current) {
	if (dialog.dirty()) form.newer = current;
	else rebase(form, current);
}

function content(form) {
	return [
		form.newer && conflict(form),
		failure(form.error),
		field(t.add.name, textInput(form, "name", { maxlength: 64, required: true })),
		portsEditor(form, form.listeners),
	];
}

function conflict(form) {
	const { base, newer } = form;
	const lines = [
		base.name !== newer.name && t.edit.renamed(newer.name),
		...newer.allow.filter((rule) => !base.allow.includes(rule)).map(t.edit.opened),
		...base.allow.filter((rule) => !newer.allow.includes(rule)).map(t.edit.closed),
	].filter(Boolean);
	const keep = button(t.edit.keep, () => rebase(form, newer), { kind: "primary" });
	const load = button(t.edit.load, () => reset(form, newer));
	const text = [h("p", null, h("strong", null, t.edit.changed)), h("ul", null, lines.map((line) => h("li", { key: line }, line))), h("p", null, t.edit.yours)];
	return h("div", { role: "alert", key: "conflict" }, notice("warning", text, h("div", { class: "actions" }, keep, load)));
}

async function save(dialog, form) {
	const change = {};
	if (isNameTouched(form)) change.name = form.name.trim();
	if (arePortsTouched(form)) change.allow = fromRows(form.ports);
	try {
		const { name } = await api.editKey(form.base.id, form.base.revision, change);
		announce(t.edit.saved(name));
		closeDialog(dialog);
	} catch (error) {
		if (!error.isConflict) throw error;
		form.newer = await api.key(form.base.id);
	}
}

/** Deletes a key, once its name is typed. */
export function deleteKey(key) {
	const form = { typed: "", error: null, busy: false };
	const dialog = { title: t.delete.title(key.name) };
	const submit = async () => {
		await api.deleteKey(key.id, (now(key.id) ?? key).revision);
		announce(t.delete.done(key.name));
		closeDialog(dialog);
	};
	dialog.body = () => {
		const typed = textInput(form, "typed", { autofocus: true });
		const content = [h("p", null, t.delete.warning), failure(form.error), field(t.delete.type(key.name), typed)];
		const disabled = form.typed.trim() !== key.name.trim();
		return dialogForm(dialog, form, content, { action: t.delete.action, submit, disabled, danger: true });
	};
	return dialog;
}
