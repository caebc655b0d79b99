// The network page: what is wrong, the picture, and the same as a table.
//
// Owns which network is looked at and the filter. Must not know how edges are drawn or what a peer's sheet shows.

import { h } from "./dom.js";
import { closeDialog, openDialog } from "./dialog.js";
import { ms, rate, shortId } from "./format.js";
import { icon } from "./icons.js";
import { addKey, joinKey } from "./key-add.js";
import { peerSheet } from "./peer.js";
import { sparkline } from "./plot.js";
import { canWrite, rateOf, store } from "./store.js";
import { t } from "./texts.js";
import { topology } from "./topology.js";
import { button, copyable, empty, panel, pill, stateOf, warnings } from "./ui.js";

const ROWS = 100;
const FILTER_FROM = 8;
const state = { only: null, search: "", all: false };
let sheet = null;

export const network = { view, enter };

/** `#/network/<network>/<node>` shows that peer. */
function enter([id, node]) {
	if (sheet) closeDialog(sheet);
	sheet = null;
	if (!node) return;
	const dialog = peerSheet(id, node);
	dialog.onclose = () => {
		if (sheet === dialog && location.hash.split("/").length > 2) location.hash = "#/network";
	};
	sheet = openDialog(dialog);
}

/** Every peer of the networks looked at, the connected ones first. */
function listed() {
	const networks = store.status.networks.filter((network) => !state.only || network.id === state.only);
	const rows = networks.flatMap((network) =>
		network.peers.map((peer) => ({ network, peer, key: `${network.id}/${peer.node_id}`, now: rateOf(`${network.id}/${peer.node_id}`) })),
	);
	const order = { connected: 0, connecting: 1, idle: 2 };
	const by = (a, b) => order[a.peer.state] - order[b.peer.state] || a.peer.name.localeCompare(b.peer.name);
	return rows.sort(by);
}

function view() {
	const { networks } = store.status;
	if (state.only && !networks.some((network) => network.id === state.only)) state.only = null;
	const rows = listed();
	return [
		h("div", { class: "page-head", key: "head" }, h("h1", { tabindex: -1 }, t.nav.network), summary(rows)),
		notes(networks),
		networks.length === 0 ? noNetwork() : [chips(networks), rows.length === 0 ? alone() : [picture(rows), table(rows)]],
	];
}

function summary(rows) {
	const connected = rows.filter(({ peer }) => peer.state === "connected").length;
	const total = rows.reduce((sum, { now }) => ({ rx: sum.rx + now.rx, tx: sum.tx + now.tx }), { rx: 0, tx: 0 });
	return h("p", { class: "summary" }, t.network.summary(store.status.networks.length, rows.length, connected), " ", traffic(total));
}

function traffic({ rx, tx }) {
	return h("span", { class: "rates" }, h("span", null, `↓ ${rate(rx)}`), " ", h("span", null, `↑ ${rate(tx)}`));
}

function notes(networks) {
	const own = networks.flatMap((network) => [...network.warnings, ...network.conflicts].map((text) => t.inNetwork(network.name, text)));
	return h("div", { class: "notes", key: "notes" }, warnings([...store.status.warnings, ...own]));
}

function noNetwork() {
	const actions = canWrite() && [
		button(t.keys.add, () => openDialog(addKey()), { kind: "primary", glyph: "plus" }),
		button(t.keys.join, () => openDialog(joinKey()), { glyph: "join" }),
	];
	return empty("network", t.network.none, t.network.noneHint, actions);
}

function alone() {
	return empty("network", t.network.alone, t.network.aloneHint, h("a", { class: "button primary", href: "#/keys" }, icon("share", 16), t.network.goShare));
}

function chips(networks) {
	if (networks.length < 2) return null;
	const chip = (id, label) =>
		h("button", { type: "button", class: "chip", key: id ?? "", "aria-pressed": String(state.only === id), onclick: () => (state.only = id) }, label);
	const all = networks.map((network) => chip(network.id, network.name));
	return h("div", { class: "chips", role: "group", "aria-label": t.network.which, key: "chips" }, chip(null, t.network.all), all);
}

function picture(rows) {
	return h("section", { class: "panel picture", key: "picture", "aria-label": t.network.picture }, topology(store.status, rows), legend());
}

function legend() {
	const line = (kind) => h("svg", { class: `legend-line ${kind}`, viewBox: "0 0 28 6", width: 28, height: 6, "aria-hidden": "true" }, h("path", { d: "M1 3H27" }));
	const entry = (kind) => h("li", { key: kind }, line(kind), t.edges[kind]);
	return h("ul", { class: "legend" }, ["direct", "relay", "connecting", "idle"].map(entry));
}

function table(rows) {
	const wanted = state.search.trim().toLowerCase();
	const fits = ({ peer }) => [peer.name, peer.ipv4, peer.ipv6, peer.node_id].some((text) => text?.toLowerCase().includes(wanted));
	const found = wanted ? rows.filter(fits) : rows;
	const shown = state.all ? found : found.slice(0, ROWS);
	const heads = t.network.columns.map((label, index) => h("th", { scope: "col", class: COLUMNS[index] }, label));
	const grid = h("table", null, h("thead", null, h("tr", null, heads)), h("tbody", null, shown.map(row)));
	const rest = shown.length < found.length && button(t.network.showAll(found.length), () => (state.all = true), { kind: "ghost" });
	const nothing = found.length === 0 && h("p", { class: "loading" }, t.network.nothingFound);
	return panel(t.network.peers, rows.length >= FILTER_FROM && search(), h("div", { class: "table" }, grid), nothing, rest);
}

const COLUMNS = ["", "wide", "", "number wide", "wide", "wide"];

function search() {
	const oninput = (event) => (state.search = event.target.value);
	return h("input", { type: "search", class: "search", placeholder: t.network.search, "aria-label": t.network.search, value: state.search, oninput });
}

function row({ network, peer, key, now }) {
	const several = store.status.networks.length > 1 && !state.only;
	const name = h("a", { class: "peer-name", href: `#/network/${network.id}/${peer.node_id}` }, peer.name || shortId(peer.node_id));
	const address = peer.ipv4 ?? peer.ipv6;
	const sub = h("span", { class: "sub narrow" }, h("code", null, address));
	const words = stateOf(peer.state);
	const dot = h("span", { class: `state-mark ${peer.state} narrow`, title: t.states[peer.state] }, h("span", { class: "sr" }, t.states[peer.state]));
	return h("tr", { key }, [
		h("td", null, dot, name, several && h("span", { class: "sub" }, network.name), sub),
		h("td", { class: "wide" }, copyable(address, t.addressOf(peer.name))),
		h("td", null, path(peer), peer.rtt_ms != null && h("span", { class: "sub narrow" }, ms(peer.rtt_ms))),
		h("td", { class: "number wide" }, ms(peer.rtt_ms)),
		h("td", { class: "wide" }, store.history.has(key) ? h("span", { class: "spark" }, sparkline(store.history.get(key)), traffic(now)) : h("span", { class: "soft" }, t.none)),
		h("td", { class: "wide" }, words),
	]);
}

/** How it travels, in a word. */
export function path(peer) {
	if (!peer.path) return h("span", { class: "soft" }, t.none);
	const { kind, via } = peer.path;
	const label = kind === "relay" ? t.viaRelays(via.length) : t.edges.direct;
	return pill(label, kind === "relay" ? "relay" : "good");
}

