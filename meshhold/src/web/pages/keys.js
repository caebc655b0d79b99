// The keys page: one row a network, with this node's addresses there, its members, its end and its open ports.
//
// Owns the rows. Must not know how keys are added, edited, shared or deleted: dialogs do that.

import { api } from "./api.js";
import { openDialog } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { ago, moment } from "./format.js";
import { icon } from "./icons.js";
import { addKey, joinKey } from "./key-add.js";
import { deleteKey, editKey } from "./key-edit.js";
import { shareKey } from "./key-share.js";
import { menu } from "./menu.js";
import { service } from "./ports.js";
import { canWrite, store } from "./store.js";
import { t } from "./texts.js";
import { button, copyable, empty, facts, notice, pill, warnings } from "./ui.js";

const SOON = 7 * 86_400;
const ASK_AGAIN_MS = 15_000;
let listeners = null;
let askedAt = 0;

export const keys = { view };

/** What listens where is asked for as long as somebody looks. */
function askListeners() {
	if (Date.now() - askedAt < ASK_AGAIN_MS) return;
	askedAt = Date.now();
	api.listeners().then((found) => (listeners = found), () => {}).then(redraw);
}

function view() {
	askListeners();
	const list = store.keys;
	const actions = canWrite() && [
		button(t.keys.add, () => openDialog(addKey()), { kind: "primary", glyph: "plus" }),
		button(t.keys.join, () => openDialog(joinKey()), { glyph: "join" }),
	];
	const head = h("div", { class: "page-head", key: "head" }, h("h1", { tabindex: -1 }, t.nav.keys), list?.length > 0 && h("div", { class: "actions" }, actions));
	if (!list) return [head];
	if (list.length === 0) return [head, empty("keys", t.keys.none, t.keys.noneHint, actions)];
	return [head, h("ul", { class: "cards", key: "cards" }, list.map(card))];
}

function card(key) {
	const network = store.status.networks.find((network) => network.id === key.network);
	const title = `key-${key.id}`;
	return h("li", { class: "panel key", key: key.id, "aria-labelledby": title }, [
		h("header", { class: "panel-head" }, h("h2", { id: title }, key.name), badges(key), canWrite() && actions(key)),
		network && warnings(network.warnings),
		network?.local_view && notice("info", h("p", null, t.keys.localView(network.local_view))),
		facts(about(key, network), "columns"),
		ports(key),
	]);
}

function badges(key) {
	const others = key.caps.filter((cap) => cap !== "mesh-route");
	return [others.map((cap) => pill(cap)), soon(key) && pill(t.keys.endsSoon, "relay")];
}

const soon = ({ expires }) => expires != null && expires - Date.now() / 1000 < SOON;

function about(key, network) {
	return [
		[t.keys.here, network ? addresses(network) : h("span", { class: "soft" }, t.keys.notActive)],
		[t.keys.members, network ? t.keys.memberCount(network.peers.length + 1) : t.none],
		[t.keys.expires, key.expires == null ? t.keys.never : h("span", { title: moment(key.expires) }, ago(key.expires))],
		[t.keys.range, network ? h("code", null, network.range) : t.none],
	];
}

function addresses(network) {
	return h("div", { class: "stack" }, network.ipv4 && copyable(network.ipv4, t.ownOf(t.ipv4, network.name)), network.ipv6 && copyable(network.ipv6, t.ownOf(t.ipv6, network.name)));
}

function actions(key) {
	const items = [
		{ label: t.keys.edit, glyph: "edit", run: () => openDialog(editKey(key)) },
		{ label: t.keys.delete, glyph: "trash", run: () => openDialog(deleteKey(key)) },
	];
	return h("div", { class: "actions" }, [
		button(t.keys.share, () => openDialog(shareKey(key)), { glyph: "share", "aria-label": t.keys.shareOf(key.name) }),
		menu(`menu-${key.id}`, t.keys.more(key.name), items),
	]);
}

function ports(key) {
	const edit = canWrite() && button(t.keys.editPorts, () => openDialog(editKey(key)), { kind: "ghost", glyph: "edit", "aria-label": t.keys.editPortsOf(key.name) });
	const chips = key.allow.map((rule) => {
		const { text, tone } = service(rule, listeners);
		return h("li", { class: "port", key: rule }, h("code", null, rule), text && h("span", { class: tone }, text));
	});
	const body = chips.length > 0 ? h("ul", { class: "port-list" }, chips) : h("p", { class: "closed" }, icon("lock", 16), t.keys.closed);
	return h("div", { class: "key-ports" }, h("h3", null, t.ports.title), body, edit);
}
