// The way in: a password, or how to get a link.
//
// Owns the form. Must not know what comes after.

import { api } from "./api.js";
import { send } from "./dialog.js";
import { h } from "./dom.js";
import { mark } from "./icons.js";
import { logIn } from "./store.js";
import { t } from "./texts.js";
import { announcer, copyable, failure, field, textInput } from "./ui.js";

const form = { password: "", error: null, busy: false, until: 0 };

/** The page. */
export function login() {
	const wait = Math.ceil((form.until - Date.now()) / 1000);
	const password = textInput(form, "password", { type: "password", autocomplete: "current-password", autofocus: true, required: true });
	const submit = { type: "submit", class: "button primary wide", disabled: form.busy || wait > 0 };
	return h(
		"main",
		{ class: "login", key: "login" },
		h("div", { class: "login-card" }, [
			h("h1", null, mark(36), t.login.title),
			h("form", { class: "form", onsubmit }, [
				failure(form.error),
				field(t.login.password, password),
				h("button", submit, wait > 0 ? t.login.wait(wait) : t.login.action),
			]),
			h("div", { class: "login-hint" }, [
				h("h2", null, t.login.noPassword),
				h("p", null, t.login.link),
				copyable("meshhold web", t.command),
				h("p", null, t.login.lasting),
				copyable("meshhold web set-password", t.command),
			]),
		]),
		announcer(),
	);
}

/** A link was no good. */
login.failed = (error) => (form.error = error);

function onsubmit(event) {
	event.preventDefault();
	return send(form, async () => {
		try {
			logIn(await api.login({ password: form.password }));
			form.password = "";
		} catch (error) {
			if (error.retryAfter) form.until = Date.now() + 1000 * error.retryAfter;
			throw error;
		}
	});
}
