// The frame: header, navigation, banner, the page that the address names, and what lies above it.
//
// Owns the address (after #) and the way in by a link. Must not know what pages show.

import { api } from "./api.js";
import { dialogs, anyDialog, closeAll, openDialog } from "./dialog.js";
import { h, redraw, start } from "./dom.js";
import { icon, mark } from "./icons.js";
import { login } from "./login.js";
import { menu } from "./menu.js";
import { begin, connect, logIn, logOut, store } from "./store.js";
import { t } from "./texts.js";
import { announce, announcer, button, notice } from "./ui.js";
import { devicesSheet } from "./devices.js";
import { drops } from "./drops.js";
import { health } from "./health.js";
import { keys } from "./keys.js";
import { network } from "./network.js";

/** Pages by name. A page is `{ view(), enter?(rest) }`. */
const PAGES = { network, keys, drops, health };
const NAMES = Object.keys(PAGES);
let current = "network";

/** What the address says: `#/network/…` is the page and the rest. */
function follow(moved) {
	const [, name, ...rest] = location.hash.split("/");
	const changed = NAMES.includes(name) && name !== current;
	current = NAMES.includes(name) ? name : "network";
	PAGES[current].enter?.(rest.map(decodeURIComponent));
	redraw();
	if (moved && changed) requestAnimationFrame(() => document.querySelector("h1")?.focus());
}

function title() {
	const warned = store.connection === "lost" ? "⚠ " : "";
	const name = store.status?.name;
	document.title = `${warned}${[t.nav[current], name, "MeshHold"].filter(Boolean).join(" · ")}`;
}

function app() {
	title();
	if (store.session === null) return login();
	return [
		h("a", { class: "skip", href: "#main", key: "skip", onclick: skip }, t.skip),
		header(),
		banner(),
		h("main", { id: "main", tabindex: -1, key: "main" }, store.status ? PAGES[current].view() : waiting()),
		!anyDialog() && announcer(),
		h("div", { key: "dialogs" }, dialogs()),
	];
}

function skip(event) {
	event.preventDefault();
	document.getElementById("main").focus();
}

function waiting() {
	return h("div", { class: "waiting", key: "waiting" }, mark(40), h("p", null, t.connecting));
}

function header() {
	const brand = h("a", { class: "brand", href: "#/network" }, mark(26), h("span", { class: "brand-name" }, store.status?.name ?? "MeshHold"));
	const side = [store.session?.capability === "view" && h("span", { class: "pill" }, t.viewOnly), connection(), more()];
	return h("header", { class: "top", key: "top" }, brand, navigation(), h("div", { class: "top-side" }, side));
}

function navigation() {
	const link = (name) => {
		const active = name === current;
		const props = { href: `#/${name}`, class: active ? "active" : "", "aria-current": active ? "page" : null };
		return h("a", props, icon(name, 20), h("span", null, t.nav[name]));
	};
	return h("nav", { class: "nav", "aria-label": t.navigation }, NAMES.map(link));
}

function connection() {
	const state = store.connection;
	return h("span", { class: `connection ${state}`, title: t.connection[state] }, h("span", { class: "sr" }, t.connection[state]));
}

function more() {
	const theme = (name) => ({
		label: t.themes[name],
		checked: window.theme.choice === name,
		run: () => (window.theme.choice = name),
	});
	return menu("more", t.more, [
		{ label: t.devices.menu, glyph: "device", run: () => openDialog(devicesSheet()) },
		theme("auto"),
		theme("light"),
		theme("dark"),
		{ label: t.apiDocument, glyph: "info", href: "/api/v1/openapi.json" },
		{ label: t.logout, glyph: "join", run: leave },
	]);
}

async function leave() {
	try {
		await api.logout();
	} catch {
		// The session ends here in any case; the daemon forgets it in a day.
	}
	closeAll();
	logOut();
}

/** Quiet while all is well. */
function banner() {
	if (store.connection !== "lost" || !store.session) return h("div", { role: "status", key: "banner" });
	const seconds = Math.max(0, Math.ceil((store.retryAt - Date.now()) / 1000));
	const text = h("p", null, t.lost, " ", h("span", { "aria-hidden": "true" }, t.retryIn(seconds)));
	return h("div", { role: "status", class: "banner", key: "banner" }, notice("warning", text), button(t.retryNow, connect));
}

/** `meshhold web` prints an address with a one-time token: used at once, and gone from the address bar before. */
async function enterByLink() {
	const link = new URLSearchParams(location.hash.slice(1)).get("link");
	if (!link) return begin();
	history.replaceState(null, "", location.pathname);
	try {
		logIn(await api.login({ link }));
	} catch (error) {
		await begin();
		if (store.session === null) login.failed(error);
		else announce(error.message);
	}
}

window.addEventListener("hashchange", () => follow(true));
window.addEventListener("unhandledrejection", (event) => announce(event.reason?.message ?? String(event.reason)));
follow(false);
start(document.getElementById("app"), app);
enterByLink().then(redraw);
// Times that are shown pass, also while nothing happens.
setInterval(redraw, 1000);
