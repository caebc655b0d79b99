// Light, dark, or as the system says. Runs before the first paint, so that nothing flashes: a plain script, no module.
//
// Owns the choice and where it is kept. Must not know the pages: they call window.theme.

window.theme = {
	get choice() {
		try {
			return localStorage.getItem("theme") ?? "auto";
		} catch {
			return document.documentElement.dataset.theme ?? "auto";
		}
	},
	set choice(name) {
		this.apply(name);
		try {
			localStorage.setItem("theme", name);
		} catch {
			// Storage is off: the choice holds for this page.
		}
	},
	apply(name) {
		if (name === "light" || name === "dark") document.documentElement.dataset.theme = name;
		else delete document.documentElement.dataset.theme;
	},
};
window.theme.apply(window.theme.choice);
