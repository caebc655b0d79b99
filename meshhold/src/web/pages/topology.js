// The picture: this node in the middle, relays around it, peers on the rim.
//
// Owns where everything stands and what lines look like. Must not know where the state comes from.

import { h, redraw } from "./dom.js";
import { ms, rate, shortId } from "./format.js";
import { t } from "./texts.js";

const DRAWN = 28;
const LABELLED = 16;
const FEW = 3;
const BUSY = 1_000;
let width = 800;
let observer = null;

/** `rows` as the table has them: `{ network, peer, key, now }`, the most important first. */
export function topology(status, rows) {
	const all = unique(rows);
	const size = { width, height: height(all.length) };
	const drawn = all.slice(0, DRAWN).sort(neighbours);
	const peers = place(drawn, size);
	const relays = placeRelays(peers, status, size);
	const few = peers.length <= (width < 560 ? 8 : LABELLED);
	const props = { class: `topology ${few ? "few" : "many"}`, viewBox: `0 0 ${size.width} ${size.height}`, role: "group", "aria-label": t.network.pictureOf(all.length) };
	return h("div", { class: "picture-frame", oncreate: observe, onremove: () => observer?.disconnect() }, [
		h("svg", props, [
			h("ellipse", { class: "rim", cx: size.width / 2, cy: size.height / 2, ...radii(size) }),
			peers.map((node) => edge(node, relays, size)),
			[...relays.values()].map((relay) => relayNode(relay, size)),
			peers.map((node) => h("g", { key: node.key }, peerNode(node, size), edgeLabel(node, relays, size))),
			self(status, size),
		]),
		all.length > DRAWN && h("p", { class: "soft more" }, t.network.notDrawn(all.length - DRAWN)),
	]);
}

/** A few peers need little room. */
function height(peers) {
	if (peers <= FEW) return 260;
	return width < 560 ? width * 1.05 : Math.min(Math.max(width * 0.46, 340), 520);
}

function observe(element) {
	observer?.disconnect();
	observer = new ResizeObserver(([{ contentRect }]) => {
		if (Math.abs(contentRect.width - width) < 1 || contentRect.width < 50) return;
		width = Math.round(contentRect.width);
		redraw();
	});
	observer.observe(element);
}

/** A node that is a peer in two networks is drawn once, by its better circuit. */
function unique(rows) {
	const known = new Map();
	for (const row of rows) if (!known.has(row.peer.node_id)) known.set(row.peer.node_id, row);
	return [...known.values()];
}

/** Those behind one relay stand side by side, and nobody moves because of traffic. */
function neighbours(a, b) {
	const via = ({ peer }) => peer.path?.via.join() ?? "";
	return via(a).localeCompare(via(b)) || a.network.id.localeCompare(b.network.id) || a.peer.node_id.localeCompare(b.peer.node_id);
}

const radii = ({ width, height }) => ({ rx: width / 2 - (width < 560 ? 44 : 132), ry: height / 2 - 42 });

function place(rows, size) {
	const { rx, ry } = radii(size);
	// Nobody stands right below this node, where its name is; where it is narrow, names need the room at the top more.
	const turn = size.width < 560 || rows.length % 2 ? 0 : 0.5;
	return rows.map((row, index) => {
		const angle = -Math.PI / 2 + (2 * Math.PI * (index + turn)) / rows.length;
		return { ...row, angle, x: size.width / 2 + rx * Math.cos(angle), y: size.height / 2 + ry * Math.sin(angle) };
	});
}

/** Relays stand between this node and the middle of those whom they serve; one that is drawn as a peer stays there. */
function placeRelays(peers, status, { width, height }) {
	const served = new Map();
	for (const node of peers) {
		node.peer.path?.via.forEach((id, hop) => {
			const known = served.get(id) ?? { id, x: 0, y: 0, count: 0, hop };
			served.set(id, { ...known, x: known.x + Math.cos(node.angle), y: known.y + Math.sin(node.angle), count: known.count + 1 });
		});
	}
	const names = new Map(status.networks.flatMap((network) => network.peers.map((peer) => [peer.node_id, peer.name])));
	const { rx, ry } = radii({ width, height });
	for (const [id, relay] of served) {
		const angle = Math.atan2(relay.y, relay.x);
		const reach = 0.46 + 0.16 * relay.hop;
		const at = { x: width / 2 + rx * reach * Math.cos(angle), y: height / 2 + ry * reach * Math.sin(angle) };
		const peer = peers.find(({ peer }) => peer.node_id === id);
		served.set(id, { id, isPeer: Boolean(peer), name: names.get(id) ?? shortId(id), x: peer?.x ?? at.x, y: peer?.y ?? at.y });
	}
	return served;
}

