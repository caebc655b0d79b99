// The drops page: what was dropped as it happens, and how much by reason.
//
// Owns the filter and the pause. Must not know why: the reasons have their texts, and explain.js asks.

import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { clock, compact, count, parseSocket, protocolName } from "./format.js";
import { icon } from "./icons.js";
import { askSheet, dropSheet } from "./explain.js";
import { store } from "./store.js";
import { reasonName, reasons, t } from "./texts.js";
import { button, empty, panel } from "./ui.js";

const SHOWN = 40;
const state = { only: null, held: null, shown: SHOWN };

export const drops = { view };

const isPass = (reason) => reason.startsWith("pass-");

function view() {
	const entries = Object.entries(store.counters);
	const dropped = entries.filter(([reason]) => !isPass(reason)).sort((a, b) => b[1] - a[1]);
	const passed = entries.filter(([reason]) => isPass(reason)).sort((a, b) => b[1] - a[1]);
	const total = (list) => list.reduce((sum, [, number]) => sum + number, 0);
	const head = h("div", { class: "page-head", key: "head" }, [
		h("h1", { tabindex: -1 }, t.nav.drops),
		h("p", { class: "summary" }, t.drops.summary(count(total(dropped)), count(total(passed)))),
		h("div", { class: "actions" }, button(t.explain.ask, () => openDialog(askSheet()), { glyph: "info" })),
	]);
	if (dropped.length === 0 && store.drops.length === 0) return [head, empty("drops", t.drops.none, t.drops.noneHint)];
	return [head, h("div", { class: "split", key: "split" }, counters(dropped, passed), feed())];
}

function counters(dropped, passed) {
	const top = dropped[0]?.[1] ?? 1;
	const more = h("details", { key: "passed" }, h("summary", null, t.drops.passed), bars(passed, passed[0]?.[1] ?? 1, "passed"));
	return panel(t.drops.byReason, null, bars(dropped, top, "dropped"), passed.length > 0 && more);
}

function bars(list, top, kind) {
	return h("ul", { class: `bars ${kind}` }, list.map(([reason, number]) => h("li", { key: reason }, kind === "dropped" ? choice(reason, number, top) : h("div", { class: "bar" }, bar(reason, number, top)))));
}

function choice(reason, number, top) {
	const onclick = () => (state.only = state.only === reason ? null : reason);
	return h("button", { type: "button", class: "bar", "aria-pressed": String(state.only === reason), title: reasons[reason]?.[1], onclick }, bar(reason, number, top));
}

/** By logarithm: one reason in a million must be seen beside the flood. */
function bar(reason, number, top) {
	const share = Math.log10(number + 1) / Math.log10(top + 1);
	return [h("span", { class: "bar-name" }, reasonName(reason)), h("span", { class: "bar-count" }, compact(number)), h("span", { class: "bar-line" }, h("span", { style: { width: `${Math.max(2, 100 * share)}%` } }))];
}

function feed() {
	const all = state.held ?? store.drops;
	const found = state.only ? all.filter(({ drop }) => drop.reason === state.only) : all;
	const waiting = state.held ? store.drops.length - state.held.length : 0;
	const hold = () => (state.held = state.held ? null : store.drops);
	const actions = [
		state.only && button(t.drops.allReasons, () => (state.only = null), { kind: "ghost", glyph: "close" }),
		button(state.held ? t.drops.resume(waiting) : t.drops.pause, hold, { glyph: state.held ? "play" : "pause" }),
	];
	const list = found.slice(0, state.shown).map(row);
	const body = list.length > 0 ? h("ul", { class: "feed" }, list) : h("p", { class: "loading" }, t.drops.nothing);
	return panel(t.drops.feed, actions, body, found.length > state.shown && button(t.drops.older(found.length - state.shown), () => (state.shown += 5 * SHOWN), { kind: "ghost" }));
}

function row({ id, at, drop }) {
	const [from, to] = [parseSocket(drop.from), parseSocket(drop.to)];
	const icmp = protocolName(drop.protocol) === "icmp";
	const ends = [h("code", null, from.ip), icon("arrow", 13), h("code", null, icmp ? to.ip : drop.to)];
	return h("li", { key: id }, h("button", { type: "button", class: "drop", onclick: () => openDialog(dropSheet(drop)) }, [
		h("span", { class: "drop-time" }, at ? clock(at) : t.drops.before),
		h("span", { class: "drop-reason" }, reasonName(drop.reason)),
		h("span", { class: "drop-way" }, `${t.drops.directions[drop.direction] ?? drop.direction} · ${protocolName(drop.protocol).toUpperCase()}`),
		h("span", { class: "drop-ends" }, ends, drop.peer && h("span", { class: "soft" }, drop.peer)),
		h("span", { class: "drop-count" }, drop.count > 1 && `×${count(drop.count)}`),
	]));
}
