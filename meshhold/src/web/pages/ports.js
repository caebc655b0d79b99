// The table "Open local ports (mesh)": rows that are edited, and what listens on each port.
//
// Owns how a port scope is read from rows and shown as rows. Must not know keys or networks.

import { h } from "./dom.js";
import { parseRule } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";
import { t } from "./texts.js";
import { button } from "./ui.js";

/** UDP sockets above are mostly a program's own outgoing ones. */
const UDP_SERVICES = 32_767;
const SUGGESTED = 8;
let rowId = 0;

/** Rows of a scope. */
export const toRows = (allow) => allow.map((rule) => newRow(rule.split(":")[0], rule.split(":")[1]));

const newRow = (protocol, ports) => ({ id: ++rowId, protocol, ports });

/** What is wrong with a row; null where nothing is. */
function mistake({ ports }) {
	const match = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec(ports);
	if (!match) return t.ports.noNumber;
	const [first, last] = [Number(match[1]), Number(match[2] ?? match[1])];
	if (first < 1 || last > 65_535) return t.ports.outside;
	return first > last ? t.ports.reversed : null;
}

/** The scope of rows; null where one is no good. */
export function fromRows(rows) {
	if (rows.some(mistake)) return null;
	const rules = rows.map(({ protocol, ports }) => `${protocol}:${ports.replace(/\s/g, "").replace("–", "-")}`);
	return [...new Set(rules)];
}

/** Two scopes with the same rules in any order. */
export const sameScope = (a, b) => a.length === b.length && [...a].sort().join() === [...b].sort().join();

/** Local sockets that wait on a rule's ports. */
export function listening(rule, listeners) {
	const { protocol, first, last } = parseRule(rule);
	return (listeners ?? []).filter((one) => one.protocol === protocol && one.port >= first && one.port <= last);
}

/** Whether packets from the mesh get there: by loopback, by any address, or by a mesh address. */
function isReached({ address }) {
	const own = store.status?.networks.flatMap((network) => [network.ipv4, network.ipv6]) ?? [];
	return /^(127\.|0\.0\.0\.0$|::1?$|::ffff:(127\.|0\.0\.0\.0))/.test(address) || own.includes(address);
}

/** Names of the programs behind sockets. */
const programs = (sockets) => [...new Set(sockets.map((one) => one.program ?? t.ports.someProgram))].slice(0, 3).join(", ");

/** What listens behind a rule, in a word or two: `{ text, tone }`. */
export function service(rule, listeners) {
	if (!listeners) return { text: "", tone: "soft" };
	const found = listening(rule, listeners);
	const reached = found.filter(isReached);
	if (reached.length > 0) return { text: programs(reached), tone: "good-text" };
	if (found.length > 0) return { text: t.ports.wrongAddress(programs(found), found[0].address), tone: "warn-text" };
	return { text: t.ports.nobody, tone: "soft" };
}

/** The editor of `form.ports`. */
export function portsEditor(form, listeners) {
	const heads = [t.ports.protocol, t.ports.port, t.ports.service].map((label) => h("th", { scope: "col" }, label));
	const body = form.ports.map((row, index) => line(form, row, index, listeners));
	const add = button(t.ports.add, () => addRow(form, newRow("tcp", "")), { glyph: "plus", key: "add" });
	return h("fieldset", { class: "ports", key: "ports" }, [
		h("legend", null, t.ports.title),
		h("p", { class: "hint" }, t.ports.hint),
		form.ports.length > 0
			? h("table", { class: "ports-table" }, h("thead", null, h("tr", null, heads, h("th", null, h("span", { class: "sr" }, t.ports.remove)))), h("tbody", null, body))
			: h("p", { class: "closed" }, icon("lock", 16), t.ports.closed),
		h("div", { class: "actions" }, add),
		suggestions(form, listeners),
	]);
}

function addRow(form, row) {
	form.ports.push(row);
	form.focus = row.id;
}

function line(form, row, index, listeners) {
	const wrong = row.ports.trim() && mistake(row);
	const number = index + 1;
	const select = h(
		"select",
		{ "aria-label": t.ports.protocolOf(number), value: row.protocol, onchange: (event) => (row.protocol = event.target.value) },
		["tcp", "udp"].map((name) => h("option", { value: name }, name.toUpperCase())),
	);
	const input = h("input", {
		type: "text",
		inputmode: "numeric",
		autocomplete: "off",
		size: 12,
		placeholder: t.ports.example,
		"aria-label": t.ports.portOf(number),
		"aria-invalid": wrong ? "true" : null,
		value: row.ports,
		oninput: (event) => (row.ports = event.target.value),
		oncreate: (element) => form.focus === row.id && element.focus(),
	});
	const found = wrong ? { text: wrong, tone: "bad-text" } : mistake(row) ? { text: "", tone: "" } : service(fromRows([row])[0], listeners);
	const label = t.ports.removeOf(row.ports || number);
	const remove = { type: "button", class: "icon-button", "aria-label": label, title: label, onclick: () => (form.ports = form.ports.filter((other) => other !== row)) };
	return h("tr", { key: row.id }, h("td", null, select), h("td", null, input), h("td", { class: `service ${found.tone}` }, found.text), h("td", null, h("button", remove, icon("close", 16))));
}

/** Services that run here and aren't open: one click each. */
function suggestions(form, listeners) {
	const rules = fromRows(form.ports.filter((row) => !mistake(row)));
	const isOpen = (one) => rules.some((rule) => listening(rule, [one]).length > 0);
	const wanted = (one) => isReached(one) && one.program !== "meshhold" && !isOpen(one) && (one.protocol === "tcp" || one.port <= UDP_SERVICES);
	const offers = new Map((listeners ?? []).filter(wanted).map((one) => [`${one.protocol}:${one.port}`, one]));
	if (offers.size === 0) return null;
	const chip = ([rule, one]) =>
		h("button", { type: "button", class: "chip", key: rule, onclick: () => form.ports.push(newRow(one.protocol, String(one.port))) }, icon("plus", 13), `${one.program ?? t.ports.someProgram} `, h("code", null, rule));
	return h("div", { class: "chips", role: "group", "aria-label": t.ports.suggested, key: "chips" }, h("span", { class: "soft" }, t.ports.suggested), [...offers].slice(0, SUGGESTED).map(chip));
}
