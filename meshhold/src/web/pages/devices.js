// The sheet "Mesh devices": LAN devices without MeshHold that this node fronts. Added, removed, looked at.
//
// Owns the form. Must not know how devices are translated.

import { api } from "./api.js";
import { dialogForm } from "./dialog.js";
import { h, redraw } from "./dom.js";
import { icon } from "./icons.js";
import { canWrite, store } from "./store.js";
import { t } from "./texts.js";
import { announce, button, copyable, facts, failure, field, notice, pill, textInput } from "./ui.js";

/** How long the question "really?" stands. */
const SURE_MS = 4_000;

/** The sheet. */
export function devicesSheet() {
	const form = { name: "", target: "", error: null, busy: false, removing: null, trouble: null };
	const sheet = { sheet: true, title: t.devices.title, dirty: () => Boolean(form.name || form.target) };
	sheet.body = () => {
		const list = devices();
		const rows = list.length > 0 ? h("ul", { class: "devices" }, list.map((device) => row(device, form))) : h("p", { class: "closed" }, icon("device", 16), t.devices.none);
		return h("div", { class: "sheet-body" }, [h("p", { class: "lead" }, t.devices.lead), lacks(), failure(form.trouble), rows, canWrite() && adding(sheet, form)]);
	};
	return sheet;
}

/** One entry a device, with its addresses in each network. */
function devices() {
	const byName = new Map();
	for (const network of store.status?.networks ?? []) {
		for (const device of network.devices) {
			const known = byName.get(device.name) ?? { ...device, addresses: [] };
			known.addresses.push({ network: network.name, ipv4: device.ipv4, ipv6: device.ipv6 });
			byName.set(device.name, known);
		}
	}
	return [...byName.values()];
}

const lacks = () => store.status?.networks.length === 0 && notice("info", h("p", null, t.devices.noNetwork));

function row(device, form) {
	const badge = device.origin === "config" && h("span", { class: "pill", title: t.devices.configHint }, t.devices.config);
	const ready = device.state === "ready";
	const head = h("div", { class: "device-head" }, h("h3", null, device.name), badge, canWrite() && device.origin !== "config" && removal(device, form));
	const state = h("span", { class: `state ${ready ? "connected" : "failed"}` }, h("span", { class: "dot" }), t.devices.states[device.state]);
	const lines = [[t.devices.target, h("code", null, device.target)], [t.devices.state, state], ...device.addresses.map((at) => [at.network, addresses(device, at)])];
	return h("li", { class: "device", key: device.name }, head, facts(lines));
}

const addresses = (device, { ipv4, ipv6 }) => h("div", { class: "stack" }, ipv4 && copyable(ipv4, t.addressOf(device.name)), copyable(ipv6, t.addressOf(device.name)));

/** The second click removes. */
function removal(device, form) {
	const sure = form.removing === device.name;
	const label = sure ? t.devices.sure : t.devices.remove;
	return button(label, () => (sure ? remove(device, form) : ask(device, form)), { kind: sure ? "danger" : "ghost", glyph: "trash", "aria-label": t.devices.removeOf(label, device.name) });
}

function ask(device, form) {
	form.removing = device.name;
	announce(t.devices.sureSaid(device.name));
	setTimeout(() => {
		if (form.removing === device.name) form.removing = null;
		redraw();
	}, SURE_MS);
}

async function remove(device, form) {
	Object.assign(form, { removing: null, trouble: null });
	try {
		await api.removeDevice(device.name);
		announce(t.devices.removed(device.name));
	} catch (error) {
		form.trouble = error;
	}
}

function adding(sheet, form) {
	const name = textInput(form, "name", { maxlength: 64, placeholder: t.devices.namePlaceholder });
	const target = textInput(form, "target", { placeholder: "192.168.1.40", inputmode: "url", spellcheck: "false" });
	const content = [h("h3", null, t.devices.add), failure(form.error), field(t.devices.name, name, { hint: t.devices.nameHint }), field(t.devices.target, target, { hint: t.devices.targetHint })];
	const submit = async () => {
		await api.addDevice({ name: form.name.trim(), target: form.target.trim() });
		announce(t.devices.added(form.name));
		Object.assign(form, { name: "", target: "" });
	};
	const disabled = !form.name.trim() || !form.target.trim();
	return h("section", { class: "sheet-section", key: "adding" }, dialogForm(sheet, form, content, { action: t.devices.addAction, submit, disabled }));
}
