// How anything gets onto the page: h() describes elements, render() changes only what differs from the last description.
//
// Owns that difference and the order of redraws. Must not know what is shown. Texts become text nodes and attributes
// are set one by one, so nothing that comes from outside is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const shown = new WeakMap();

/** Describes an element. Children: descriptions, texts, numbers, lists of these; null and booleans are left out. */
export function h(tag, props, ...children) {
	return { tag, props: props ?? {}, children: flatten(children), node: null };
}

function flatten(children) {
	const kept = children.flat(Infinity).filter((child) => child != null && typeof child !== "boolean");
	return kept.map((child) => (typeof child === "object" ? child : { text: String(child), node: null }));
}

/** Hooks of new elements: they run when all is in its place. */
let created = [];

/** Brings `parent`'s children to what is described. */
export function render(parent, ...children) {
	const next = flatten(children);
	patchChildren(parent, shown.get(parent) ?? [], next);
	shown.set(parent, next);
	const hooks = created;
	created = [];
	hooks.forEach((hook) => hook());
}

/** Names each child among its siblings: by its tag and key, and by its place among those with the same. */
function identities(children) {
	const counts = new Map();
	return children.map((child) => {
		const name = `${child.tag ?? ""}=${child.props?.key ?? ""}`;
		const count = counts.get(name) ?? 0;
		counts.set(name, count + 1);
		return `${name}#${count}`;
	});
}

function patchChildren(parent, old, next) {
	const known = new Map();
	identities(old).forEach((name, index) => known.set(name, old[index]));
	const names = identities(next);
	const kept = new Set(names);
	known.forEach((child, name) => kept.has(name) || remove(child));
	let place = parent.firstChild;
	next.forEach((child, index) => {
		const before = known.get(names[index]);
		known.delete(names[index]);
		before ? update(child, before) : create(child, parent);
		if (child.node === place) place = place.nextSibling;
		else parent.insertBefore(child.node, place);
		if (!before && child.props?.oncreate) created.push(() => child.props.oncreate(child.node));
	});
}

function remove(child) {
	removed(child);
	child.node.remove();
}

function removed(child) {
	child.props?.onremove?.(child.node);
	child.children?.forEach(removed);
}

function create(child, parent) {
	if (child.text !== undefined) {
		child.node = document.createTextNode(child.text);
		return;
	}
	const svg = child.tag === "svg" || parent.namespaceURI === SVG;
	child.node = svg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
	patchChildren(child.node, [], child.children);
	patchProps(child.node, {}, child.props);
}

function update(child, before) {
	child.node = before.node;
	if (child.text !== undefined) {
		if (child.text !== before.text) child.node.data = child.text;
		return;
	}
	patchChildren(child.node, before.children, child.children);
	patchProps(child.node, before.props, child.props);
}

const HOOKS = new Set(["key", "oncreate", "onremove"]);

function patchProps(node, old, next) {
	for (const name of Object.keys(old)) if (!(name in next)) setProp(node, name, null);
	for (const [name, value] of Object.entries(next)) {
		if (name === "value" || name === "checked") setLive(node, name, value);
		else if (value !== old[name] || name === "style") setProp(node, name, value);
	}
}

/** What the user may have changed since: compared with the element itself. */
function setLive(node, name, value) {
	if (node[name] !== value) node[name] = value;
}

function setProp(node, name, value) {
	if (HOOKS.has(name)) return;
	if (name.startsWith("on")) node[name] = value ? (event) => handled(value(event)) : null;
	else if (name === "style") Object.assign(node.style, value);
	else if (value == null || value === false) node.removeAttribute(name);
	else node.setAttribute(name, value === true ? "" : value);
}

async function handled(outcome) {
	redraw();
	if (outcome instanceof Promise) {
		await outcome;
		redraw();
	}
}

let root = null;
let view = null;
let scheduled = false;

/** Shows what `describe` says in `element`, now and at each redraw. */
export function start(element, describe) {
	[root, view] = [element, describe];
	render(root, view());
}

/** Something changed: draws before the next frame, once for all that changed until then. */
export function redraw() {
	if (scheduled || !view) return;
	scheduled = true;
	requestAnimationFrame(() => {
		scheduled = false;
		render(root, view());
	});
}
