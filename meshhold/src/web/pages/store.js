// What is known of the daemon now: the session, and the live state that /events tells.
//
// Owns the connection (its loss, the waits between attempts, what was missed) and the traffic history that is drawn
// from successive states. Must not know how any of it looks.

import { api, Problem, useSession } from "./api.js";
import { redraw } from "./dom.js";

const DROPS_KEPT = 500;
const HISTORY_MS = 300_000;
/** The daemon looks at each second: what a state tells happened in about that time, however long it was quiet before. */
const LOOK_MS = 1_000;
const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 10_000;

export const store = {
	/** undefined: not asked yet; null: not logged in. */
	session: undefined,
	status: null,
	keys: null,
	/** The newest first: `{ id, at, drop }`. */
	drops: [],
	counters: {},
	/** Rates of each peer, by `network/node`: `{ at, rx, tx }` in bytes a second. */
	history: new Map(),
	/** "connecting", "open" or "lost". */
	connection: "connecting",
	/** When the next attempt is due, while lost. */
	retryAt: 0,
};

let source = null;
let timer = 0;
let wait = WAIT_MIN_MS;
let seen = 0;
let dropId = 0;
let last = null;
let caughtUp = Promise.resolve();

/** Whether this session may change anything. */
export const canWrite = () => store.session?.capability === "admin";

/** Asks who we are, then follows the daemon. */
export async function begin() {
	try {
		logIn(await api.session());
	} catch (error) {
		if (error instanceof Problem && error.status === 401) logOut();
		else lost();
	}
	redraw();
}

/** A session is there. */
export function logIn(session) {
	store.session = session;
	useSession(session, logOut);
	connect();
}

/** There is no session any more: nothing stays on the page. */
export function logOut() {
	source?.close();
	clearTimeout(timer);
	source = null;
	Object.assign(store, { session: null, status: null, keys: null, drops: [], counters: {}, connection: "connecting" });
	store.history.clear();
	[seen, last] = [0, null];
	redraw();
}

/** Tries at once, or as soon as there is hope. */
export function connect() {
	clearTimeout(timer);
	source?.close();
	if (store.session === null) return;
	if (store.session === undefined) {
		begin();
		return;
	}
	source = api.events();
	let first = true;
	source.onopen = () => opened();
	source.onerror = () => check();
	on("status", takeStatus);
	on("keys", (keys) => (store.keys = keys));
	on("drops", (reply) => {
		const fresh = first;
		first = false;
		caughtUp = caughtUp.then(() => takeDrops(reply, fresh));
	});
}

function on(name, take) {
	source.addEventListener(name, (event) => {
		take(JSON.parse(event.data));
		redraw();
	});
}

function opened() {
	store.connection = "open";
	wait = WAIT_MIN_MS;
	redraw();
}

/** A stream doesn't tell why it ended: the session does. */
async function check() {
	source?.close();
	try {
		const session = await api.session();
		store.session = session;
		useSession(session, logOut);
	} catch (error) {
		if (error instanceof Problem && error.status === 401) return;
	}
	if (store.session !== null) lost();
}

function lost() {
	store.connection = "lost";
	store.retryAt = Date.now() + wait;
	clearTimeout(timer);
	timer = setTimeout(connect, wait);
	wait = Math.min(wait * 2, WAIT_MAX_MS) * (0.8 + Math.random() * 0.4);
	redraw();
}

window.addEventListener("online", () => store.connection === "lost" && connect());
document.addEventListener("visibilitychange", () => {
	if (!document.hidden && store.connection === "lost") connect();
});

function takeStatus(status) {
	const now = Date.now();
	for (const [key, peer] of peersByKey(status)) remember(key, peer, last?.peers.get(key), now);
	for (const key of store.history.keys()) if (!peersByKey(status).has(key)) store.history.delete(key);
	last = { at: now, peers: peersByKey(status) };
	store.status = status;
}

const keyed = new WeakMap();

/** Peers of a state by `network/node`. */
export function peersByKey(status) {
	if (!keyed.has(status)) {
		const pairs = status.networks.flatMap((network) => network.peers.map((peer) => [`${network.id}/${peer.node_id}`, peer]));
		keyed.set(status, new Map(pairs));
	}
	return keyed.get(status);
}

function remember(key, peer, before, now) {
	const seconds = Math.min(Math.max(now - (last?.at ?? now), 200), 1.5 * LOOK_MS) / 1000;
	const rate = (name) => Math.max(0, peer[name] - (before?.[name] ?? peer[name])) / seconds;
	const [rx, tx] = [rate("rx_bytes"), rate("tx_bytes")];
	const points = store.history.get(key);
	if (!points && rx + tx === 0) return;
	const kept = (points ?? []).filter((point) => now - point.at < HISTORY_MS);
	kept.push({ at: now, rx, tx });
	store.history.set(key, kept);
}

/** What a peer receives and sends now, in bytes a second. */
export function rateOf(key) {
	const point = store.history.get(key)?.at(-1);
	return point && Date.now() - point.at < 3 * LOOK_MS ? point : { rx: 0, tx: 0 };
}

/** The first answer of a stream tells all that is kept: what came since the last stream is asked for instead. */
async function takeDrops(reply, first) {
	if (first && reply.seen < seen) store.drops = [];
	if (first && seen > 0 && reply.seen > seen) {
		try {
			reply = await api.drops(seen);
		} catch {
			return;
		}
	} else if (first && reply.seen === seen) {
		reply = { ...reply, drops: [] };
	}
	const old = first && seen === 0;
	seen = reply.seen;
	const at = old ? null : Date.now();
	const added = reply.drops.map((drop) => ({ id: ++dropId, at, drop }));
	store.drops = [...added.reverse(), ...store.drops].slice(0, DROPS_KEPT);
	store.counters = reply.counters;
	redraw();
}
