// The health page: what the doctor finds, how packets are handled, what the world looks like from here, who is logged in.
//
// Owns what is asked and when. Must not know how any of it is found out.

import { api } from "./api.js";
import { h } from "./dom.js";
import { ago, bytes, compact, count, moment, ms, shortId } from "./format.js";
import { icon } from "./icons.js";
import { resource } from "./resource.js";
import { canWrite, store } from "./store.js";
import { t } from "./texts.js";
import { announce, button, copyButton, facts, panel, pill, sentence, table, warnings } from "./ui.js";

const doctor = resource(api.doctor);
const version = resource(api.version);
const programs = resource(api.programs);
const netcheck = resource(api.netcheck);
const sessions = resource(api.sessions);
const audit = resource(api.audit);
const ALL = [doctor, version, programs, netcheck, sessions, audit];
const AUDIT_SHOWN = 15;
const state = { allAudit: false };

export const health = { view, enter };

/** Asked when the page is opened, and on demand. */
function enter() {
	if (store.session) ALL.forEach((one) => one.load());
}

function view() {
	if (ALL.every((one) => one.data == null && one.error == null && !one.busy)) enter();
	const again = button(t.health.again, enter, { glyph: "refresh", disabled: doctor.busy });
	return [
		h("div", { class: "page-head", key: "head" }, h("h1", { tabindex: -1 }, t.nav.health), h("p", { class: "summary" }, verdict()), h("div", { class: "actions" }, again)),
		panel(t.health.findings, null, warnings(store.status.warnings), doctor.view(findings)),
		h("div", { class: "halves", key: "halves" }, panel(t.health.datapath, null, datapath(store.status)), panel(t.health.world, null, netcheck.view(world))),
		panel(t.health.programs, null, programs.view(costs)),
		panel(t.health.sessions, null, sessions.view(who)),
		panel(t.health.audit, null, audit.view(log)),
	];
}

function verdict() {
	if (!doctor.data) return doctor.busy ? t.health.examining : "";
	const found = (severity) => doctor.data.filter((one) => one.severity === severity).length;
	return t.health.verdict(found("error"), found("warning") + store.status.warnings.length);
}

const ORDER = { error: 0, warning: 1, ok: 2 };

function findings(list) {
	const sorted = [...list].sort((a, b) => ORDER[a.severity] - ORDER[b.severity]);
	const bad = sorted.filter((one) => one.severity !== "ok");
	const good = sorted.filter((one) => one.severity === "ok");
	return [
		h("ul", { class: "findings" }, bad.map(finding)),
		bad.length === 0 && h("p", { class: "all-well" }, icon("ok"), t.health.allWell),
		h("details", { key: "good" }, h("summary", null, t.health.checked(good.length)), h("ul", { class: "findings" }, good.map(finding))),
	];
}

function finding({ check, severity, summary, remedy }) {
	const mend = remedy && h("div", { class: "remedy" }, h("code", null, remedy), copyButton(remedy, t.health.remedyOf(check)));
	const text = h("div", null, h("h3", null, check, h("span", { class: "sr" }, ` (${t.health.severity[severity]})`)), sentence(summary), mend);
	return h("li", { class: `finding ${severity}`, key: check + summary }, icon(severity), text);
}

function datapath({ datapath, dns, relay, interface: device }) {
	const tone = { ebpf: "good", userspace: "relay", off: "bad" }[datapath.mode];
	return [
		facts([
			[t.health.mode, [pill(t.health.modes[datapath.mode], tone), datapath.hook && h("span", { class: "soft" }, ` ${datapath.hook}`)]],
			[t.health.interface, h("code", null, device)],
			[t.health.workers, String(datapath.workers)],
			[t.health.translations, count(datapath.translations)],
			[t.health.dns, dns.server ? [h("code", null, `.${dns.suffix}`), " ", h("span", { class: dns.handed_over ? "soft" : "warn-text" }, dns.handed_over ? t.health.handedOver : t.health.notHandedOver(dns.server))] : t.health.noDns],
			[t.health.relay, relay.enabled ? t.health.relaying(relay.count, relay.kernel) : t.health.noRelay],
		]),
		relay.legs.length > 0 && legs(relay),
		version.view((data) => facts([[t.health.version, data.version], [t.health.kernel, data.kernel]])),
	];
}

