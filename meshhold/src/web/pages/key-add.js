// Dialogs for a new network, and for joining one: by pasting its key, by a file, or by a picture of its QR code.
//
// Owns the forms. Must not know how a picture is read.

import { api } from "./api.js";
import { closeDialog, dialogForm, openDialog } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { icon } from "./icons.js";
import { shareKey } from "./key-share.js";
import { fromRows, portsEditor } from "./ports.js";
import { keyFromFile } from "./qr.js";
import { t } from "./texts.js";
import { announce, failure, field, textInput } from "./ui.js";

const DAY = 86_400;
const ENDS = { never: null, day: DAY, week: 7 * DAY, month: 30 * DAY, year: 365 * DAY };

/** A new network. */
export const addKey = () => keyDialog(t.keys.add, t.add.action, false);

/** Someone else's network. */
export const joinKey = () => keyDialog(t.keys.join, t.add.joinAction, true);

function keyDialog(title, action, joins) {
	const form = { name: "", key: "", ends: "never", range: "", ports: [], error: null, busy: false, reading: null, from: null, listeners: null };
	const dialog = { title, dirty: () => Boolean(form.name || form.key || form.ports.length) };
	api.listeners().then((found) => (form.listeners = found), () => {}).then(redraw);
	const submit = async () => {
		const added = await api.addKey(request(form, joins));
		announce(t.add.done(added.name));
		closeDialog(dialog);
		if (!joins) openDialog(shareKey(added, t.add.shareNow(added.name)));
	};
	dialog.body = () => {
		const disabled = !form.name.trim() || (joins && !form.key.trim()) || !fromRows(form.ports);
		return dialogForm(dialog, form, content(form, joins), { action, submit, disabled });
	};
	return dialog;
}

function request(form, joins) {
	const seconds = ENDS[form.ends];
	const body = { name: form.name.trim(), allow: fromRows(form.ports), expires: seconds && Math.floor(Date.now() / 1000) + seconds };
	if (joins) body.key = form.key.replace(/\s/g, "");
	else if (form.range.trim()) body.ipv4_range = form.range.trim();
	return body;
}

function content(form, joins) {
	const name = textInput(form, "name", { maxlength: 64, required: true, autofocus: !joins, placeholder: t.add.namePlaceholder });
	return [
		h("p", { class: "lead" }, joins ? t.add.joinLead : t.add.lead),
		failure(form.error),
		joins && keyInput(form),
		field(t.add.name, name, { hint: t.add.nameHint }),
		ends(form),
		portsEditor(form, form.listeners),
		!joins && more(form),
	];
}

function ends(form) {
	const options = Object.keys(ENDS).map((name) => h("option", { value: name }, t.add.ends[name]));
	return field(t.add.expires, h("select", { id: "f-ends", value: form.ends, onchange: (event) => (form.ends = event.target.value) }, options));
}

function more(form) {
	const range = textInput(form, "range", { placeholder: "10.77.0.0/16" });
	return h("details", { key: "more" }, h("summary", null, t.add.more), field(t.add.range, range, { hint: t.add.rangeHint }));
}

function keyInput(form) {
	const props = {
		id: "f-key",
		class: "key-text",
		rows: 3,
		spellcheck: "false",
		autocomplete: "off",
		autocapitalize: "off",
		autofocus: true,
		placeholder: "meshkey1…",
		value: form.key,
		oninput: (event) => (form.key = event.target.value),
		onpaste: (event) => pasted(form, event),
	};
	const input = h("input", { type: "file", id: "f-file", class: "sr", accept: "image/*,.txt,.key,text/plain", onchange: (event) => take(form, event.target) });
	const drop = {
		class: "file-drop",
		key: "file",
		ondragover: (event) => event.preventDefault(),
		ondrop: (event) => {
			event.preventDefault();
			return read(form, event.dataTransfer.files[0]);
		},
	};
	const said = form.reading ?? (form.from ? t.add.readFrom(form.from) : t.add.fileHint);
	const choose = h("div", drop, input, h("label", { for: "f-file", class: "button" }, icon("join", 16), t.add.file), h("p", { class: "hint", role: "status" }, said));
	return [field(t.add.key, h("textarea", props), { hint: t.add.keyHint }), choose];
}

/** The same file may be chosen again after a mistake. */
async function take(form, input) {
	const [file] = input.files;
	await read(form, file);
	input.value = "";
}

function pasted(form, event) {
	const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
	if (!file) return;
	event.preventDefault();
	return read(form, file);
}

async function read(form, file) {
	if (!file) return;
	Object.assign(form, { reading: t.add.reading, from: null, error: null });
	redraw();
	try {
		form.key = await keyFromFile(file);
		form.from = file.name;
	} catch (error) {
		form.error = error;
	}
	form.reading = null;
}
