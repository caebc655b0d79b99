// Calls of the HTTP API: JSON both ways, problem details as exceptions, the CSRF token on writes, ETags as revisions.
//
// Owns how a call is made. Must not know what is done with the answer.

const BASE = "/api/v1";
let csrf = "";
let onLoggedOut = () => {};

/** The answer was no: `message` is a sentence to show. */
export class Problem extends Error {
	constructor(status, detail, retryAfter) {
		super(detail);
		this.status = status;
		this.retryAfter = retryAfter;
	}

	/** Somebody else changed it meanwhile. */
	get isConflict() {
		return this.status === 412;
	}
}

/** Takes the token of a session; `callback` runs when the daemon says that there is none any more. */
export function useSession(session, callback) {
	csrf = session?.csrf ?? "";
	onLoggedOut = callback;
}

async function problem(response) {
	let detail = `${response.status} ${response.statusText}`.trim();
	try {
		const body = await response.json();
		detail = body.detail || body.title || detail;
	} catch {
		// Not from the API itself: the status has to do.
	}
	return new Problem(response.status, detail, Number(response.headers.get("Retry-After")) || null);
}

async function send(method, path, { body, revision, bytes } = {}) {
	const headers = { Accept: "application/json" };
	if (method !== "GET") headers["X-CSRF-Token"] = csrf;
	if (revision !== undefined) headers["If-Match"] = `"${revision}"`;
	if (bytes) headers["Content-Type"] = "application/octet-stream";
	else if (body !== undefined) headers["Content-Type"] = "application/json";
	const payload = bytes ?? (body === undefined ? undefined : JSON.stringify(body));
	let response;
	try {
		response = await fetch(BASE + path, { method, headers, body: payload, credentials: "same-origin", cache: "no-store" });
	} catch {
		throw new Problem(0, "The daemon does not answer. Is it running?", null);
	}
	if (response.status === 401 && path !== "/login") onLoggedOut();
	if (!response.ok) throw await problem(response);
	return response.status === 204 ? null : response.json();
}

const part = encodeURIComponent;

/** All calls that the pages make. */
export const api = {
	login: (body) => send("POST", "/login", { body }),
	logout: () => send("POST", "/logout"),
	session: () => send("GET", "/session"),
	sessions: () => send("GET", "/sessions"),
	revoke: (id) => send("DELETE", `/sessions/${part(id)}`),
	addKey: (body) => send("POST", "/keys", { body }),
	key: (id) => send("GET", `/keys/${part(id)}`),
	editKey: (id, revision, body) => send("PATCH", `/keys/${part(id)}`, { body, revision }),
	deleteKey: (id, revision) => send("DELETE", `/keys/${part(id)}`, { revision }),
	shareKey: (id) => send("POST", `/keys/${part(id)}/share`),
	readQr: (width, height, bytes) => send("POST", `/qr?width=${width}&height=${height}`, { bytes }),
	listeners: () => send("GET", "/listeners"),
	addDevice: (body) => send("POST", "/devices", { body }),
	removeDevice: (name) => send("DELETE", `/devices/${part(name)}`),
	paths: () => send("GET", "/paths"),
	netcheck: () => send("GET", "/netcheck"),
	drops: (seen) => send("GET", `/drops?seen=${seen}`),
	explain: (body) => send("POST", "/explain", { body }),
	ping: (to, count) => send("POST", "/ping", { body: { to, count } }),
	doctor: () => send("GET", "/doctor"),
	programs: () => send("GET", "/programs"),
	audit: () => send("GET", "/audit"),
	version: () => send("GET", "/version"),
	events: () => new EventSource(`${BASE}/events`),
};
