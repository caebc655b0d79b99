// Why a packet was dropped, or would be: asked of the daemon, with one click that opens the port.
//
// Owns the question and the offer. Must not know rules: the daemon's answer is the real programs' own.

import { api } from "./api.js";
import { dialogForm, send } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { parseRule, parseSocket, protocolName, shortId } from "./format.js";
import { canWrite, store } from "./store.js";
import { reasonName, reasons, t } from "./texts.js";
import { announce, button, facts, failure, field, loading, notice, pill, textInput } from "./ui.js";

/** The question that a drop is the answer to; null where there is none. */
function question(drop) {
	const traffic = protocolName(drop.protocol);
	if (!["tcp", "udp", "icmp"].includes(traffic) || drop.direction === "guard") return null;
	const [from, to] = [parseSocket(drop.from), parseSocket(drop.to)];
	return { traffic, to: to.ip, port: traffic === "icmp" ? null : to.port, from: drop.direction === "ingress" ? from.ip : null };
}

/** The sheet of one drop. */
export function dropSheet(drop) {
	const state = { answer: null, error: null, busy: false };
	const asked = question(drop);
	const ask = () => send(state, async () => (state.answer = await api.explain(asked))).then(redraw);
	if (asked) ask();
	const dialog = { sheet: true, title: reasonName(drop.reason) };
	dialog.body = () =>
		h("div", { class: "sheet-body" }, [
			h("p", { class: "lead" }, reasons[drop.reason]?.[1] ?? t.explain.unknown),
			packet(drop),
			opening(asked, drop.reason, ask),
			h("section", { class: "sheet-section" }, h("h3", null, t.explain.now), h("p", { class: "hint" }, t.explain.nowHint), failure(state.error), asked ? answer(state) : h("p", null, t.explain.notAsked)),
		]);
	return dialog;
}

function packet(drop) {
	const icmp = protocolName(drop.protocol) === "icmp";
	const end = (text) => h("code", null, icmp ? parseSocket(text).ip : text);
	const lines = [
		[t.explain.protocol, protocolName(drop.protocol).toUpperCase()],
		[t.explain.from, [end(drop.from), drop.direction === "ingress" && drop.peer && ` ${drop.peer}`]],
		[t.explain.to, [end(drop.to), drop.direction !== "ingress" && drop.peer && ` ${drop.peer}`]],
		[t.explain.where, t.drops.directions[drop.direction] ?? drop.direction],
		[t.explain.count, String(drop.count)],
	];
	return facts(lines);
}

function answer({ answer: found, busy }) {
	if (!found) return busy && loading();
	const passes = found.verdict === "pass";
	const verdict = [pill(passes ? t.explain.pass : t.explain.drop, passes ? "good" : "bad"), " ", reasonName(found.reason)];
	const lines = [
		[t.explain.verdict, verdict],
		found.scope_entry && [t.explain.entry, h("code", null, found.scope_entry)],
		[t.explain.listener, found.listener ? h("code", null, found.listener) : t.explain.noListener],
		found.peer && [t.explain.peer, found.peer.name || shortId(found.peer.node_id)],
		found.path && [t.peer.path, [t.edges[found.path.kind], " ", h("code", null, found.path.remote)]],
	];
	return [facts(lines), h("p", { class: "hint" }, reasons[found.reason]?.[1])];
}

/** The key whose network has that address here: the node's own, or a device's. */
function keyOf(address) {
	const has = (one) => one.ipv4 === address || one.ipv6 === address;
	const network = store.status?.networks.find((network) => has(network) || network.devices.some(has));
	return store.keys?.find((key) => key.network === network?.id);
}

const offer = { error: null, busy: false };

/** What one more click would do, before it is clicked. */
function opening(asked, reason, again) {
	if (reason !== "port-denied" || !asked?.port || !asked.from || !canWrite()) return null;
	const key = keyOf(asked.to);
	if (!key) return null;
	const rule = `${asked.traffic}:${asked.port}`;
	const title = h("h3", null, t.explain.open(rule));
	if (listens(key, asked)) return h("section", { class: "sheet-section offer", key: "open" }, title, notice("ok", h("p", null, t.explain.isOpen(rule, key.name))));
	const run = () => send(offer, () => openPort(key, rule)).then(again);
	const does = t.explain.openHint(rule, key.name, store.status.networks.find((network) => network.id === key.network).peers.length);
	const action = button(offer.busy ? t.working : t.explain.openAction(rule, key.name), run, { kind: "primary", disabled: offer.busy });
	return h("section", { class: "sheet-section offer", key: "open" }, title, h("p", null, does), failure(offer.error), action);
}

const listens = (key, { traffic, port }) => key.allow.map(parseRule).some((rule) => rule.protocol === traffic && rule.first <= port && port <= rule.last);

async function openPort(key, rule) {
	await api.editKey(key.id, key.revision, { allow: [...key.allow, rule] });
	announce(t.explain.opened(rule, key.name));
}

/** A question about any packet. */
export function askSheet() {
	const form = { traffic: "tcp", to: "", port: "", from: "", answer: null, error: null, busy: false };
	const dialog = { sheet: true, title: t.explain.ask };
	const submit = async () => {
		const port = form.traffic === "icmp" ? null : Number(form.port);
		form.answer = await api.explain({ traffic: form.traffic, to: form.to.trim(), port, from: form.from.trim() || null });
	};
	dialog.body = () => {
		const disabled = !form.to.trim() || (form.traffic !== "icmp" && !/^\d+$/.test(form.port));
		const asking = dialogForm(dialog, form, fields(form), { action: t.explain.askAction, submit, disabled });
		return h("div", { class: "sheet-body" }, h("p", { class: "lead" }, t.explain.askHint), asking, h("div", { role: "status" }, answer(form)));
	};
	return dialog;
}

function fields(form) {
	const options = ["tcp", "udp", "icmp"].map((name) => h("option", { value: name }, name.toUpperCase()));
	const select = h("select", { id: "f-traffic", value: form.traffic, onchange: (event) => (form.traffic = event.target.value) }, options);
	return [
		failure(form.error),
		field(t.explain.protocol, select),
		field(t.explain.to, textInput(form, "to", { placeholder: "nas.mesh, 198.18.3.17", autofocus: true }), { hint: t.explain.toHint }),
		form.traffic !== "icmp" && field(t.explain.port, textInput(form, "port", { inputmode: "numeric", placeholder: "22" })),
		field(t.explain.from, textInput(form, "from"), { hint: t.explain.fromHint }),
	];
}
