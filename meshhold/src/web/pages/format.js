// Numbers, times and addresses as people read them.
//
// Owns their form. Must not know where they come from.

import { t } from "./texts.js";

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** 1234567 → "1.2 MB". */
export function bytes(count) {
	const step = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1);
	const scaled = count / 1000 ** step;
	return `${step === 0 || scaled >= 100 ? Math.round(scaled) : scaled.toFixed(1)} ${UNITS[step]}`;
}

/** Bytes a second. */
export const rate = (count) => `${bytes(Math.round(count))}/s`;

/** 12345678 → "12,345,678". */
export const count = (number) => number.toLocaleString("en-US");

/** A large number in little room. */
export const compact = (number) => (number < 10_000 ? count(number) : number.toLocaleString("en-US", { notation: "compact" }));

/** Milliseconds of a round trip. */
export function ms(value) {
	if (value == null) return t.none;
	return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

const SPANS = [
	[86_400, "day"],
	[3_600, "hour"],
	[60, "minute"],
	[1, "second"],
];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always" });

/** Unix seconds → "3 minutes ago", "in 6 days". */
export function ago(unix) {
	const seconds = unix - Date.now() / 1000;
	const [size, unit] = SPANS.find(([size]) => Math.abs(seconds) >= size) ?? SPANS.at(-1);
	return relative.format(Math.trunc(seconds / size), unit);
}

/** Unix seconds → local date and time. */
export function moment(unix) {
	return new Date(unix * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** Milliseconds since the epoch → local time of day. */
export const clock = (at) => new Date(at).toLocaleTimeString("en-GB");

/** A node id in little room: its end differs, its start doesn't. */
export const shortId = (id) => (id.length > 12 ? `…${id.slice(-8)}` : id);

/** "tcp:22" → { protocol: "tcp", first: 22, last: 22 }. */
export function parseRule(rule) {
	const [protocol, ports] = rule.split(":");
	const [first, last] = ports.split("-").map(Number);
	return { protocol, first, last: last ?? first };
}

/** "[fd12::1]:22" or "198.18.0.1:22" → { ip, port }. */
export function parseSocket(text) {
	const colon = text.lastIndexOf(":");
	return { ip: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
}

/** IP protocol numbers that have a name here. */
export const protocolName = (number) => ({ 1: "icmp", 6: "tcp", 17: "udp", 58: "icmp" })[number] ?? `proto ${number}`;