function legs({ legs, count: all }) {
	const rows = legs.map((leg) => [h("code", null, `${leg.from} → ${leg.to}`), leg.by, bytes(leg.bytes), compact(leg.over_rate)]);
	return h("details", { key: "legs" }, h("summary", null, t.health.legs(all)), table(t.health.relay, t.health.legColumns, rows, [2, 3]));
}

function world(data) {
	const relays = data.relays.map((relay) => h("li", { key: relay.node_id }, h("code", { title: relay.node_id }, shortId(relay.node_id)), ` ${ms(relay.rtt_ms)}`));
	const udp = data.udp == null ? t.health.udpUnknown : data.udp ? t.health.udpWorks : t.health.udpBlocked;
	return facts([
		[t.health.nat, [t.health.nats[data.nat] ?? data.nat]],
		[t.health.udp, h("span", { class: data.udp === false ? "bad-text" : "" }, udp)],
		[t.health.mapped, data.mapped.length > 0 ? h("div", { class: "stack" }, data.mapped.map((address) => h("code", { key: address }, address))) : t.none],
		[t.health.relays, relays.length > 0 ? h("ul", { class: "plain" }, relays) : t.health.noRelays],
		[t.health.mapping, data.port_mapping ? [`${data.port_mapping.protocol} `, h("code", null, data.port_mapping.external)] : t.none],
		[t.health.mtu, data.path_mtu ? t.health.bytes(data.path_mtu) : t.none],
	]);
}

function costs(list) {
	if (list.length === 0) return h("p", { class: "soft" }, t.health.noPrograms);
	if (!list.some((one) => one.runs)) return [h("p", { class: "soft" }, t.health.notCounted), h("p", null, list.map((one) => h("code", { key: one.name }, one.name, " ")))];
	const top = Math.max(...list.map((one) => one.mean_ns), 1);
	const bar = (value) => h("span", { class: "cost" }, h("span", { class: "cost-bar", style: { width: `${(100 * value) / top}%` } }));
	const rows = list.map((one) => [h("code", null, one.name), one.hook, compact(one.runs), [t.health.ns(Math.round(one.mean_ns)), bar(one.mean_ns)]]);
	return table(t.health.programs, t.health.programColumns, rows, [2, 3]);
}

function who(list) {
	const end = (session) => {
		if (session.current) return pill(t.health.thisSession, "good");
		return canWrite() && button(t.health.revoke, () => revoke(session), { kind: "ghost", "aria-label": t.health.revokeOf(session.source) });
	};
	const rows = list.map((one) => [h("code", null, one.source), t.health.how[one.how] ?? one.how, ago(one.since), moment(one.expires), end(one)]);
	return table(t.health.sessions, t.health.sessionColumns, rows);
}

async function revoke(session) {
	try {
		await api.revoke(session.id);
		announce(t.health.revoked);
	} catch (error) {
		sessions.error = error;
	}
	await sessions.load();
}

function log(list) {
	if (list.length === 0) return h("p", { class: "soft" }, t.health.noAudit);
	const shown = state.allAudit ? list : list.slice(0, AUDIT_SHOWN);
	const rows = shown.map((one) => [h("time", { title: moment(one.at) }, ago(one.at)), one.action, one.who, h("code", null, one.source), one.outcome]);
	const more = shown.length < list.length && button(t.health.allAudit(list.length), () => (state.allAudit = true), { kind: "ghost" });
	return [table(t.health.audit, t.health.auditColumns, rows), more];
}
