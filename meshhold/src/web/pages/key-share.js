// The dialog that shows a key's secret: after a warning, for as long as it is open.
//
// Owns the secret while it is shown; nothing keeps it. Must not know the key store.

import { api } from "./api.js";
import { closeDialog, send } from "./dialog.js";
import { h } from "./dom.js";
import { t } from "./texts.js";
import { button, copyButton, failure, notice } from "./ui.js";

/** Shares a key; `lead` says what just happened, if anything did. */
export function shareKey(key, lead) {
	const state = { busy: false, error: null, secret: null };
	const dialog = { title: t.share.title(key.name), onclose: () => (state.secret = null) };
	dialog.body = () => (state.secret ? secret(state.secret, dialog) : warning(key, state, dialog, lead));
	return dialog;
}

function warning(key, state, dialog, lead) {
	const show = () => send(state, async () => (state.secret = await api.shareKey(key.id)));
	const actions = [button(lead ? t.later : t.cancel, () => closeDialog(dialog), { kind: "ghost" }), button(state.busy ? t.working : t.share.show, show, { kind: "primary", disabled: state.busy, autofocus: true })];
	const text = [h("p", null, h("strong", null, t.share.warning)), h("p", null, t.share.warningMore)];
	return h("div", { class: "form", key: "warning" }, lead && h("p", { class: "lead" }, lead), notice("warning", text), failure(state.error), h("footer", { class: "actions end" }, actions));
}

function secret({ key, qr }, dialog) {
	const text = { class: "key-text", id: "f-secret", readonly: true, rows: 4, "aria-label": t.share.string, value: key, onfocus: (event) => event.target.select() };
	return h("div", { class: "form", key: "secret" }, [
		h("img", { class: "qr", src: `data:image/svg+xml;utf8,${encodeURIComponent(qr)}`, alt: t.share.qr, width: 240, height: 240 }),
		h("div", { class: "secret" }, h("textarea", text), copyButton(key, t.share.string)),
		h("p", { class: "hint" }, t.share.how),
		h("footer", { class: "actions end" }, button(t.done, () => closeDialog(dialog), { kind: "primary", oncreate: (element) => element.focus() })),
	]);
}