const kindOf = ({ peer }) => (peer.state === "connected" ? (peer.path?.kind ?? "direct") : peer.state);

function edge(node, relays, size) {
	const stops = [...(node.peer.path?.via ?? []).map((id) => relays.get(id)), node];
	const start = { x: size.width / 2, y: size.height / 2 };
	const d = `M${point(start)}${stops.map((stop) => `L${point(stop)}`).join("")}`;
	const speed = node.now.rx + node.now.tx;
	const busy = speed > BUSY ? Math.min(1 + Math.log10(speed / BUSY) * 0.6, 4) : 0;
	const line = { class: `edge ${kindOf(node)}`, d, "stroke-width": 1.5 + busy * 0.7 };
	const flow = busy > 0 && h("path", { class: `flow ${kindOf(node)}`, d, "stroke-width": 3 + busy });
	return h("g", { key: node.key }, h("path", line), flow);
}

const point = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function relayNode(relay, { width }) {
	if (relay.isPeer) return null;
	const shape = h("rect", { class: "relay-shape", x: relay.x - 7, y: relay.y - 7, width: 14, height: 14, rx: 3, transform: `rotate(45 ${point(relay)})` });
	const label = width >= 560 && h("text", { class: "relay-label", x: relay.x + 14, y: relay.y + 4 }, cut(relay.name, 14));
	return h("g", { key: relay.id, role: "img", "aria-label": t.network.relay(relay.name) }, shape, label);
}

function peerNode(node, size) {
	const { network, peer } = node;
	const name = cut(peer.name || shortId(peer.node_id), size.width < 560 ? 11 : 17);
	const facts = [name, name !== peer.name && peer.name, t.states[peer.state], peer.path && t.edges[peer.path.kind], peer.rtt_ms != null && ms(peer.rtt_ms)];
	const props = { href: `#/network/${network.id}/${peer.node_id}`, class: `node ${kindOf(node)}`, "aria-label": facts.filter(Boolean).join(", ") };
	return h("a", props, [
		h("circle", { class: "hit", cx: node.x, cy: node.y, r: 22 }),
		h("circle", { class: "body", cx: node.x, cy: node.y, r: 8 }),
		h("text", nameAt(node, size), name),
	]);
}

/** Names stand outside of the rim: beside it at the sides, above and below elsewhere. */
function nameAt({ x, y, angle }, { width }) {
	const side = width < 560 ? 0 : Math.cos(angle);
	if (Math.abs(side) > 0.35) return { class: "name", x: x + 15 * Math.sign(side), y: y + 4, "text-anchor": side > 0 ? "start" : "end" };
	return { class: "name", x, y: Math.sin(angle) < 0 ? y - 15 : y + 24, "text-anchor": "middle" };
}

/** On the last part of the edge, nearer to the peer. */
function edgeLabel({ x, y, peer, now }, relays, size) {
	if (peer.state !== "connected") return null;
	const last = relays.get(peer.path?.via.at(-1));
	const [from, along] = last ? [last, 0.5] : [{ x: size.width / 2, y: size.height / 2 }, 0.66];
	const at = { x: from.x + (x - from.x) * along, y: from.y + (y - from.y) * along };
	const lines = [peer.rtt_ms != null && ms(peer.rtt_ms), now.rx + now.tx > BUSY && rate(now.rx + now.tx)].filter(Boolean);
	if (lines.length === 0) return null;
	const [wide, high] = [6.4 * Math.max(...lines.map((line) => line.length)) + 8, 13 * lines.length + 3];
	const ground = h("rect", { x: at.x - wide / 2, y: at.y - high / 2, width: wide, height: high, rx: 5 });
	const text = lines.map((line, index) => h("text", { class: index ? "speed" : "", x: at.x, y: at.y - high / 2 + 12 + 13 * index }, line));
	return h("g", { class: "edge-label", "aria-hidden": "true" }, ground, text);
}

function self(status, { width, height }) {
	const [x, y] = [width / 2, height / 2];
	const hexagon = [0, 1, 2, 3, 4, 5].map((i) => point({ x: x + 22 * Math.sin((i * Math.PI) / 3), y: y - 22 * Math.cos((i * Math.PI) / 3) })).join(" ");
	return h("g", { class: "self", role: "img", "aria-label": t.network.self(status.name) }, [
		h("polygon", { points: hexagon }),
		h("circle", { cx: x, cy: y, r: 6 }),
		h("text", { class: "name", x, y: y + 40, "text-anchor": "middle" }, cut(status.name, 20)),
	]);
}

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
