// One peer's sheet: addresses, the path and why, traffic, a ping.
//
// Owns what is asked while it is open. Must not know how it was found.

import { api } from "./api.js";
import { send } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { ago, bytes, moment, ms, shortId } from "./format.js";
import { plot } from "./plot.js";
import { canWrite, peersByKey, store } from "./store.js";
import { t } from "./texts.js";
import { button, copyable, facts, failure, loading, pill, stateOf, table } from "./ui.js";

const PINGS = 5;

/** The sheet of a peer. */
export function peerSheet(networkId, nodeId) {
	const state = { paths: null, pathsOf: null, error: null, ping: { busy: false, error: null, result: null } };
	const key = `${networkId}/${nodeId}`;
	const sheet = {
		sheet: true,
		get title() {
			const peer = find();
			return peer ? peer.name || shortId(nodeId) : t.peer.gone;
		},
		body: () => {
			const peer = find();
			return peer ? body(peer) : h("p", null, t.peer.goneHint);
		},
	};
	const find = () => store.status && peersByKey(store.status).get(key);

	/** Asked again whenever the path changes. */
	async function askPaths(peer) {
		const mark = JSON.stringify(peer.path);
		if (state.pathsOf === mark) return;
		state.pathsOf = mark;
		try {
			const all = await api.paths();
			state.paths = all.find((paths) => paths.network === networkId && paths.peer.node_id === nodeId) ?? { decisions: [], tried: [] };
		} catch (error) {
			state.error = error;
		}
		redraw();
	}

	function body(peer) {
		askPaths(peer);
		const network = store.status.networks.find((network) => network.id === networkId);
		return h("div", { class: "sheet-body" }, [
			about(peer, network),
			section(t.peer.traffic, plot(store.history.get(key)), totals(peer)),
			pinging(peer),
			section(t.peer.path, failure(state.error), state.paths ? [decisions(state.paths.decisions), tried(state.paths.tried)] : loading()),
		]);
	}

	function pinging(peer) {
		const { ping } = state;
		const run = () => send(ping, async () => (ping.result = await api.ping(peer.ipv4 ?? peer.ipv6, PINGS)));
		const action = button(ping.busy ? t.working : t.peer.ping, run, { disabled: ping.busy || !canWrite() });
		return section(t.peer.reach, h("div", { class: "ping" }, action, h("div", { role: "status" }, ping.result && pinged(ping.result))), failure(ping.error));
	}

	return sheet;
}

const section = (title, ...content) => h("section", { class: "sheet-section", key: title }, h("h3", null, title), content);

function about(peer, network) {
	const { path } = peer;
	const lines = [
		[t.peer.state, [stateOf(peer.state), peer.rtt_ms != null && h("span", { class: "soft" }, ` · ${ms(peer.rtt_ms)}`)]],
		[t.peer.network, network.name],
		peer.ipv4 && [t.ipv4, copyable(peer.ipv4, t.ipv4)],
		peer.ipv6 && [t.ipv6, copyable(peer.ipv6, t.ipv6)],
		[t.nodeId, copyable(peer.node_id, t.nodeId)],
		path && [t.peer.via, h("span", null, way(path), " ", h("span", { class: "soft" }, t.peer.because(path.reason)))],
		peer.cipher && [t.peer.cipher, peer.cipher],
	];
	return facts(lines);
}

/** A path in words: its kind, where datagrams go, and through whom. */
function way({ kind, remote, via }) {
	const names = new Map(store.status.networks.flatMap((network) => network.peers.map((peer) => [peer.node_id, peer.name])));
	const through = via.map((id) => names.get(id) || shortId(id)).join(" → ");
	return [pill(kind === "relay" ? t.edges.relay : t.edges.direct, kind === "relay" ? "relay" : "good"), " ", through && `${through} `, h("code", null, remote)];
}

const totals = (peer) => h("p", { class: "soft" }, t.peer.totals(bytes(peer.rx_bytes), bytes(peer.tx_bytes)));

function decisions(list) {
	if (list.length === 0) return h("p", { class: "soft" }, t.peer.noDecision);
	const entry = (decision, index) =>
		h("li", { class: index === 0 ? "now" : "" }, [
			h("time", { title: moment(decision.since) }, index === 0 ? t.peer.sinceNow(ago(decision.since)) : ago(decision.since)),
			h("span", null, way(decision)),
			h("span", { class: "soft" }, t.peer.because(decision.reason)),
		]);
	return h("ol", { class: "timeline" }, [...list].reverse().map(entry));
}

function tried(list) {
	if (list.length === 0) return null;
	const rows = list.map((path) => [way(path), ms(path.rtt_ms), t.peer.answered(path.answered, path.sent)]);
	return [h("h4", null, t.peer.tried), table(t.peer.tried, t.peer.triedColumns, rows, [1, 2])];
}

function pinged({ rtts_ms, failure: why }) {
	const answered = rtts_ms.filter((rtt) => rtt != null);
	const bars = rtts_ms.map((rtt) => h("span", { class: rtt == null ? "pill bad" : "pill good" }, rtt == null ? t.peer.noAnswer : ms(rtt)));
	return [h("p", { class: "pings" }, bars), why ? h("p", { class: "bad-text" }, why) : h("p", { class: "soft" }, t.peer.pinged(answered.length, rtts_ms.length))];
}
